package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) == 3 && os.Args[1] == "contender" {
		if err := runContender(ctx, os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 2 && os.Args[1] == "proc" {
		if err := proc(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if err := first(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// first runs the first row alone, for whoever optimizes it.
func first(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("bench first", flag.ContinueOnError)
	n := flags.Int("tasks", 50_000, "tasks of each run")
	pairs := flags.Int("pairs", 3, "runs of each contender")
	only := flags.String("only", "ours,river-pgx", "contenders, in turns")
	concurrency := flags.Int("concurrency", oursConcurrency, "tasks in flight of ours")
	conns := flags.Int("conns", 0, "connections; 0: the default")
	paid := flags.Bool("paid", false, "each task of ours records a paid request")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	s, err := startServer(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	templates := map[string]string{}
	for range *pairs {
		for _, kind := range strings.Split(*only, ",") {
			family, _, _ := strings.Cut(kind, "-")
			if templates[family] == "" {
				if family == "ours" {
					templates[family], err = newOurs(ctx, s, *n, 50)
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
			fmt.Printf("%-10s %6.0f/s, CPU of its process %v, peak memory %d MiB\n", kind, r.perSecond(), r.CPU.Round(time.Millisecond), r.Peak>>20)
		}
	}
	return nil
}

func proc(ctx context.Context) (err error) {
	s, err := startServer(ctx)
	if err != nil {
		return err
	}
	root, err := projectRoot()
	if err != nil {
		return err
	}
	b := &suite{server: s, root: root, quick: os.Getenv("QUICK") != "", pairs: 5}
	defer func() { fmt.Println(b.close()) }()
	for _, f := range []func(context.Context, *suite) (row, error){rowMonitor, rowMemory, rowCPU, rowBinaries} {
		r, err := f(ctx, b)
		if err != nil {
			fmt.Println("ERROR", err)
			continue
		}
		fmt.Println(r.Title, r.Detail)
		for _, s := range r.Series {
			fmt.Printf("   %s: %.1f %s (%.1f-%.1f)\n", s.Name, s.median(), s.Unit, s.min(), s.max())
		}
		for _, a := range r.Aims {
			fmt.Printf("   %+v met %v\n", a, a.met())
		}
	}
	return nil
}
