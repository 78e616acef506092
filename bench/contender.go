package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// load is what a contender is given. It is passed to its process as JSON.
type load struct {
	Kind        string // ours, river-pgx, river-pq, or graphile
	Name        string // of this process
	URL         string // of the database
	Concurrency int    // tasks in flight; ours
	Conns       int    // connections; 0: what the contender's docs say
	Dir         string // in which it is installed; graphile
	Paid        bool   // each task records a paid request; ours
	Samples     int    // of a latency
}

// contender works the tasks of a database until ctx ends.
type contender interface {
	run(ctx context.Context) error
	worked() int64
}

func newContender(ctx context.Context, l load) (contender, error) {
	switch l.Kind {
	case "ours":
		return newOursContender(ctx, l)
	case "river-pgx":
		return newRiverPgx(ctx, l, nil)
	case "river-pq":
		return newRiverPq(ctx, l)
	}
	return nil, fmt.Errorf("unknown contender %q", l.Kind)
}

// reportInterval is how often a contender's process says how many tasks it has worked.
const reportInterval = 5 * time.Millisecond

// runContender is the process of a contender: it connects, prints "ready", waits for a line on standard input, and works until standard input
// ends. It prints how many tasks it has worked.
func runContender(ctx context.Context, argument string, in io.Reader, out io.Writer) error {
	var l load
	if err := json.Unmarshal([]byte(argument), &l); err != nil {
		return fmt.Errorf("the argument of a contender: %w", err)
	}
	c, err := newContender(ctx, l)
	if err != nil {
		return err
	}
	stopProfile, err := startProfile(l.Kind)
	if err != nil {
		return err
	}
	defer stopProfile()
	fmt.Fprintln(out, "ready")
	lines := bufio.NewReader(in)
	if _, err := lines.ReadString('\n'); err != nil {
		return err
	}
	working, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- c.run(working) }()
	go func() {
		defer stop()
		_, _ = io.Copy(io.Discard, lines)
	}()
	tick := time.NewTicker(reportInterval)
	defer tick.Stop()
	for last := int64(0); ; {
		select {
		case err := <-ended:
			stop()
			return err
		case <-tick.C:
			if n := c.worked(); n != last {
				last = n
				fmt.Fprintln(out, n)
			}
		}
	}
}

// child is the process of a contender.
type child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
	count atomic.Int64
	ended chan struct{} // its output ended
}

func startChild(ctx context.Context, l load) (*child, error) {
	cmd, err := contenderCommand(ctx, l)
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", l.Kind, err)
	}
	c := &child{cmd: cmd, in: in, lines: bufio.NewScanner(out), ended: make(chan struct{})}
	if !c.lines.Scan() || c.lines.Text() != "ready" {
		_ = in.Close()
		return nil, fmt.Errorf("%s did not start: %q, %w", l.Kind, c.lines.Text(), cmd.Wait())
	}
	go func() {
		defer close(c.ended)
		for c.lines.Scan() {
			if n, err := strconv.ParseInt(strings.TrimSpace(c.lines.Text()), 10, 64); err == nil {
				c.count.Store(n)
			}
		}
	}()
	return c, nil
}

func contenderCommand(ctx context.Context, l load) (*exec.Cmd, error) {
	argument, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	if l.Kind == "graphile" {
		return exec.CommandContext(ctx, "node", filepath.Join(l.Dir, "worker.mjs"), "work", l.URL), nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, self, "contender", string(argument)), nil
}

// stop ends the process and returns its CPU time.
func (c *child) stop() (cpu time.Duration, err error) {
	_ = c.in.Close()
	<-c.ended
	err = c.cmd.Wait()
	return c.cmd.ProcessState.UserTime() + c.cmd.ProcessState.SystemTime(), err
}

// unfinished are the queries that tell whether a contender has tasks left that are not committed as completed.
var unfinished = map[string]string{
	"ours":      `select exists (select from imagetasks.tasks where status in ('pending', 'processing'))`,
	"river-pgx": `select exists (select from river_job where state in ('available', 'running'))`,
	"river-pq":  `select exists (select from river_job where state in ('available', 'running'))`,
	"graphile":  `select exists (select from graphile_worker._private_jobs)`,
}

// run is one measured run of one contender.
type run struct {
	Tasks   int           `json:"tasks"`
	Elapsed time.Duration `json:"elapsed_ns"` // from the start of the contender to the commit of the last completion
	CPU     time.Duration `json:"cpu_ns"`     // of the contender's processes
}

func (r run) perSecond() float64 { return float64(r.Tasks) / r.Elapsed.Seconds() }

// runTimeout bounds one measured run.
const runTimeout = 3 * time.Minute

// work starts a process for each load, and measures how long they need together for n tasks of one database. It ends when the database has no
// task left.
func (s *server) work(ctx context.Context, database string, n int, loads ...load) (r run, err error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	observer, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		return r, err
	}
	defer observer.Close(context.Background())
	query := unfinished[loads[0].Kind]
	left := true
	if err := observer.QueryRow(ctx, query).Scan(&left); err != nil {
		return r, fmt.Errorf("observe %s: %w", loads[0].Kind, err)
	}
	var children []*child
	defer func() {
		for _, c := range children {
			cpu, stopErr := c.stop()
			r.CPU += cpu
			if err == nil && stopErr != nil {
				err = fmt.Errorf("%s: %w", loads[0].Kind, stopErr)
			}
		}
	}()
	for i, l := range loads {
		l.URL, l.Name = s.URL(database), fmt.Sprintf("bench-%d", i+1)
		c, err := startChild(ctx, l)
		if err != nil {
			return r, err
		}
		children = append(children, c)
	}
	if err := s.checkpoint(ctx); err != nil {
		return r, err
	}
	r.Tasks = n
	began := time.Now()
	for _, c := range children {
		if _, err := io.WriteString(c.in, "go\n"); err != nil {
			return r, err
		}
	}
	// The database is asked only when all tasks have been worked, so that the questions cost nothing.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for left {
		select {
		case <-ctx.Done():
			return r, fmt.Errorf("%s did not finish %d tasks: %w", loads[0].Kind, n, ctx.Err())
		case <-tick.C:
		}
		total := int64(0)
		for _, c := range children {
			total += c.count.Load()
			select {
			case <-c.ended:
				return r, fmt.Errorf("%s ended after %d tasks", loads[0].Kind, c.count.Load())
			default:
			}
		}
		if total < int64(n) {
			continue
		}
		if err := observer.QueryRow(ctx, query).Scan(&left); err != nil {
			return r, err
		}
	}
	r.Elapsed = time.Since(began)
	return r, nil
}

// workCopy is work on a copy of a template, which is audited if it is ours, and dropped.
func (s *server) workCopy(ctx context.Context, template string, n int, loads ...load) (r run, err error) {
	ours := loads[0].Kind == "ours"
	var name string
	if ours {
		name, err = copyOurs(ctx, s, template)
	} else {
		name, err = s.database(ctx, template)
	}
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.drop(context.WithoutCancel(ctx), name)) }()
	if r, err = s.work(ctx, name, n, loads...); err != nil || !ours {
		return r, err
	}
	return r, auditOurs(ctx, s, name)
}
