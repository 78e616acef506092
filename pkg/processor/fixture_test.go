package processor_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgtest"
	"imagetasks/internal/postgres"
	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/imageworker"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/store"
)

var server *pgtest.Server

func TestMain(m *testing.M) {
	if os.Getenv(helperURL) != "" {
		os.Exit(m.Run()) // a helper process is killed, and would leave a server's directory behind; it uses that of the test
	}
	os.Exit(pgtest.Main(m, &server, migrate))
}

func migrate(ctx context.Context, url string) error {
	s, err := store.Open(store.Config{URL: url})
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Migrate(ctx, store.Roles{})
	return err
}

// uuidNil lets a call choose its own id.
var uuidNil uuid.UUID

// ownCluster starts a database server for one test.
func ownCluster(t *testing.T) *postgres.Cluster {
	t.Helper()
	cluster, err := postgres.Start(t.Context(), postgres.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, cluster.Stop()) })
	require.NoError(t, migrate(t.Context(), cluster.URL("postgres")))
	return cluster
}

// drawing returns a client that makes the same picture for each request.
func drawing(content []byte) generatorFunc {
	return func(_ context.Context, _ imageapi.Request, w io.Writer) error {
		_, err := w.Write(content)
		return err
	}
}

const key = "test-key-0123456789"

// fixture is a database, a simulated API behind a simulated proxy, and the events of the processors that run on them.
type fixture struct {
	*store.Store
	t        *testing.T
	raw      *sql.DB
	api      *simapi.Server
	proxy    *simproxy.Proxy
	pictures *picture.Store
	user     string
	log      *syncBuffer
	logger   *logrus.Logger // to log

	mu     sync.Mutex
	cond   *sync.Cond
	events map[processor.EventKind]int
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newFixture(t *testing.T) *fixture { t.Helper(); return newFixtureOn(t, server.Database(t)) }

func newFixtureOn(t *testing.T, url string) *fixture {
	t.Helper()
	f := &fixture{t: t, events: map[processor.EventKind]int{}, log: &syncBuffer{}}
	f.cond = sync.NewCond(&f.mu)
	f.logger = logrus.New()
	f.logger.SetOutput(f.log)
	f.logger.SetLevel(logrus.DebugLevel)
	var err error
	f.Store, err = store.Open(store.Config{URL: url, MaxConns: 16})
	require.NoError(t, err)
	f.raw, err = sql.Open("postgres", url)
	require.NoError(t, err)
	f.api, err = simapi.Start(simapi.Config{Key: key})
	require.NoError(t, err)
	f.proxy, err = simproxy.Start(simproxy.Config{User: "u", Password: "hunter2hunter2"})
	require.NoError(t, err)
	installation, err := f.Installation(t.Context())
	require.NoError(t, err)
	f.pictures, err = picture.Open(picture.Config{Dir: t.TempDir(), MaxBytes: 1 << 20, Installation: installation.ID, Secret: installation.Secret})
	require.NoError(t, err)
	f.user = uuid.NewString()
	_, err = f.GrantCredits(t.Context(), f.user, 10000, "test", "test")
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, f.proxy.Close())
		assert.NoError(t, f.api.Close())
		assert.NoError(t, f.raw.Close())
		assert.NoError(t, f.Store.Close())
		for _, secret := range []string{"hunter2hunter2", key} {
			assert.NotContains(t, f.log.String(), secret)
		}
	})
	return f
}

// generator is an API client, real or fake.
type generator interface {
	imageworker.Generator
	Check(ctx context.Context, model string) error
}

// client returns a client of the simulated API through the simulated proxy, and more proxies if given.
func (f *fixture) client(more ...string) *imageapi.Client {
	f.t.Helper()
	transport, err := proxy.New(proxy.Config{Env: proxy.Env{OpenAI: append([]string{f.proxy.URL()}, more...)}})
	require.NoError(f.t, err)
	f.t.Cleanup(transport.CloseIdleConnections)
	c, err := imageapi.New(imageapi.Config{BaseURL: f.api.URL(), Key: key, Model: "m", Transport: transport, MaxBytes: 1 << 20})
	require.NoError(f.t, err)
	return c
}

// clientOf returns a client of another API.
func (f *fixture) clientOf(api *simapi.Server) *imageapi.Client {
	f.t.Helper()
	c, err := imageapi.New(imageapi.Config{BaseURL: api.URL(), Key: key, Model: "m", MaxBytes: 1 << 20})
	require.NoError(f.t, err)
	return c
}

func (f *fixture) config(change ...func(*processor.Config)) processor.Config {
	conf := processor.Config{Worker: "w", API: "the image API", Results: "pictures", RetryUnknown: 1, PollInterval: 20 * time.Millisecond, Lease: 3 * time.Second, Log: f.logger,
		Observe: func(e processor.Event) {
			f.mu.Lock()
			f.events[e.Kind]++
			f.mu.Unlock()
			f.cond.Broadcast()
		}}
	conf.ScaleCircuits(20)
	for _, c := range change {
		c(&conf)
	}
	return conf
}

// seen waits until there were n events of a kind.
func (f *fixture) seen(kind processor.EventKind, n int) {
	f.t.Helper()
	stop := time.AfterFunc(time.Minute, func() { f.cond.Broadcast() })
	defer stop.Stop()
	deadline := time.Now().Add(time.Minute)
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.events[kind] < n {
		if time.Now().After(deadline) {
			f.t.Fatalf("waiting for %d events %q; seen: %v\n%s", n, kind, f.events, f.log)
		}
		f.cond.Wait()
	}
}

