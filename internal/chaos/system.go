package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	_ "github.com/lib/pq" // the driver

	"imagetasks/internal/pgfault"
	"imagetasks/internal/postgres"
	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
)

// The settings of the processors: a twentieth of the defaults, so that what takes minutes in production takes seconds. The longest requests
// take more than three leases.
const (
	lease         = 3 * time.Second  // 60s
	taskTimeout   = 30 * time.Second // 10m
	stuckAfter    = time.Minute      // 20m
	hungAfter     = 6 * time.Second  // 2m
	shutdownGrace = 1500 * time.Millisecond
	firstByte     = 15 * time.Second // 5m
	monitorEvery  = 5 * time.Second  // 5m is 15s
	retryUnknown  = 1                // RETRY_UNKNOWN
	maxLostClaims = 5                // MAX_LOST_CLAIMS
)

// The secrets, which must be in no file.
const (
	apiKey        = "chaos-key-5f1c77d0e9"
	proxyPassword = "chaos-proxy-8a2e61b3"
	promptSecret  = "prompt-4c90fd17"
)

// diskBytes is the size of a file system that is filled, without the pictures of the run.
const diskBytes = 64 << 20

// pictureBytes is more than what a task's picture takes.
const pictureBytes = 8 << 10

// problems collects what is wrong. It is safe for concurrent use.
type problems struct {
	mu    sync.Mutex
	texts []string
	limit map[string]int // by rule
}

// maxProblems bounds the problems that are printed of one rule.
const maxProblems = 20

func (p *problems) add(rule, format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit == nil {
		p.limit = map[string]int{}
	}
	if p.limit[rule]++; p.limit[rule] <= maxProblems {
		p.texts = append(p.texts, rule+": "+fmt.Sprintf(format, args...))
	}
}

func (p *problems) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.texts)
}

func (p *problems) list() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	texts := slices.Clone(p.texts)
	for rule, n := range p.limit {
		if n > maxProblems {
			texts = append(texts, fmt.Sprintf("%s: %d in all", rule, n))
		}
	}
	return texts
}

// system is what a run started.
type system struct {
	options
	out      io.Writer
	outMu    sync.Mutex
	began    time.Time
	dir      string // everything is in here, except the cluster
	problems problems
	cleanups []func() error // called in reverse order

	cluster    *postgres.Cluster
	db         *sql.DB // beside the man in the middle
	database   *pgfault.Proxy
	env        []string // of the programs, without LOG_DIR and STATUS_ADDR
	api        *simapi.Server
	proxyConf  simproxy.Config
	proxy      *simproxy.Proxy // replaced by each restart, under proxyMu
	proxyMu    sync.Mutex
	serverMu   sync.Mutex // held while the server is restarted
	processors []*processor
	load       *load
	mounted    bool // the directories that are filled are file systems of their own

	mu      sync.Mutex
	answers []simapi.Answer
	applied map[Kind]int
	skipped map[Kind]int
	tools   int // programs that were run to their end
	counts  counts
	elapsed time.Duration
}

func newSystem(o options, out io.Writer) *system {
	return &system{options: o, out: out, began: time.Now(), applied: map[Kind]int{}, skipped: map[Kind]int{}}
}

func (s *system) printf(format string, args ...any) {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	fmt.Fprintf(s.out, format+"\n", args...)
}

func (s *system) cleanupLater(f func() error) { s.cleanups = append(s.cleanups, f) }

// start starts everything but the load.
func (s *system) start(ctx context.Context) (err error) {
	if s.dir, err = os.MkdirTemp("", "imagetasks-chaos-"); err != nil {
		return err
	}
	s.printf("seed %d, %d seconds, %d faults; files in %s", s.seed, s.seconds, len(s.schedule()), s.dir)
	if err := s.startDatabase(ctx); err != nil {
		return err
	}
	if err := s.startAPI(); err != nil {
		return err
	}
	return s.startProcessors(ctx)
}

