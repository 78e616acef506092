// Command chaos runs the four programs under faults and checks afterwards that nothing was lost, doubled or paid for twice. It starts a
// private PostgreSQL behind a man in the middle, a simulated image API behind a simulated proxy, several processors and a load of tasks, and
// applies a schedule of faults that depends on a seed alone. docs/reliability.md describes it; scripts/chaos.sh builds and runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// options are the arguments of a run.
type options struct {
	bin        string // directory of the programs
	seconds    int
	seed       uint64
	rate       float64 // tasks per second
	every      time.Duration
	processors int // the last one is the daemon
	print      bool
	keep       bool // the files, even if nothing is wrong
}

func (o options) length() time.Duration { return time.Duration(o.seconds) * time.Second }

func (o options) schedule() []Fault { return newSchedule(o.seed, o.length(), o.every, o.processors) }

// errFailed means that the run went to its end and its checks found something wrong, which was printed.
var errFailed = errors.New("something is wrong")

// errInterrupted means that the run was interrupted. Nothing was checked, and nothing is left.
var errInterrupted = errors.New("interrupted; nothing was checked, and everything is removed")

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = execute(ctx, o, os.Stdout)
	stop()
	if err != nil {
		if !errors.Is(err, errFailed) {
			fmt.Fprintln(os.Stderr, "chaos:", err)
		}
		os.Exit(1)
	}
}

// parse reads the arguments.
func parse(arguments []string, out io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("chaos.sh", flag.ContinueOnError)
	f.SetOutput(out)
	f.StringVar(&o.bin, "bin", "bin", "`DIRECTORY` of the four programs; chaos.sh sets it")
	f.IntVar(&o.seconds, "seconds", 90, "how long faults are made; then the run waits until every task is closed")
	f.Uint64Var(&o.seed, "seed", 1, "of the schedule: the same seed makes the same faults")
	f.Float64Var(&o.rate, "tasks-per-second", 7, "tasks that are enqueued")
	f.DurationVar(&o.every, "fault-every", 3*time.Second, "mean time between two faults")
	f.IntVar(&o.processors, "processors", 4, "processors; the last one is a daemon that the monitor restarts, the others are restarted by this program")
	f.BoolVar(&o.keep, "keep", false, "keep logs and a dump even if nothing is wrong")
	f.BoolVar(&o.print, "print-schedule", false, "print the faults and exit")
	if err := f.Parse(arguments); err != nil {
		return o, err
	}
	fault := ""
	switch {
	case f.NArg() > 0:
		fault = "unexpected argument: " + f.Arg(0)
	case o.seconds < 1 || o.seconds > 7*24*3600:
		fault = "--seconds must be from 1 to 604800"
	case o.rate <= 0 || o.rate > 1000:
		fault = "--tasks-per-second must be more than 0 and at most 1000"
	case o.every < 100*time.Millisecond:
		fault = "--fault-every must be at least 100ms"
	case o.processors < 2 || o.processors > 20:
		fault = "--processors must be from 2 to 20"
	}
	if fault != "" {
		fmt.Fprintln(out, "chaos:", fault)
		return o, errors.New(fault)
	}
	return o, nil
}

// execute makes one run, and removes everything that it made unless something is wrong.
func execute(ctx context.Context, o options, out io.Writer) (err error) {
	if o.print {
		for _, f := range o.schedule() {
			fmt.Fprintln(out, f)
		}
		return nil
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return err
	}
	if o.bin, err = filepath.EvalSymlinks(o.bin); err != nil { // as the kernel names the programs that run
		return err
	}
	s := newSystem(o, out)
	err = s.start(ctx)
	if err == nil {
		err = s.work(ctx)
	}
	if ctx.Err() != nil {
		return errors.Join(errInterrupted, s.cleanup(), s.remove())
	}
	if err != nil || s.problems.count() > 0 || o.keep {
		s.keepFiles()
	}
	cleanupErr := s.cleanup()
	if err = errors.Join(err, cleanupErr); err != nil {
		s.problems.add("run", "%v", err)
	}
	s.report()
	if s.problems.count() > 0 {
		return errFailed
	}
	if o.keep {
		return nil
	}
	return s.remove()
}
