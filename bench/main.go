// Command bench measures imagetasks beside River, graphile-worker and pgbench, in turns on one private PostgreSQL, and writes the table of
// docs/benchmarks.md. ./scripts/bench.sh runs it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := dispatch(ctx, os.Args[1:], os.Stdin, os.Stdout)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// dispatch runs the benchmarks, or one of the processes that they start.
func dispatch(ctx context.Context, arguments []string, in io.Reader, out io.Writer) error {
	if len(arguments) == 2 && arguments[0] == "contender" {
		return runContender(ctx, arguments[1], in, out)
	}
	if len(arguments) == 2 && arguments[0] == "latency" {
		var l load
		if err := json.Unmarshal([]byte(arguments[1]), &l); err != nil {
			return err
		}
		values, err := runLatency(ctx, l)
		if err != nil {
			return err
		}
		return json.NewEncoder(out).Encode(values)
	}
	if len(arguments) > 0 && arguments[0] == "first" {
		return first(ctx, arguments[1:], out)
	}
	o, err := parseOptions(arguments, out)
	if err != nil {
		return err
	}
	return o.run(ctx, out)
}

// group is rows that are measured together.
type group struct {
	rows []string // their names
	run  func(ctx context.Context, b *suite) ([]row, error)
}

// groups are all rows, in the order of the table.
var groups = []group{
	{[]string{"noop", "processors", "paid"}, throughput},
	{[]string{"idle"}, idle},
	{[]string{"closed", "transaction"}, history},
	{[]string{"enqueue"}, enqueue},
	{[]string{"latency"}, latency},
	{[]string{"sweep"}, sweep},
	{[]string{"monitor"}, monitorPass},
	{[]string{"memory"}, memory},
	{[]string{"cpu"}, cpuTime},
	{[]string{"binaries"}, binaries},
	{[]string{"bridge"}, bridge},
}

// tableOrder is the order of the rows in the table.
var tableOrder = []string{"noop", "processors", "closed", "transaction", "paid", "enqueue", "latency", "sweep", "idle", "monitor", "memory", "cpu", "binaries", "bridge"}

type options struct {
	quick, full bool
	pairs       int
	rows        []string // nil: all
	write       string   // directory of docs; empty: nothing is written
}

const usageText = `Measures imagetasks beside River (pgx, lib/pq), graphile-worker and pgbench, in turns on one private PostgreSQL with fsync on, and writes the
table of docs/benchmarks.md, the values (docs/benchmarks/values.json) and plots (docs/benchmarks/*.svg). The last line is "ratio to River: N.NN".

  --quick       smaller and fewer runs, in under 3 minutes; writes nothing unless --write is given
  --full        10,000,000 closed rows instead of 1,000,000; needs 30 GB and about an hour
  --rows A,B    only these rows: %s
  --pairs N     runs of each contender (5; --quick: 3)
  --write DIR   where benchmarks.md and benchmarks/ are written; none: nothing is written (docs)
`

func parseOptions(arguments []string, out io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() { fmt.Fprintf(out, usageText, strings.Join(tableOrder, ", ")) }
	flags.BoolVar(&o.quick, "quick", false, "")
	flags.BoolVar(&o.full, "full", false, "")
	flags.IntVar(&o.pairs, "pairs", 0, "")
	rows := flags.String("rows", "", "")
	flags.StringVar(&o.write, "write", "", "")
	if err := flags.Parse(arguments); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q; --help lists them", flags.Arg(0))
	}
	if o.quick && o.full {
		return o, errors.New("--quick and --full exclude each other")
	}
	if *rows != "" {
		o.rows = strings.Split(*rows, ",")
		for _, name := range o.rows {
			if !slices.Contains(tableOrder, name) {
				return o, fmt.Errorf("there is no row %q; there are %s", name, strings.Join(tableOrder, ", "))
			}
		}
	}
	if o.pairs < 0 {
		return o, errors.New("--pairs must be more than 0")
	}
	if o.pairs == 0 {
		o.pairs = 5
		if o.quick {
			o.pairs = 3
		}
	}
	switch {
	case o.write == "" && !o.quick && o.rows == nil:
		o.write = "docs"
	case o.write == "none":
		o.write = ""
	}
	return o, nil
}

func (o options) wants(g group) bool {
	return o.rows == nil || slices.ContainsFunc(g.rows, func(name string) bool { return slices.Contains(o.rows, name) })
}

// run measures the rows, and writes and prints the result.
func (o options) run(ctx context.Context, out io.Writer) (err error) {
	root, err := projectRoot()
	if err != nil {
		return err
	}
	s, err := startServer(ctx, serverSettings)
	if err != nil {
		return err
	}
	b := &suite{server: s, root: root, quick: o.quick, full: o.full, pairs: o.pairs, histories: map[int]string{}, log: out}
	defer func() { err = errors.Join(err, b.close()) }()
	began := time.Now()
	rep := report{Date: began.UTC().Format(time.DateOnly), Quick: o.quick, Full: o.full, Pairs: o.pairs, Settings: serverSettings}
	if err := rep.describeMachine(ctx, s, root); err != nil {
		return err
	}
	for _, g := range groups {
		if !o.wants(g) {
			continue
		}
		fmt.Fprintf(out, "== %s\n", strings.Join(g.rows, ", "))
		start := time.Now()
		rows, err := g.run(ctx, b)
		if err != nil {
			return fmt.Errorf("%s: %w", strings.Join(g.rows, ", "), err)
		}
		rep.Rows = append(rep.Rows, rows...)
		fmt.Fprintf(out, "   %d s\n", int(time.Since(start).Seconds()))
	}
	rep.Took = time.Since(began)
	slices.SortFunc(rep.Rows, func(a, b row) int { return slices.Index(tableOrder, a.Name) - slices.Index(tableOrder, b.Name) })
	fmt.Fprintf(out, "\n%s\n", rep.markdown(""))
	if o.write != "" {
		if err := rep.write(o.write, root); err != nil {
			return err
		}
	}
	if b.toRiver > 0 {
		fmt.Fprintf(out, "ratio to River: %.2f\n", b.toRiver)
	}
	return nil
}

// first runs contenders of the first row alone, with other sizes.
func first(ctx context.Context, arguments []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("bench first", flag.ContinueOnError)
	flags.SetOutput(out)
	n := flags.Int("tasks", 50_000, "tasks of each run")
	pairs := flags.Int("pairs", 3, "runs of each contender")
	only := flags.String("only", "ours,river-pgx", "contenders, in turns: ours, river-pgx, river-pq")
	concurrency := flags.Int("concurrency", oursConcurrency, "tasks in flight of ours")
	conns := flags.Int("conns", 0, "connections; 0: the default")
	paid := flags.Bool("paid", false, "each task of ours records a paid request")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	s, err := startServer(ctx, serverSettings)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	templates := map[string]string{}
	for range *pairs {
		for kind := range strings.SplitSeq(*only, ",") {
			family, _, _ := strings.Cut(kind, "-")
			if templates[family] == "" {
				if family == "ours" {
					templates[family], err = newOurs(ctx, s, *n, users)
				} else {
					templates[family], err = newRiver(ctx, s, *n)
				}
				if err != nil {
					return err
				}
			}
			r, err := s.workCopy(ctx, templates[family], *n, load{Kind: kind, Concurrency: *concurrency, Conns: *conns, Paid: *paid})
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "%-10s %6.0f/s, CPU of its process %v\n", kind, r.perSecond(), r.CPU.Round(time.Millisecond))
		}
	}
	return nil
}
