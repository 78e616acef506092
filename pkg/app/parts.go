package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/urfave/cli/v2"

	"imagetasks/pkg/lang"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

// databasePatience is how long a start waits for a database that is just coming up.
const databasePatience = 10 * time.Second

// OpenStore returns the store, connected, with the schema that this program knows.
func (a *App) OpenStore(ctx context.Context, s settings.Settings) (*store.Store, error) {
	st, err := a.ConnectStore(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := st.CheckSchema(ctx); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return st, nil
}

// WithStore does something with the database that the settings name, until a signal comes.
func (a *App) WithStore(c *cli.Context, do func(context.Context, settings.Settings, *store.Store) error) error {
	if err := NoArguments(c); err != nil {
		return err
	}
	s, err := a.Load(c)
	if err != nil {
		return err
	}
	ctx, stop := a.UntilSignal(c.Context, nil)
	defer stop()
	st, err := a.OpenStore(ctx, s)
	if err != nil {
		return err
	}
	defer st.Close()
	return do(ctx, s, st)
}

// NewStore returns the store, not connected.
func (a *App) NewStore(s settings.Settings) (*store.Store, error) {
	st, err := store.Open(store.Config{
		URL:             s.DatabaseURL,
		Tables:          store.Tables{Tasks: s.TasksTable, Credits: s.CreditsTable},
		ApplicationName: "imagetasks",
		MaxConns:        min(4+s.Concurrency/4, 16),
	})
	if err != nil {
		return nil, &settings.Error{Name: "DATABASE_URL", Reason: err.Error()}
	}
	return st, nil
}

// ConnectStore returns the store, connected, whatever its schema.
func (a *App) ConnectStore(ctx context.Context, s settings.Settings) (*store.Store, error) {
	st, err := a.NewStore(s)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(databasePatience)
	for {
		err := st.Ping(ctx)
		if err == nil {
			return st, nil
		}
		if !store.IsUnavailable(err) || time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("the database does not answer: %w; check DATABASE_URL and that PostgreSQL runs", err), st.Close())
		}
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// PrintJSON writes a document to stdout.
func (a *App) PrintJSON(v any) error {
	enc := json.NewEncoder(a.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// Printf writes to stdout.
func (a *App) Printf(format string, args ...any) {
	fmt.Fprintf(a.Stdout, format, args...)
}

// Print writes a line to stdout in the language that the operator asks for.
func (a *App) Print(c *cli.Context, text lang.Text, args ...any) error {
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	a.Printf("%s\n", text.In(l, args...))
	return nil
}

// UserID checks a user's id.
func UserID(text string) (string, error) {
	if text == "" {
		return "", Usagef("--user is missing; it takes the user's UUID")
	}
	id, err := uuid.Parse(text)
	if err != nil {
		return "", Usagef("--user %q is not a UUID", text)
	}
	return id.String(), nil
}