func (f *fixture) count(kind processor.EventKind) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.events[kind]
}

// circuitOpened waits until the circuit breaker is open, because of a task or of a health check, and nothing is in flight.
func (f *fixture) circuitOpened() {
	f.t.Helper()
	f.seen(processor.EventCircuitOpened, 1)
	require.Eventually(f.t, func() bool { return f.count(processor.EventClaimed) == f.count(processor.EventReleased) }, time.Minute, time.Millisecond)
}

// startProxy starts the proxy again that was closed.
func (f *fixture) startProxy() {
	f.t.Helper()
	again, err := simproxy.StartAt(simproxy.Config{User: "u", Password: "hunter2hunter2"}, f.proxy.Addr())
	require.NoError(f.t, err)
	f.proxy = again
}

// processor returns a processor that makes pictures with client.
func (f *fixture) processor(conf processor.Config, client generator) *processor.Processor {
	return f.processorOn(f.Store, conf, client)
}

func (f *fixture) processorOn(queue processor.Queue, conf processor.Config, client generator) *processor.Processor {
	useEndpoint(&conf, client)
	return processor.New(conf, queue, imageworker.New(imageworker.Only(client), f.pictures, f.logger))
}

// useEndpoint makes a processor use the API of client, with the limits that it has so far.
func useEndpoint(conf *processor.Config, client generator) {
	if len(conf.Endpoints) == 0 {
		conf.Endpoints = make([]processor.Endpoint, 1)
	}
	conf.Endpoints[0].Name, conf.Endpoints[0].Check = client.Endpoint(), client.Check
}

// run starts a processor. stop stops it and waits.
func (f *fixture) run(conf processor.Config, client generator) (stop func()) {
	f.t.Helper()
	return f.start(f.processor(conf, client))
}

// start starts p. stop stops it and waits.
func (f *fixture) start(p *processor.Processor) (stop func()) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		assert.NoError(f.t, p.Run(ctx))
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	f.t.Cleanup(stop)
	return stop
}

// once runs a processor until nothing is pending.
func (f *fixture) once(conf processor.Config, client generator) error {
	return f.processor(conf, client).RunOnce(f.t.Context())
}

func (f *fixture) enqueue(prompts ...string) []string {
	f.t.Helper()
	var ids []string
	for _, prompt := range prompts {
		made, err := f.Enqueue(f.t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: prompt, Cost: 1})
		require.NoError(f.t, err)
		ids = append(ids, made.TaskIDs...)
	}
	return ids
}

func (f *fixture) row(id string) store.TaskRow {
	f.t.Helper()
	r, err := f.Task(f.t.Context(), id)
	require.NoError(f.t, err)
	return r
}

func (f *fixture) exec(statement string, args ...any) {
	f.t.Helper()
	_, err := f.raw.ExecContext(f.t.Context(), statement, args...)
	require.NoError(f.t, err)
}

// files returns the pictures and the drafts, relative to the picture store.
func (f *fixture) files() []string {
	f.t.Helper()
	var names []string
	for _, pattern := range []string{"*.png", "*.jpg", "*.webp", ".drafts/*"} {
		found, err := filepath.Glob(filepath.Join(f.pictures.Dir(), pattern))
		require.NoError(f.t, err)
		for _, path := range found {
			name, err := filepath.Rel(filepath.Dir(f.pictures.Dir()), path)
			require.NoError(f.t, err)
			names = append(names, name)
		}
	}
	return names
}

func (f *fixture) requireAudit() {
	f.t.Helper()
	rules, err := f.Audit(f.t.Context())
	require.NoError(f.t, err)
	for _, r := range rules {
		require.Empty(f.t, r.Violations, r.Code)
	}
}

// generatorOf returns a client that calls before for each request before it prepares it.
func generatorOf(client generator, before func(context.Context, imageapi.Request) error) generator {
	return &delayedGenerator{client, before}
}

type delayedGenerator struct {
	generator
	before func(context.Context, imageapi.Request) error
}

func (g *delayedGenerator) Generate(ctx context.Context, r imageapi.Request, w io.Writer) (imageapi.Result, error) {
	if err := g.before(ctx, r); err != nil {
		return imageapi.Result{}, err
	}
	return g.generator.Generate(ctx, r, w)
}

// generatorFunc is a client without an API.
type generatorFunc func(ctx context.Context, r imageapi.Request, w io.Writer) error

func (f generatorFunc) Generate(ctx context.Context, r imageapi.Request, w io.Writer) (imageapi.Result, error) {
	if r.BeforeSend != nil {
		if _, err := r.BeforeSend(ctx); err != nil {
			return imageapi.Result{}, err
		}
	}
	return imageapi.Result{}, f(ctx, r, w)
}

func (f generatorFunc) Download(context.Context, string, int, io.Writer) error {
	return errors.New("nothing can be downloaded")
}

func (f generatorFunc) Endpoint() string { return "http://api.example/v1" }

func (f generatorFunc) Check(context.Context, string) error { return nil }

func (f generatorFunc) SizeNote(string, imageapi.Options) string { return "" }
