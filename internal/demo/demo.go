// Package demo shows the whole system on one machine: a private PostgreSQL, the simulated API behind a
// simulated proxy with a password (or the operator's own API and proxy), tasks that succeed, fail
// and get stuck, and the books at the end.
package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"imagetasks/internal/postgres"
	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/progress"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/redact"
	"imagetasks/pkg/repair"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// The demo's own pace: everything that takes minutes in service takes seconds here.
const (
	granted     = 30
	taskTimeout = 6 * time.Second
	stuckAfter  = 10 * time.Second
	concurrency = 4
	bound       = 110 * time.Second
)

// Config says where the demo plays.
type Config struct {
	Dir      string // pictures, log and contact sheet stay here
	Out      io.Writer
	Terminal bool // Out shows a moving bar
	Log      logrus.FieldLogger
	LogFile  string // named at the end
	Redact   *redact.Redactor
	Lang     lang.Lang
	// API is the operator's own; nil: the simulated one behind the simulated proxy.
	API      processor.Generator
	APIRoute string // how API is reached, for people
}

// ErrUnexpected means that the demo ran and its books or pictures are not what they should be.
var ErrUnexpected = errors.New("the demo did not end as it should")

// stage is what the demo set up, to be taken down in reverse.
type stage struct {
	conf     Config
	store    *store.Store
	maker    processor.Generator
	pictures *picture.Store
	closers  []func() error
	carried  func() (calls, direct int) // requests that reached the simulated API, and past the proxy
	user     string
	began    time.Time
}

// Run plays the demo. It leaves pictures, contact sheet and log, and nothing that runs.
func Run(ctx context.Context, conf Config) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, bound, errors.New("the demo took too long"))
	defer cancel()
	if err := os.MkdirAll(conf.Dir, 0o755); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(conf.Dir, "lock"))
	free, err := lock.TryLock()
	if err != nil {
		return fmt.Errorf("lock the demo's directory: %w", err)
	}
	if !free {
		return errors.New("another demo runs here; wait for it, or stop it")
	}
	defer func() { err = errors.Join(err, lock.Unlock(), os.Remove(lock.Path())) }()

	s := &stage{conf: conf, user: uuid.NewString(), began: time.Now()}
	defer func() {
		for i := len(s.closers) - 1; i >= 0; i-- {
			err = errors.Join(err, s.closers[i]())
		}
	}()
	if err := s.setUp(ctx); err != nil {
		return interrupted(ctx, err)
	}
	before, err := s.play(ctx)
	if err != nil {
		return interrupted(ctx, err)
	}
	return interrupted(ctx, s.report(ctx, before))
}

// interrupted says plainly that an error came from being stopped.
func interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("the demo was stopped (%w); nothing of it runs on", context.Cause(ctx))
	}
	return err
}

func (s *stage) say(text lang.Text, args ...any) {
	fmt.Fprintln(s.conf.Out, text.In(s.conf.Lang, args...))
}

func (s *stage) later(f func() error) { s.closers = append(s.closers, f) }

// setUp starts the database, the API and the proxy.
func (s *stage) setUp(ctx context.Context) error {
	s.say(textStarting)
	for _, old := range []string{"postgres", "pictures", "contact-sheet.png"} {
		if err := os.RemoveAll(filepath.Join(s.conf.Dir, old)); err != nil {
			return err
		}
	}
	cluster, err := postgres.Start(ctx, postgres.Config{Dir: filepath.Join(s.conf.Dir, "postgres")})
	if err != nil {
		return err
	}
	s.later(cluster.Stop)
	if s.store, err = store.Open(store.Config{URL: cluster.URL("postgres"), ApplicationName: "imagetasks demo"}); err != nil {
		return err
	}
	s.later(s.store.Close)
	if _, err := s.store.Migrate(ctx); err != nil {
		return err
	}
	if s.pictures, err = picture.Open(filepath.Join(s.conf.Dir, "pictures"), "", 64<<20); err != nil {
		return err
	}
	if s.maker = s.conf.API; s.maker != nil {
		s.say(textReal, s.conf.APIRoute)
		return nil
	}
	return s.simulate()
}

// simulate starts the API and the proxy with a password made up for this run.
func (s *stage) simulate() error {
	authority, err := simapi.NewAuthority()
	if err != nil {
		return err
	}
	key, password := "demo-"+rand.Text(), rand.Text()
	api, err := simapi.Start(simapi.Config{Key: key, TLS: authority, Delay: 700 * time.Millisecond})
	if err != nil {
		return err
	}
	s.later(api.Close)
	door, err := simproxy.Start(simproxy.Config{User: "demo", Password: password})
	if err != nil {
		return err
	}
	s.later(door.Close)
	s.conf.Redact.Add(key)
	s.conf.Redact.AddURL(door.URL())
	transport, err := proxy.New(proxy.Config{Env: proxy.Env{OpenAI: []string{door.URL()}}, RootCAs: authority.Pool})
	if err != nil {
		return err
	}
	s.later(func() error { transport.CloseIdleConnections(); return nil })
	s.maker, err = imageapi.New(imageapi.Config{BaseURL: api.URL(), Key: key, Model: "gpt-image-2", Transport: transport, MaxBytes: 64 << 20})
	if err != nil {
		return err
	}
	s.carried = func() (calls, direct int) {
		for _, c := range api.Calls() {
			calls++
			if !door.Carried(c.Remote) {
				direct++
			}
		}
		return calls, direct
	}
	s.say(textSimulated)
	return nil
}