func (s *system) startDatabase(ctx context.Context) (err error) {
	if s.cluster, err = postgres.Start(ctx, postgres.Config{Durable: true}); err != nil {
		return err
	}
	s.cleanupLater(s.cluster.Stop)
	direct := s.cluster.URL("postgres")
	if s.db, err = sql.Open("postgres", direct); err != nil {
		return err
	}
	s.cleanupLater(s.db.Close)
	// With connections that are kept, an immediate restart of the server would make the next statement of each fail.
	s.db.SetMaxIdleConns(0)
	var through string
	if s.database, through, err = pgfault.StartFor(direct); err != nil {
		return err
	}
	s.cleanupLater(s.database.Close)
	s.env = []string{
		"DATABASE_URL=" + through, "PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "IMAGE_STORE=" + s.pictureDir(),
		"OPENAI_API_KEY=" + apiKey, "TASK_CONCURRENCY=8", "POLL_INTERVAL=500ms", "LOG_LEVEL=info",
		"TASK_LEASE=" + lease.String(), "TASK_TIMEOUT=" + taskTimeout.String(), "STUCK_AFTER=" + stuckAfter.String(),
		"HUNG_AFTER=" + hungAfter.String(), "SHUTDOWN_GRACE=" + shutdownGrace.String(), "FIRST_BYTE_TIMEOUT=" + firstByte.String(),
		"DIAL_TIMEOUT=2s", "PROXY_CONNECT_TIMEOUT=3s", "TLS_TIMEOUT=3s",
		fmt.Sprintf("RETRY_UNKNOWN=%d", retryUnknown), fmt.Sprintf("MAX_LOST_CLAIMS=%d", maxLostClaims),
	}
	// SIGHUP reads it again.
	if err := os.WriteFile(filepath.Join(s.dir, ".env"), []byte("LOG_FORMAT=text\n"), 0o600); err != nil {
		return err
	}
	if code, output := s.runTool(ctx, s.dir, "task-processor", "migrate"); code != 0 {
		return fmt.Errorf("task-processor migrate: exit code %d: %s", code, output)
	}
	_, err = s.db.ExecContext(ctx, historySQL)
	return err
}

func (s *system) pictureDir() string { return filepath.Join(s.dir, "images") }

func (s *system) startAPI() error {
	authority, err := simapi.NewAuthority()
	if err != nil {
		return err
	}
	trusted := filepath.Join(s.dir, "ca.pem")
	if err := os.WriteFile(trusted, authority.PEM, 0o644); err != nil {
		return err
	}
	if s.api, err = simapi.Start(simapi.Config{Key: apiKey, TLS: authority, DelayOf: delayOf, Picture: draw, Observe: s.observe}); err != nil {
		return err
	}
	s.cleanupLater(s.api.Close)
	s.proxyConf = simproxy.Config{User: "chaos", Password: proxyPassword}
	if s.proxy, err = simproxy.Start(s.proxyConf); err != nil {
		return err
	}
	s.cleanupLater(func() error { return s.currentProxy().Close() })
	s.env = append(s.env, "OPENAI_BASE_URL="+s.api.URL(), "OPENAI_PROXY="+s.proxy.URL(), "SSL_CERT_FILE="+trusted)
	return nil
}

func (s *system) currentProxy() *simproxy.Proxy {
	s.proxyMu.Lock()
	defer s.proxyMu.Unlock()
	return s.proxy
}

// observe keeps what became of a request for a picture.
func (s *system) observe(a simapi.Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, a)
}

// delayOf returns how long the API takes for a prompt, which says so.
func delayOf(prompt string) time.Duration {
	_, after, _ := strings.Cut(prompt, " d=")
	text, _, _ := strings.Cut(after, " ")
	d, _ := time.ParseDuration(text) // 0 for other prompts
	return d
}

// draw returns a small picture that depends on the prompt alone.
func draw(prompt string) []byte {
	sum := sha256.Sum256([]byte(prompt))
	m := image.NewRGBA(image.Rect(0, 0, 8, 8))
	for i := range 64 {
		b := sum[i/2] >> (4 * (i % 2)) & 15
		m.SetRGBA(i%8, i/8, color.RGBA{b * 17, sum[i%32], sum[(i+7)%32], 255})
	}
	var out bytes.Buffer
	if err := png.Encode(&out, m); err != nil {
		return nil // a buffer doesn't fail
	}
	return out.Bytes()
}

// answerKind is what an answer of the API means for a task.
type answerKind int

const (
	unsettled answerKind = iota // no complete answer of the API
	failure                     // a complete answer without a picture
	delivered                   // a complete answer with a picture
)

func kindOf(a simapi.Answer) answerKind {
	switch picture := base64.StdEncoding.EncodeToString(draw(a.Prompt)); {
	case !isJSON(a.Body):
		return unsettled
	case strings.Contains(string(a.Body), picture), strings.HasPrefix(a.Prompt, "[url]") && strings.Contains(string(a.Body), `"url":`):
		return delivered
	}
	return failure
}

