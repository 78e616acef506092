// Package demo runs the whole system on one machine: a private PostgreSQL, a simulated API behind a simulated proxy with a
// password (or the operator's own API and proxy), tasks that succeed, fail and get stuck, and an audit of the credits at the
// end.
package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"imagetasks/internal/postgres"
	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/app/render"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/imageworker"
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

const (
	granted     = 30
	stuckAfter  = 10 * time.Second
	concurrency = 4
)

// timeouts is how long the demo and its tasks may take. A zero task timeout or lease is the engine's default.
type timeouts struct {
	total, task, lease time.Duration
}

// timeouts returns the time limits: with the simulated API, what takes minutes in production takes seconds. A real API needs the
// time of production: an attempt that is cut off is repeated, and each picture is billed.
func (c *Config) timeouts() timeouts {
	if c.API != nil {
		return timeouts{total: 15 * time.Minute}
	}
	return timeouts{total: 110 * time.Second, task: 6 * time.Second, lease: 6 * time.Second}
}

// Config configures the demo.
type Config struct {
	Dir      string // for pictures, log and contact sheet, which are kept
	Out      io.Writer
	Terminal bool // Out is a terminal: show a progress bar
	Log      logrus.FieldLogger
	LogFile  string // printed at the end
	Redact   *redact.Redactor
	Lang     lang.Lang
	// API is the operator's own; nil: a simulated one behind a simulated proxy.
	API      *imageapi.Client
	APIRoute lang.Message // the route to API
}

// ErrUnexpected means that the demo ran, and its credits or pictures are not as expected.
var ErrUnexpected = errors.New("the result of the demo is not as expected")

// demo is what the demo started.
type demo struct {
	conf     Config
	store    *store.Store
	api      *imageapi.Client
	pictures *picture.Store
	cleanups []func() error             // called in reverse order
	requests func() (total, direct int) // that reached the simulated API, and those of them without the proxy
	user     string
	began    time.Time
}

// Run runs the demo. It leaves pictures, contact sheet and log, and no process.
func Run(ctx context.Context, conf Config) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, conf.timeouts().total, errors.New("the demo took too long"))
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
		return fmt.Errorf("another demo is running in %s; wait until it ends, or stop it", conf.Dir)
	}
	defer func() { err = errors.Join(err, lock.Unlock(), os.Remove(lock.Path())) }()

	d := &demo{conf: conf, user: uuid.NewString(), began: time.Now()}
	defer func() {
		for _, v := range slices.Backward(d.cleanups) {
			err = errors.Join(err, v())
		}
	}()
	if err := d.setUp(ctx); err != nil {
		return interrupted(ctx, err)
	}
	before, err := d.run(ctx)
	if err != nil {
		return interrupted(ctx, err)
	}
	return interrupted(ctx, d.report(ctx, before))
}

// interrupted replaces an error that is the consequence of a stop.
func interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("the demo was stopped (%w); none of its processes is running", context.Cause(ctx))
	}
	return err
}

func (d *demo) print(text lang.Text, args ...any) {
	fmt.Fprintln(d.conf.Out, text.In(d.conf.Lang, args...))
}

func (d *demo) cleanup(f func() error) { d.cleanups = append(d.cleanups, f) }

// setUp starts the database, the API and the proxy.
func (d *demo) setUp(ctx context.Context) error {
	d.print(textStarting)
	for _, old := range []string{"postgres", "pictures", "contact-sheet.png"} {
		if err := os.RemoveAll(filepath.Join(d.conf.Dir, old)); err != nil {
			return err
		}
	}
	cluster, err := postgres.Start(ctx, postgres.Config{Dir: filepath.Join(d.conf.Dir, "postgres")})
	if err != nil {
		return err
	}
	d.cleanup(cluster.Stop)
	if d.store, err = store.Open(store.Config{URL: cluster.URL("postgres"), ApplicationName: "imagetasks demo"}); err != nil {
		return err
	}
	d.cleanup(d.store.Close)
	if _, err := d.store.Migrate(ctx, store.Roles{}); err != nil {
		return err
	}
	installation, err := d.store.Installation(ctx)
	if err != nil {
		return err
	}
	if d.pictures, err = picture.Open(picture.Config{Dir: filepath.Join(d.conf.Dir, "pictures"), MaxBytes: 64 << 20,
		Installation: installation.ID, Secret: installation.Secret}); err != nil {
		return err
	}
	if d.api = d.conf.API; d.api != nil {
		d.print(textReal, d.conf.APIRoute)
		return nil
	}
	return d.simulate()
}

// simulate starts an API and a proxy, with a random key and password.
func (d *demo) simulate() error {
	authority, err := simapi.NewAuthority()
	if err != nil {
		return err
	}
	key, password := "demo-"+rand.Text(), rand.Text()
	api, err := simapi.Start(simapi.Config{Key: key, TLS: authority, Delay: 700 * time.Millisecond})
	if err != nil {
		return err
	}
	d.cleanup(api.Close)
	through, err := simproxy.Start(simproxy.Config{User: "demo", Password: password})
	if err != nil {
		return err
	}
	d.cleanup(through.Close)
	d.conf.Redact.Add(key)
	d.conf.Redact.AddURL(through.URL())
	transport, err := proxy.New(proxy.Config{Env: proxy.Env{OpenAI: []string{through.URL()}}, RootCAs: authority.Pool})
	if err != nil {
		return err
	}
	d.cleanup(func() error { transport.CloseIdleConnections(); return nil })
	d.api, err = imageapi.New(imageapi.Config{BaseURL: api.URL(), Key: key, Model: "gpt-image-2", Transport: transport, MaxBytes: 64 << 20})
	if err != nil {
		return err
	}
	d.requests = func() (total, direct int) {
		for _, c := range api.Calls() {
			total++
			if !through.Carried(c.Remote) {
				direct++
			}
		}
		return total, direct
	}
	d.print(textSimulated)
	return nil
}