// play grants, enqueues and works; it returns the balance after the grant.
func (s *stage) play(ctx context.Context) (before int, err error) {
	before, err = s.store.GrantCredits(ctx, s.user, granted, "the demo's grant")
	if err != nil {
		return 0, err
	}
	if err := s.strand(ctx); err != nil {
		return 0, err
	}
	prompts := s.prompts()
	for _, prompt := range prompts {
		if _, err := s.store.Enqueue(ctx, store.NewTask{UserID: s.user, Prompt: prompt, Cost: 1}); err != nil {
			return 0, err
		}
	}
	total := len(prompts) + 1
	s.say(textGranted, before, total)

	bar := progress.New(s.conf.Out, s.conf.Terminal, total)
	defer bar.Close()
	p := processor.New(processor.Config{
		Worker: "demo", Concurrency: concurrency, TaskTimeout: taskTimeout, Lease: 6 * time.Second,
		Log: s.conf.Log, Redact: s.conf.Redact.String,
		Observe: func(e processor.Event) {
			if e.Kind == processor.EventCompleted || e.Kind == processor.EventFailed {
				bar.Add(1)
			}
		},
	}, s.store, s.maker, s.pictures)
	stop := context.AfterFunc(ctx, p.StopNow)
	defer stop()
	if err := p.RunOnce(ctx); err != nil {
		return 0, err
	}
	return before, s.repair(ctx, bar)
}

// strand leaves a task in the hands of a worker that will never be heard of again.
func (s *stage) strand(ctx context.Context) error {
	if _, err := s.store.Enqueue(ctx, store.NewTask{UserID: s.user, Prompt: "a lighthouse that nobody paints", Cost: 1}); err != nil {
		return err
	}
	_, err := s.store.Claim(ctx, store.ClaimRequest{Worker: "a worker that died", Limit: 1, Lease: time.Hour, MaxAttempts: 3})
	return err
}

// repair waits until the stranded task counts as stuck, and fails and refunds it.
func (s *stage) repair(ctx context.Context, bar *progress.Bar) error {
	for {
		done, err := repair.Sweep(ctx, s.store, repair.Options{Sweep: store.Sweep{OlderThan: stuckAfter}}, s.conf.Log)
		if err != nil {
			return err
		}
		if len(done.Tasks) > 0 {
			bar.Add(1)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// prompts returns what is enqueued beside the stranded task.
func (s *stage) prompts() []string {
	plain := []string{
		"a red paper lantern by a quiet river at dusk", "a fox asleep in a snowy bamboo grove", "a tea house above a sea of clouds",
		"an old tram in the rain", "a kite over terraced fields", "a lion dance in a narrow street", "a harbour at four in the morning",
		"a cat on a stack of atlases", "a night market seen from a bridge", "a moon gate in a walled garden", "a steam train in the desert",
		"a pagoda in autumn", "two cranes over a frozen lake", "a bicycle leaning on a blue door", "a bookshop under the stairs",
		"a junk with orange sails", "a greenhouse in a thunderstorm",
	}
	if s.conf.API != nil {
		return plain[:3]
	}
	return append(plain,
		"[429 once] a rate limit, then a picture", "[500 once] an API that stumbles once", "[500] an API that never gets up again",
		"[moderation] something that may not be drawn", "[hang once] an answer that never comes, then one that does",
		"[html] a login page where a picture should be")
}

// report prints the end of it and checks that it is as it should be.
func (s *stage) report(ctx context.Context, before int) error {
	states, err := s.store.CountByState(ctx)
	if err != nil {
		return err
	}
	after, err := s.store.Balance(ctx, s.user)
	if err != nil {
		return err
	}
	rules, err := s.store.Audit(ctx)
	if err != nil {
		return err
	}
	sheet, made, err := contactSheet(s.pictures.Dir(), filepath.Join(s.conf.Dir, "contact-sheet.png"))
	if err != nil {
		return err
	}
	s.say(textNothing)
	for _, state := range task.States() {
		s.say(textState, state, states[state])
	}
	s.say(textCredits, before, after, before-after+states[task.Failed], states[task.Failed])
	s.say(textNothing)
	repair.PrintAudit(s.conf.Out, rules, s.conf.Lang)
	direct := 0
	if s.carried != nil {
		var calls int
		calls, direct = s.carried()
		s.say(textRequests, calls, direct)
	}
	s.say(textNothing)
	s.say(textPictures, s.pictures.Dir(), made)
	s.say(textSheet, sheet)
	s.say(textLog, s.conf.LogFile)
	s.say(textTook, time.Since(s.began).Round(100*time.Millisecond))

	finished := states[task.Completed] + states[task.Failed]
	switch {
	case store.CountViolations(rules) > 0, direct > 0, made != states[task.Completed], after != before-states[task.Completed],
		finished != len(s.prompts())+1, s.conf.API == nil && states[task.Completed] != 20:
		return ErrUnexpected
	}
	return nil
}