func (s *system) startProcessors(ctx context.Context) error {
	if err := os.Mkdir(s.pictureDir(), 0o755); err != nil {
		return err
	}
	s.mounted = true
	disks := map[string]int{s.pictureDir(): diskBytes + int(s.rate*float64(s.seconds))*pictureBytes}
	for i := range s.options.processors {
		p := newProcessor(s, i)
		s.processors = append(s.processors, p)
		if err := os.Mkdir(p.dir, 0o755); err != nil {
			return err
		}
		disks[p.dir] = diskBytes
	}
	for disk, size := range disks {
		if err := mountDisk(disk, size); err != nil {
			s.mounted = false
			s.printf("no file systems of their own for the directories that are filled (%v): they are made read-only instead", err)
			break
		}
		s.cleanupLater(func() error { return unmountDisk(disk) })
	}
	daemon := s.daemon()
	address, err := freeAddress()
	if err != nil {
		return err
	}
	daemon.statusAddr = address
	s.cleanupLater(s.endPrograms)
	for _, p := range s.processors[:len(s.processors)-1] {
		p.begin(ctx)
	}
	if code, output := daemon.tool(ctx, "task-processor", "start"); code != 0 {
		return fmt.Errorf("task-processor start: exit code %d: %s", code, output)
	}
	return nil
}

// daemon returns the processor that runs in the background.
func (s *system) daemon() *processor { return s.processors[len(s.processors)-1] }

// freeAddress returns an address of the loopback interface that nothing listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// work applies the schedule under load, waits until every task is closed, stops everything, and checks.
func (s *system) work(ctx context.Context) error {
	var err error
	if s.load, err = newLoad(ctx, s); err != nil {
		return err
	}
	began := time.Now()
	monitoring, stopMonitor := context.WithCancel(ctx)
	var monitor sync.WaitGroup
	monitor.Go(func() { s.monitor(monitoring) })
	defer monitor.Wait()
	defer stopMonitor()

	loading, stopLoad := context.WithTimeout(ctx, s.length())
	defer stopLoad()
	var loads sync.WaitGroup
	loads.Go(func() { s.load.run(ctx, loading) })
	s.applySchedule(ctx, began)
	loads.Wait()
	s.elapsed = time.Since(began)
	if ctx.Err() != nil {
		return errInterrupted
	}
	s.printf("%8.1fs  the faults have ended; waiting until every task is closed", s.elapsed.Seconds())
	if err := s.awaitClosed(ctx); err != nil {
		return err
	}
	s.printf("%8.1fs  every task is closed; stopping and checking", time.Since(began).Seconds())
	stopMonitor()
	monitor.Wait()
	s.stopProcessors(ctx)
	return s.check(ctx)
}

// monitor runs a pass of the monitor again and again, as cron does, and starts the daemon if it stays away, as an operator does.
func (s *system) monitor(ctx context.Context) {
	daemon := s.daemon()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(monitorEvery):
		}
		daemon.commands.Lock()
		daemon.tool(context.WithoutCancel(ctx), "monitor-tasks")
		if n%6 == 0 { // the monitor gives up after 5 restarts within an hour
			daemon.tool(context.WithoutCancel(ctx), "task-processor", "start")
		}
		daemon.commands.Unlock()
	}
}

// closeTimeout bounds the wait for the tasks that are left: those that are stuck, one that tried an open circuit in vain and waits for 6m15s so that
// others try next, and a queue as long as the load can have made it.
func (s *system) closeTimeout() time.Duration { return 7*time.Minute + s.length()/4 }

// awaitClosed waits until no task is pending or processing.
func (s *system) awaitClosed(ctx context.Context) error {
	deadline := time.Now().Add(s.closeTimeout())
	for {
		var open int
		err := s.db.QueryRowContext(ctx, `select count(*) from imagetasks.tasks where status in ('pending', 'processing')`).Scan(&open)
		if err != nil || open == 0 {
			return err
		}
		if time.Now().After(deadline) {
			s.problems.add("every task is closed", "%d tasks are pending or processing %s after the last fault", open, s.closeTimeout())
			return nil
		}
		select {
		case <-ctx.Done():
			return errInterrupted
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// cleanup ends and removes everything but the directory.
func (s *system) cleanup() error {
	var errs []error
	for _, f := range slices.Backward(s.cleanups) {
		errs = append(errs, f())
	}
	s.cleanups = nil
	if s.cluster != nil {
		if _, err := os.Stat(s.cluster.SocketDir()); err == nil {
			errs = append(errs, fmt.Errorf("%s is left", s.cluster.SocketDir()))
		}
		if s.processors != nil {
			if c, err := net.Dial("tcp", s.daemon().statusAddr); err == nil {
				errs = append(errs, c.Close(), fmt.Errorf("something listens on %s", s.daemon().statusAddr))
			}
		}
	}
	return errors.Join(errs...)
}

func (s *system) remove() error {
	if s.dir == "" {
		return nil
	}
	return os.RemoveAll(s.dir)
}
