// Command simulate simulates a day of the queue: random tasks, slots of the processors, the time of the API, and what PostgreSQL, the processors' hosts
// and the proxy do for each task. It says how long tasks wait, what is the limit, and what to change. docs/scaling.md describes it;
// ./scripts/simulate.sh builds and runs it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

// The exit codes of the programs.
const (
	exitFailed   = 1
	exitUsage    = 2
	exitProblems = 3
)

var (
	// errLimit means that something is full in the simulated day. It was printed.
	errLimit = errors.New("something is full")
	// errDiffers means that what was measured is not what was simulated. It was printed.
	errDiffers = errors.New("what was measured differs from what was simulated")
	// errUsage is in errors about arguments.
	errUsage = errors.New("wrong usage")
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run does what the arguments say, and returns the exit code.
func run(ctx context.Context, arguments []string, out, errs io.Writer) int {
	o, err := parse(arguments, out)
	if err == nil {
		err = o.execute(ctx, out)
	}
	code := 0
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errLimit), errors.Is(err, errDiffers):
		return exitProblems
	case errors.Is(err, errUsage):
		code = exitUsage
	default:
		code = exitFailed
	}
	if o.json {
		_ = writeJSON(out, map[string]any{"error": map[string]any{"message": err.Error(), "exit_code": code}})
	} else {
		fmt.Fprintln(errs, "simulate:", err)
	}
	return code
}

type options struct {
	config
	values      string
	json, check bool
	write       string
}

const usageText = `Simulates a day of the queue, and prints how long tasks wait, what is used how much, and which limit is reached.
Exit code 0, or 3 when something is full, or the check fails.

  --tasks N             tasks in the day, at most 20,000,000 (20,000); a million takes some seconds
  --peak N              highest rate of the day, which is at 14:00, in means: 1 to 20 (3)
  --seconds N           time of the API for a task (30)
  --spread N            its coefficient of variation: 0 always the same, 1 exponential, at most 3 (0.5)
  --answer MIB          size of an answer: 4 MiB are a picture of 3 MiB in base64 (4)
  --upload MIB          size of a request with its input pictures (0.01)
  --bandwidth MBIT      of the proxy in each direction, in Mbit/s; 0: no limit (100)
  --processors N        at most 1000, each on a host of its own (1)
  --concurrency N       TASK_CONCURRENCY of each, at most 1000 (3)
  --processor-cores N   of each host of a processor (2)
  --memory MIB          of each host of a processor (1024)
  --files N             open files that a processor may have: ulimit -Hn (524288)
  --postgres-cores N    of PostgreSQL's host (as measured; 2)
  --seed N              of the random times (1)
  --values FILE         measured values that costs are derived from; without it built-in ones (docs/benchmarks/values.json)
  --enqueue-ms N        PostgreSQL's time for an enqueue, instead of the one derived
  --statement-ms N      its time for each statement of a processor, without what each task adds
  --task-ms N           what each task adds, in all three statements
  --picture-ms N        a processor's time for each MiB of an answer
  --json                prints one JSON document
  --check               works a real load of some seconds on a private PostgreSQL, and compares it with its simulation
  --write FILE          writes the tables of docs/scaling.md into that file
`

