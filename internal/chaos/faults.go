package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"imagetasks/internal/pgfault"
	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
)

// errNothing means that a fault had nothing to apply to.
var errNothing = errors.New("nothing to apply it to")

// applySchedule applies each fault at its time, and waits until all of them have ended.
func (s *system) applySchedule(ctx context.Context, began time.Time) {
	var running sync.WaitGroup
	defer running.Wait()
	for _, f := range s.schedule() {
		wait(ctx, time.Until(began.Add(f.At)))
		if ctx.Err() != nil {
			return
		}
		s.printf("%s", f)
		running.Go(func() {
			err := s.apply(ctx, f)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.applied[f.Kind]++
			if err == nil || ctx.Err() != nil {
				return
			}
			s.skipped[f.Kind]++
			s.printf("%8.1fs  %s of %.1fs: %v", time.Since(began).Seconds(), f.Kind, f.At.Seconds(), err)
		})
	}
	wait(ctx, time.Until(began.Add(s.length())))
}

// apply makes a fault and ends it. An error means that it was not made.
func (s *system) apply(ctx context.Context, f Fault) error {
	switch f.Kind {
	case Kill:
		return s.signalled(f, syscall.SIGKILL)
	case Suspend:
		return s.suspend(ctx, f)
	case PlannedRestart:
		return s.plannedRestart(ctx, f)
	case StopNow:
		return s.stopNow(ctx, f)
	case TwoSignals:
		if err := s.signalled(f, syscall.SIGTERM); err != nil {
			return err
		}
		wait(ctx, 300*time.Millisecond)
		_ = s.signalled(f, syscall.SIGTERM) // it may have ended
		return nil
	case Reload:
		return s.signalled(f, syscall.SIGHUP)
	case PIDFile:
		err := os.Remove(filepath.Join(s.processors[f.Processor].dir, "task-processor.pid"))
		if errors.Is(err, os.ErrNotExist) {
			return errNothing
		}
		return err
	case ServerRestart:
		return s.restartServer(ctx, f.For)
	case Terminate, TableLock, UserLock, TaskLock, CancelRunning:
		return s.disturb(ctx, f)
	case LostAnswers, SilentAnswers, SQLState:
		s.inject(ctx, f)
		return nil
	case Silence:
		s.database.Silence(true)
		wait(ctx, f.For)
		s.database.Silence(false)
		return nil
	case HangingConnect:
		s.database.SilenceNew(true)
		wait(ctx, f.For)
		s.database.SilenceNew(false)
		return nil
	case Duplicates:
		s.duplicate(ctx, f)
		return nil
	case LogDisk:
		return s.fillDisk(ctx, s.processors[f.Processor].dir, f.For)
	case PictureDisk:
		return s.fillDisk(ctx, s.pictureDir(), f.For)
	case ProxyFails, ProxyRestart, TunnelsSilent:
		return s.disturbProxy(ctx, f)
	case APIFails:
		s.api.Refuse(refusal(f.Detail))
		wait(ctx, f.For)
		s.api.Refuse(nil)
		return nil
	}
	return fmt.Errorf("unknown kind of fault %q", f.Kind)
}

func (s *system) signalled(f Fault, sig syscall.Signal) error {
	if _, ok := s.processors[f.Processor].signal(sig); !ok {
		return errNothing
	}
	return nil
}

func (s *system) suspend(ctx context.Context, f Fault) error {
	p := s.processors[f.Processor]
	process := p.current()
	if process == nil || process.Signal(syscall.SIGSTOP) != nil {
		return errNothing
	}
	wait(ctx, f.For)
	_ = process.Signal(syscall.SIGCONT) // the monitor may have killed it
	return nil
}

// plannedRestart stops a processor with SIGTERM, or the daemon with its command, and waits until it has ended.
func (s *system) plannedRestart(ctx context.Context, f Fault) error {
	p := s.processors[f.Processor]
	if p.isDaemon() {
		p.commands.Lock()
		defer p.commands.Unlock()
		p.tool(ctx, "task-processor", "restart")
		return nil
	}
	process := p.current()
	if process == nil || process.Signal(syscall.SIGTERM) != nil {
		return errNothing
	}
	// Another fault may suspend it meanwhile.
	if !p.awaitEnd(process, stopTimeout+10*time.Second) {
		s.problems.add("SIGTERM ends every processor", "processor %d (pid %d) still runs %s after it", p.number, process.Pid, stopTimeout+10*time.Second)
	}
	return nil
}

// stopNow stops a processor at once. One in the foreground is started again by its loop.
func (s *system) stopNow(ctx context.Context, f Fault) error {
	p := s.processors[f.Processor]
	p.commands.Lock()
	defer p.commands.Unlock()
	p.tool(ctx, "task-processor", "stop", "--now")
	if p.isDaemon() {
		p.tool(ctx, "task-processor", "start")
	}
	return nil
}

func (s *system) restartServer(ctx context.Context, down time.Duration) error {
	s.serverMu.Lock()
	defer s.serverMu.Unlock()
	if err := s.cluster.Halt(); err != nil {
		return err
	}
	wait(ctx, down)
	err := s.cluster.Launch(context.WithoutCancel(ctx))
	if err != nil {
		s.problems.add("the server starts", "%v", err)
	}
	return err
}

