package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

const (
	// bridgeConns is how many connections a bridge needs in addition. Without one they are not made.
	bridgeConns = 4
	// databaseWait is how long a program waits at its start for a database that is starting up.
	databaseWait = 10 * time.Second
	// interruptGrace is how long statements get to end after an interrupt; then their connections are closed.
	interruptGrace = time.Second
)

// OpenStore connects to the database and checks that it has the schema that this program knows. Once ctx is done, calls get
// a second to end; then they fail, whatever the database does.
func (a *App) OpenStore(ctx context.Context, s settings.Settings) (*store.Store, error) {
	st, err := a.NewStore(ctx, s)
	if err != nil {
		return nil, err
	}
	return open(ctx, st, checkedSchema)
}

// OpenProcessorStore is OpenStore for a processor: once it returned, the end of ctx closes no connection, because tasks that
// were claimed are still to be recorded. See AbortWhenIdle.
func (a *App) OpenProcessorStore(ctx context.Context, s settings.Settings) (*store.Store, error) {
	st, err := a.newStore(s, false)
	if err != nil {
		return nil, err
	}
	stop := abortAfter(ctx, st)
	if st, err = open(ctx, st, checkedSchema); err != nil {
		return nil, err
	}
	if !stop() { // ctx ended at the last moment
		return nil, errors.Join(ctx.Err(), st.Close())
	}
	return st, nil
}

// ConnectStore connects to the database, whatever its schema. The end of ctx ends calls as in OpenStore.
func (a *App) ConnectStore(ctx context.Context, s settings.Settings) (*store.Store, error) {
	st, err := a.NewStore(ctx, s)
	if err != nil {
		return nil, err
	}
	return open(ctx, st, anySchema)
}

// NewStore returns the store without connecting. The end of ctx ends calls as in OpenStore.
func (a *App) NewStore(ctx context.Context, s settings.Settings) (*store.Store, error) {
	return a.newAbortedStore(ctx, s, false)
}

// NewPassStore is NewStore for a program that calls OpenPassStore next: it begins to connect at once.
func (a *App) NewPassStore(ctx context.Context, s settings.Settings) (*store.Store, error) {
	return a.newAbortedStore(ctx, s, true)
}

// OpenPassStore is OpenStore for a store of NewPassStore. answers has what a pass of the monitor is going to ask, if that could be read ahead; then
// it is for the pass, and st for all else. The caller closes answers only.
func OpenPassStore(ctx context.Context, st *store.Store, p store.PassQuestions) (answers *store.Store, err error) {
	if answers, err := st.ReadAhead(ctx, p); err == nil && answers.CheckAccess(ctx) == nil {
		return answers, nil
	}
	return open(ctx, st, checkedSchema)
}

func (a *App) newAbortedStore(ctx context.Context, s settings.Settings, ahead bool) (*store.Store, error) {
	st, err := a.newStore(s, ahead)
	if err == nil {
		abortAfter(ctx, st)
	}
	return st, err
}

func (a *App) newStore(s settings.Settings, ahead bool) (*store.Store, error) {
	st, err := store.Open(store.Config{
		URL:             s.DatabaseURL,
		Schema:          s.DatabaseSchema,
		Env:             a.Env,
		Warn:            a.warnOfURL,
		ApplicationName: "imagetasks",
		MaxConns:        min(4+s.Concurrency/4, 16) + bridgeConns,
		ConnectAhead:    ahead,
	})
	if err != nil {
		if s.DatabaseURL == "" && a.supabaseHint != "" {
			return nil, &settings.Error{Name: "DATABASE_URL", Reason: a.supabaseHint}
		}
		name := "DATABASE_URL"
		if _, ok := errors.AsType[*store.SchemaNameError](err); ok {
			name = "DATABASE_SCHEMA"
		}
		return nil, &settings.Error{Name: name, Reason: err.Error()}
	}
	return st, nil
}

// warnOfURL prints what store.Open has to say about DATABASE_URL, once in the life of the program.
func (a *App) warnOfURL(message string) {
	if !a.quiet && a.warnedOfURL.CompareAndSwap(false, true) {
		a.Warn(message)
	}
}

// abortAfter closes the store's connections a moment after ctx is done, unless stop is called before; stop reports whether
// it was in time.
func abortAfter(ctx context.Context, st *store.Store) (stop func() bool) {
	return context.AfterFunc(ctx, func() { time.AfterFunc(interruptGrace, st.Abort) })
}

const anySchema, checkedSchema = false, true

// open waits until the database responds, and closes the store where it does not.
func open(ctx context.Context, st *store.Store, checkSchema bool) (*store.Store, error) {
	err := waitForDatabase(ctx, st)
	if err == nil && checkSchema {
		err = st.CheckAccess(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return st, nil
}

func waitForDatabase(ctx context.Context, st *store.Store) error {
	deadline := time.Now().Add(databaseWait)
	for {
		err := ping(ctx, st)
		if err == nil {
			return nil
		}
		if !store.IsUnavailable(err) && !store.IsTransient(err) || time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("the database does not respond: %w; check DATABASE_URL, and that PostgreSQL is running", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// ping asks the database once. A server that accepts connections and stays silent must not use up more than the whole wait.
func ping(ctx context.Context, st *store.Store) error {
	ctx, cancel := context.WithTimeout(ctx, databaseWait)
	defer cancel()
	return st.Ping(ctx)
}

// AbortWhenIdle closes the store's connections once ctx is done and nothing was in flight for a second: what a processor
// still asks of the database then may be lost, and a database that does not respond must not delay its exit. The caller calls
// stop when the processor has ended.
func AbortWhenIdle(ctx context.Context, st *store.Store, inFlight func() int) (stop func()) {
	ended, finished := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		tick := time.NewTicker(interruptGrace / 10)
		defer tick.Stop()
		for idle := 0; idle < 10; {
			select {
			case <-ended:
				return
			case <-tick.C:
			}
			if idle++; inFlight() > 0 {
				idle = 0
			}
		}
		st.Abort()
	}()
	return func() {
		close(ended)
		<-finished
	}
}

// WithStore calls do with the database that the settings name; its context ends at the first signal.
func (a *App) WithStore(c *cli.Context, do func(context.Context, settings.Settings, *store.Store) error) error {
	return a.withStore(c, a.OpenStore, do)
}

// WithAnySchema is WithStore for a database whose schema may be missing or of another version.
func (a *App) WithAnySchema(c *cli.Context, do func(context.Context, settings.Settings, *store.Store) error) error {
	return a.withStore(c, a.ConnectStore, do)
}

func (a *App) withStore(c *cli.Context, open func(context.Context, settings.Settings) (*store.Store, error),
	do func(context.Context, settings.Settings, *store.Store) error) error {
	if err := NoArguments(c); err != nil {
		return err
	}
	return a.withStoreAndArguments(c, open, do)
}

// WithStoreAndArguments is WithStore for a command that takes arguments, which it checks.
func (a *App) WithStoreAndArguments(c *cli.Context, do func(context.Context, settings.Settings, *store.Store) error) error {
	return a.withStoreAndArguments(c, a.OpenStore, do)
}

func (a *App) withStoreAndArguments(c *cli.Context, open func(context.Context, settings.Settings) (*store.Store, error),
	do func(context.Context, settings.Settings, *store.Store) error) error {
	s, err := a.Load(c)
	if err != nil {
		return err
	}
	ctx, stop := a.UntilSignal(c.Context, nil)
	defer stop()
	st, err := open(ctx, s)
	if err != nil {
		return err
	}
	defer st.Close()
	return do(ctx, s, st)
}
