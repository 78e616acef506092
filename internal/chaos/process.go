package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"imagetasks/internal/postgres"
)

// processor is one processor: a process that this program starts again whenever it ends, or the daemon.
type processor struct {
	system     *system
	number     int
	dir        string // its LOG_DIR
	output     string // file of what it prints; empty: the daemon
	statusAddr string
	commands   sync.Mutex // held by commands on the daemon, one at a time
	stopping   context.CancelFunc
	ended      chan struct{}

	mu      sync.Mutex
	process *os.Process
}

func newProcessor(s *system, number int) *processor {
	p := &processor{system: s, number: number, dir: filepath.Join(s.dir, fmt.Sprintf("processor-%d", number)), statusAddr: "off"}
	if number < s.options.processors-1 {
		p.output = filepath.Join(s.dir, fmt.Sprintf("processor-%d.out", number))
	}
	return p
}

func (p *processor) isDaemon() bool { return p.output == "" }

func (p *processor) env() []string {
	return append([]string{"LOG_DIR=" + p.dir, "STATUS_ADDR=" + p.statusAddr}, p.system.env...)
}

// begin starts the process, and starts it again whenever it ends, until finish is called.
func (p *processor) begin(ctx context.Context) {
	ctx, p.stopping = context.WithCancel(ctx)
	p.ended = make(chan struct{})
	go func() {
		defer close(p.ended)
		for ctx.Err() == nil {
			if err := p.runOnce(); err != nil {
				p.system.problems.add("a processor starts", "processor %d: %v", p.number, err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(300 * time.Millisecond):
			}
		}
	}()
}

// runOnce starts the process and waits until it ends.
func (p *processor) runOnce() error {
	out, err := os.OpenFile(p.output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(filepath.Join(p.system.bin, "task-processor"), "run")
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.system.dir, p.env(), out, out
	exited, err := postgres.StartChild(cmd, syscall.SIGKILL)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.process = cmd.Process
	p.mu.Unlock()
	<-exited
	p.mu.Lock()
	defer p.mu.Unlock()
	p.process = nil
	return nil
}

// current returns the running process, or nil.
func (p *processor) current() *os.Process {
	if p.isDaemon() {
		return p.daemonProcess()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process
}

// daemonProcess returns the process in the pid file if it is one of our programs.
func (p *processor) daemonProcess() *os.Process {
	text, err := os.ReadFile(filepath.Join(p.dir, "task-processor.pid"))
	if err != nil {
		return nil
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || !p.system.isOurs(pid) {
		return nil
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return nil
	}
	return process
}

// isOurs reports whether a process runs one of the programs of this run.
func (s *system) isOurs(pid int) bool {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false
	}
	if filepath.Dir(strings.TrimSuffix(path, " (deleted)")) != s.bin || filepath.Base(path) == "chaos" {
		return false
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && bytes.Contains(environ, []byte("HOME="+s.dir+"\x00"))
}

// signal sends a signal to the running process and returns its pid; ok is false if there is none.
func (p *processor) signal(sig syscall.Signal) (pid int, ok bool) {
	process := p.current()
	if process == nil || process.Signal(sig) != nil {
		return 0, false
	}
	return process.Pid, true
}

// toolTimeout bounds every program that is run to its end. "stop" waits for paid requests.
const toolTimeout = taskTimeout + 60*time.Second

// tool runs a program for this processor.
func (p *processor) tool(ctx context.Context, name string, args ...string) (int, string) {
	return p.system.runToolIn(ctx, p.env(), name, args...)
}

// runTool runs a program with its own LOG_DIR.
func (s *system) runTool(ctx context.Context, logDir, name string, args ...string) (int, string) {
	return s.runToolIn(ctx, append([]string{"LOG_DIR=" + logDir, "STATUS_ADDR=off"}, s.env...), name, args...)
}

func (s *system) runToolIn(ctx context.Context, env []string, name string, args ...string) (int, string) {
	bounded, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(bounded, filepath.Join(s.bin, name), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) }
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.dir, env, &out, &out
	err := cmd.Run()
	s.mu.Lock()
	s.tools++
	s.mu.Unlock()
	line := name + " " + strings.Join(args, " ")
	if bounded.Err() != nil && ctx.Err() == nil {
		s.problems.add("every program ends", "%s did not end within %s: %s", line, toolTimeout, out.String())
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		s.problems.add("every program runs", "%s: %v", line, err)
	} else if ok && ctx.Err() == nil && (exit.ExitCode() < 0 || exit.ExitCode() > 3 || isCrash(out.String())) {
		s.problems.add("no program crashes", "%s: %v: %s", line, err, out.String())
	}
	s.record(fmt.Sprintf("%s: %v\n%s", line, cmd.ProcessState, out.String()))
	return cmd.ProcessState.ExitCode(), out.String()
}

// record keeps what a program printed.
func (s *system) record(text string) {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	f, err := os.OpenFile(filepath.Join(s.dir, "tools.out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return // it is for people who look for a cause
	}
	defer f.Close()
	_, _ = fmt.Fprintf(f, "%.1fs %s", time.Since(s.began).Seconds(), text)
}

func isCrash(output string) bool {
	return strings.Contains(output, "panic:") || strings.Contains(output, "fatal error:") || strings.Contains(output, "goroutine 1 [")
}

// stopTimeout is the longest that a planned stop may take: paid requests may take TASK_TIMEOUT, and the rest the grace. The last writes have
// 10 seconds.
const stopTimeout = taskTimeout + shutdownGrace + 10*time.Second + 5*time.Second

// awaitEnd waits until the process has ended.
func (p *processor) awaitEnd(process *os.Process, timeout time.Duration) bool {
	deadline := time.Now().Add(timeout)
	for time.Now().Before(deadline) {
		if now := p.current(); now == nil || now.Pid != process.Pid {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

// stopProcessors stops all processors as planned.
func (s *system) stopProcessors(ctx context.Context) {
	for _, p := range s.processors {
		process := p.current()
		if p.isDaemon() {
			if code, output := p.tool(ctx, "task-processor", "stop"); code != 0 {
				s.problems.add("stop stops", "task-processor stop: exit code %d: %s", code, output)
			}
			continue
		}
		p.stopping()
		p.signal(syscall.SIGTERM)
		if process != nil && !p.awaitEnd(process, stopTimeout) {
			s.problems.add("SIGTERM ends every processor", "processor %d still runs %s after it", p.number, stopTimeout)
		}
	}
}

// endPrograms kills what still runs, and reports it if the run was not interrupted.
func (s *system) endPrograms() error {
	for _, p := range s.processors {
		if p.stopping != nil {
			p.stopping()
			p.signal(syscall.SIGKILL)
			<-p.ended
		}
	}
	found, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, path := range found {
		pid, err := strconv.Atoi(filepath.Base(path))
		if err != nil || !s.isOurs(pid) {
			continue
		}
		line, _ := os.ReadFile(filepath.Join(path, "cmdline"))
		if s.stoppedAll() {
			s.problems.add("no process is left", "%d %s", pid, bytes.ReplaceAll(line, []byte{0}, []byte(" ")))
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// stoppedAll reports whether the run came to its end, so that nothing may be left.
func (s *system) stoppedAll() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts.checked
}

// crashes reports processors that crashed, by what they printed.
func (s *system) crashes() error {
	for _, p := range s.processors {
		files := []string{p.output, filepath.Join(p.dir, "task-processor.out")}
		for _, name := range files {
			f, err := os.Open(name)
			if err != nil {
				continue
			}
			text, err := io.ReadAll(f)
			if err = errors.Join(err, f.Close()); err != nil {
				return err
			}
			if isCrash(string(text)) {
				s.problems.add("no program crashes", "see %s", name)
			}
		}
	}
	return nil
}