// disturb runs statements beside the man in the middle.
func (s *system) disturb(ctx context.Context, f Fault) error {
	switch f.Kind {
	case Terminate:
		return s.affect(ctx, `select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity
			where pid <> pg_backend_pid() and backend_type = 'client backend' order by random() limit $1) victims`, f.Count)
	case CancelRunning:
		return s.affect(ctx, `select count(c.status) from (select task_id from imagetasks.tasks where status = 'processing' order by random() limit $1) t
			cross join lateral imagetasks.cancel(t.task_id) c`, f.Count)
	case TableLock:
		return s.lock(ctx, f.For, fmt.Sprintf(`lock table imagetasks.%s in access exclusive mode`, f.Detail))
	case UserLock:
		return s.lock(ctx, f.For, fmt.Sprintf(`select from imagetasks.credits where user_id in (
			select user_id from imagetasks.credits order by random() limit %d) for update`, f.Count))
	default:
		return s.lock(ctx, f.For, fmt.Sprintf(`select from imagetasks.tasks where task_id in (
			select task_id from imagetasks.tasks where status in ('pending', 'processing') order by random() limit %d) for update`, f.Count))
	}
}

// affect runs a statement that returns how much it concerned.
func (s *system) affect(ctx context.Context, statement string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var n int
	err := s.db.QueryRowContext(ctx, statement, args...).Scan(&n)
	if err == nil && n == 0 {
		err = errNothing
	}
	return err
}

// lock holds the locks of a statement for a while.
func (s *system) lock(ctx context.Context, length time.Duration, statement string) error {
	bounded, cancel := context.WithTimeout(ctx, length+15*time.Second)
	defer cancel()
	tx, err := s.db.BeginTx(bounded, &sql.TxOptions{})
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(bounded, statement)
	if err == nil {
		wait(ctx, length)
	}
	_ = tx.Rollback() // the session may have been terminated
	return err
}

// inject applies a fault to statements that pass the man in the middle.
func (s *system) inject(ctx context.Context, f Fault) {
	first, statement, found := strings.Cut(f.Detail, " ")
	if !found {
		first, statement = "", f.Detail
	}
	rule := pgfault.Rule{Contains: statementText(statement)}
	switch f.Kind {
	case LostAnswers:
		rule.Fault = map[string]pgfault.Fault{"FIN": pgfault.LostFIN, "RST": pgfault.LostRST, "FATAL": pgfault.Fatal, "cut": pgfault.Cut}[first]
		n := 0
		rule.Match = func(string) bool { n++; return n%f.Count == 0 } // called under the proxy's lock
	case SilentAnswers:
		rule.Fault, rule.Times = pgfault.LostSilence, f.Count
	case SQLState:
		rule.Fault, rule.SQLState = pgfault.Error, first
	}
	injection := s.database.Add(rule)
	wait(ctx, max(f.For, 5*time.Second*time.Duration(min(1, rule.Times))))
	injection.Remove()
}

// duplicate runs several monitors and fixers at the same time.
func (s *system) duplicate(ctx context.Context, f Fault) {
	args := map[string][]string{"fail after 8s": {"--older-than", "8s"}, "requeue after 5s": {"--older-than", "5s", "--requeue"}}[f.Detail]
	var running sync.WaitGroup
	for i := range f.Count {
		dir := filepath.Join(s.dir, fmt.Sprintf("operator-%d", i))
		running.Go(func() {
			if err := os.MkdirAll(dir, 0o755); err == nil {
				s.runTool(ctx, dir, "monitor-tasks")
			}
		})
		running.Go(func() { s.runTool(ctx, dir, "fix-stuck-tasks", args...) })
	}
	running.Wait()
}

// disturbProxy makes the HTTP proxy fail.
func (s *system) disturbProxy(ctx context.Context, f Fault) error {
	switch f.Kind {
	case TunnelsSilent:
		s.currentProxy().SilenceTunnels()
		return nil
	case ProxyFails:
		mode := map[string]simproxy.Mode{"refuses": simproxy.Refuse, "hangs": simproxy.Hang, "sends garbage": simproxy.Garbage}[f.Detail]
		s.currentProxy().SetMode(mode)
		wait(ctx, f.For)
		s.currentProxy().SetMode(simproxy.Serve)
		return nil
	}
	s.proxyMu.Lock()
	defer s.proxyMu.Unlock()
	address := s.proxy.Addr()
	if err := s.proxy.Close(); err != nil {
		return err
	}
	wait(ctx, f.For)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		proxy, err := simproxy.StartAt(s.proxyConf, address)
		if err == nil {
			s.proxy = proxy
			return nil
		}
		if time.Now().After(deadline) {
			s.problems.add("the proxy starts", "%v", err)
			return err
		}
	}
}

// refusal returns what the API answers to everything for a while.
func refusal(detail string) *simapi.Refusal {
	switch detail {
	case "500":
		return &simapi.Refusal{Status: 500}
	case "503":
		return &simapi.Refusal{Status: 503, RetryAfter: "1"}
	case "429":
		return &simapi.Refusal{Status: 429, RetryAfter: "1"}
	case "401":
		return &simapi.Refusal{Status: 401, Code: "invalid_api_key"}
	}
	return &simapi.Refusal{Status: 502, WebPage: true}
}