// run grants credits, enqueues tasks and works them. It returns the balance after the grant.
func (d *demo) run(ctx context.Context) (before int64, err error) {
	before, err = d.store.GrantCredits(ctx, d.user, granted, "the demo's grant", d.user)
	if err != nil {
		return 0, err
	}
	if err := d.abandonTask(ctx); err != nil {
		return 0, err
	}
	prompts := d.prompts()
	for _, prompt := range prompts {
		if _, err := d.store.Enqueue(ctx, store.EnqueueRequest{UserID: d.user, Prompt: prompt, Cost: 1}); err != nil {
			return 0, err
		}
	}
	total := len(prompts) + 1
	d.print(textGranted, before, total)

	bar := progress.New(d.conf.Out, d.conf.Terminal, total)
	defer bar.Close()
	limits := d.conf.timeouts()
	p := processor.New(processor.Config{
		Worker: "demo", Concurrency: concurrency, API: "the image API", Results: "pictures", RetryUnknown: 1, TaskTimeout: limits.task, Lease: limits.lease,
		Log: d.conf.Log, Redact: d.conf.Redact.String,
		Observe: func(e processor.Event) {
			if e.Kind == processor.EventCompleted || e.Kind == processor.EventFailed {
				bar.Add(1)
			}
		},
		Endpoints: []processor.Endpoint{{Name: d.api.Endpoint(), Check: d.api.Check}}, CheckStore: d.pictures.Probe,
	}, d.store, imageworker.New(imageworker.Only(d.api), d.pictures, d.conf.Log))
	stop := context.AfterFunc(ctx, p.StopNow)
	defer stop()
	if err := p.RunOnce(ctx); err != nil {
		return 0, err
	}
	return before, d.repair(ctx, bar)
}

// abandonTask claims a task in the name of a processor that does not exist.
func (d *demo) abandonTask(ctx context.Context) error {
	if _, err := d.store.Enqueue(ctx, store.EnqueueRequest{UserID: d.user, Prompt: "a lighthouse on a cliff", Cost: 1}); err != nil {
		return err
	}
	_, err := d.store.Claim(ctx, store.ClaimRequest{Worker: "a processor that was killed", Limit: 1, Lease: time.Hour, MaxAttempts: 3})
	return err
}

// repair waits until the abandoned task counts as stuck, and fails and refunds it.
func (d *demo) repair(ctx context.Context, bar *progress.Bar) error {
	for {
		done, err := repair.Sweep(ctx, d.store, repair.Options{Sweep: store.Sweep{OlderThan: stuckAfter}}, d.conf.Log)
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

// prompts returns the prompts of the tasks other than the abandoned one.
func (d *demo) prompts() []string {
	plain := []string{
		"a red paper lantern by a quiet river at dusk", "a fox asleep in a snowy bamboo grove", "a tea house above a sea of clouds",
		"an old tram in the rain", "a kite over terraced fields", "a lion dance in a narrow street", "a harbour at four in the morning",
		"a cat on a stack of atlases", "a night market seen from a bridge", "a moon gate in a walled garden", "a steam train in the desert",
		"a pagoda in autumn", "two cranes over a frozen lake", "a bicycle leaning on a blue door", "a bookshop under the stairs",
		"a junk with orange sails", "a greenhouse in a thunderstorm",
	}
	if d.conf.API != nil {
		return plain[:3]
	}
	return append(plain,
		"[429 once] a rate limit, then a picture", "[500 once] an API error, then a picture", "[500] an API error each time",
		"[moderation] a prompt that is refused", "[hang once] no response, then a picture",
		"[html] a login page instead of a picture")
}

// report prints the result and checks it.
func (d *demo) report(ctx context.Context, before int64) error {
	states, err := d.store.CountByState(ctx)
	if err != nil {
		return err
	}
	after, err := d.store.Balance(ctx, d.user)
	if err != nil {
		return err
	}
	rules, err := d.store.Audit(ctx)
	if err != nil {
		return err
	}
	sheet, made, err := contactSheet(d.pictures.Dir(), filepath.Join(d.conf.Dir, "contact-sheet.png"))
	if err != nil {
		return err
	}
	d.print(textEmpty)
	for _, state := range task.States() {
		d.print(textState, state, states[state])
	}
	d.print(textCredits, before, after, before-after+int64(states[task.Failed]), states[task.Failed])
	d.print(textEmpty)
	render.Audit(d.conf.Out, rules, d.conf.Lang)
	direct := 0
	if d.requests != nil {
		var total int
		total, direct = d.requests()
		d.print(textRequests, total, direct)
	}
	d.print(textEmpty)
	d.print(textPictures, d.pictures.Dir(), made)
	d.print(textSheet, sheet)
	d.print(textLog, d.conf.LogFile)
	d.print(textTook, time.Since(d.began).Round(100*time.Millisecond))

	finished := states[task.Completed] + states[task.Failed]
	switch {
	case store.CountViolations(rules) > 0, direct > 0, made != states[task.Completed], after != before-int64(states[task.Completed]),
		finished != len(d.prompts())+1, d.conf.API == nil && states[task.Completed] != 20:
		return ErrUnexpected
	}
	return nil
}