func parse(arguments []string, out io.Writer) (o options, err error) {
	for _, a := range arguments { // also for an error in another argument
		o.json = o.json || a == "--json" || a == "-json"
	}
	flags := flag.NewFlagSet("simulate", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Float64Var(&o.Tasks, "tasks", 20_000, "")
	flags.Float64Var(&o.Peak, "peak", 3, "")
	flags.Float64Var(&o.Seconds, "seconds", 30, "")
	flags.Float64Var(&o.Spread, "spread", 0.5, "")
	flags.Float64Var(&o.Answer, "answer", 4, "")
	flags.Float64Var(&o.Upload, "upload", 0.01, "")
	flags.Float64Var(&o.Bandwidth, "bandwidth", 100, "")
	flags.IntVar(&o.Processors, "processors", 1, "")
	flags.IntVar(&o.Concurrency, "concurrency", 3, "")
	flags.IntVar(&o.ProcessorCores, "processor-cores", 2, "")
	flags.Float64Var(&o.Memory, "memory", 1024, "")
	flags.Float64Var(&o.Files, "files", 524_288, "")
	flags.IntVar(&o.PostgresCores, "postgres-cores", 0, "")
	flags.Uint64Var(&o.Seed, "seed", 1, "")
	flags.StringVar(&o.values, "values", "docs/benchmarks/values.json", "")
	flags.BoolVar(&o.json, "json", o.json, "")
	flags.BoolVar(&o.check, "check", false, "")
	flags.StringVar(&o.write, "write", "", "")
	enqueue := flags.Float64("enqueue-ms", 0, "")
	statement := flags.Float64("statement-ms", 0, "")
	task := flags.Float64("task-ms", 0, "")
	picture := flags.Float64("picture-ms", 0, "")
	if err := flags.Parse(arguments); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(out, usageText)
			return o, err
		}
		return o, fmt.Errorf("%w: %w; --help lists the options", errUsage, err)
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%w: unknown argument %q; --help lists the options", errUsage, flags.Arg(0))
	}
	o.Day = 86400
	measured, err := readFigures(o.values)
	if err != nil {
		return o, err
	}
	o.Costs = measured.costs()
	flags.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "enqueue-ms":
			o.Costs.Enqueue = *enqueue / 1000
		case "statement-ms":
			o.Costs.Statement = *statement / 1000
		case "task-ms":
			o.Costs.Claim, o.Costs.Request, o.Costs.Complete = *task/3000, *task/3000, *task/3000
		case "picture-ms":
			o.Costs.Picture = *picture / 1000
		}
	})
	if o.PostgresCores == 0 {
		o.PostgresCores = int(measured.Cores)
	}
	return o, o.validate()
}

// validate checks the ranges of all numbers.
func (c config) validate() error {
	for _, x := range []struct {
		name         string
		value        float64
		lowest, most float64
	}{
		{name: "tasks", value: c.Tasks, lowest: 1, most: 20_000_000},
		{name: "peak", value: c.Peak, lowest: 1, most: 20},
		{name: "seconds", value: c.Seconds, most: 3600},
		{name: "spread", value: c.Spread, most: 3},
		{name: "answer", value: c.Answer, most: 1024},
		{name: "upload", value: c.Upload, most: 1024},
		{name: "bandwidth", value: c.Bandwidth, most: 1e6},
		{name: "processors", value: float64(c.Processors), lowest: 1, most: 1000},
		{name: "concurrency", value: float64(c.Concurrency), lowest: 1, most: maxConcurrency},
		{name: "processor-cores", value: float64(c.ProcessorCores), lowest: 1, most: 1024},
		{name: "postgres-cores", value: float64(c.PostgresCores), lowest: 1, most: 1024},
		{name: "memory", value: c.Memory, lowest: 1, most: 1e9},
		{name: "files", value: c.Files, lowest: 1, most: 1e9},
		{name: "enqueue-ms", value: c.Costs.Enqueue * 1000, most: 60_000},
		{name: "statement-ms", value: c.Costs.Statement * 1000, most: 60_000},
		{name: "task-ms", value: c.Costs.Claim * 3000, most: 60_000},
		{name: "picture-ms", value: c.Costs.Picture * 1000, most: 60_000},
	} {
		if !(x.value >= x.lowest && x.value <= x.most) {
			return fmt.Errorf("%w: --%s is %s; it must be from %s to %s", errUsage, x.name, number(x.value), number(x.lowest), number(x.most))
		}
	}
	return nil
}

func (o options) execute(ctx context.Context, out io.Writer) error {
	switch {
	case o.check:
		return o.executeCheck(ctx, out)
	case o.write != "":
		return writeTables(o.write, o.values)
	}
	r := newReport(simulate(o.config))
	if o.json {
		if err := writeJSON(out, r); err != nil {
			return err
		}
	} else {
		fmt.Fprint(out, r.text())
	}
	if r.Limit != "" {
		return errLimit
	}
	return nil
}

func writeJSON(out io.Writer, document any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(document)
}
