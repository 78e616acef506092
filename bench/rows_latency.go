package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"

	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// latency measures the time from the commit of an insert, as the application sees it, to the begin of its work, in a processor that has nothing else
// to do.
func latency(ctx context.Context, b *suite) ([]row, error) {
	s, samples := b.server, b.times(200, 60)
	ours, err := newOurs(ctx, s, 0, 1)
	if err != nil {
		return nil, err
	}
	peer, err := newRiver(ctx, s, 0)
	if err != nil {
		return nil, err
	}
	var middle, slow [2]series
	kinds := []string{"ours", "river-pgx"}
	for i, name := range []string{"ours", "River, pgx"} {
		middle[i], slow[i] = series{Name: name + ", p50", Unit: "ms"}, series{Name: name + ", p99", Unit: "ms"}
	}
	for range b.pairs {
		for i, kind := range kinds {
			var name string
			if kind == "ours" {
				name, err = copyOurs(ctx, s, ours)
			} else {
				name, err = s.database(ctx, peer)
			}
			if err != nil {
				return nil, err
			}
			if err := s.checkpoint(ctx); err != nil {
				return nil, err
			}
			values, err := latencyChild(ctx, load{Kind: kind, Name: "bench", URL: s.URL(name), Concurrency: 100, Samples: samples})
			if err != nil {
				return nil, fmt.Errorf("latency of %s: %w", kind, err)
			}
			middle[i].Values, slow[i].Values = append(middle[i].Values, quantile(values, 0.5)), append(slow[i].Values, quantile(values, 0.99))
			b.progress("latency, %s: p50 %.2f ms, p99 %.2f ms", kind, quantile(values, 0.5), quantile(values, 0.99))
			if kind == "ours" {
				if err := auditOurs(ctx, s, name); err != nil {
					return nil, err
				}
			}
			if err := s.drop(ctx, name); err != nil {
				return nil, err
			}
		}
	}
	return []row{{
		Name: "latency", Title: "commit acknowledged → work begins, idle processor",
		Detail: fmt.Sprintf("one task at a time, after a pause of 5 to 25 ms; %d tasks for each value. The insert and the processor are in one process, with connections of their own", samples),
		Series: []series{middle[0], middle[1], slow[0], slow[1]},
		Aims:   []aim{named("p50", ratio(middle[0], middle[1], 0.5, true)), named("p99", ratio(slow[0], slow[1], 0.5, true))}, Audited: true,
	}}, nil
}

func latencyChild(ctx context.Context, l load) (values []float64, err error) {
	argument, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "latency", string(argument))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	return values, json.Unmarshal(out, &values)
}

// started tells when the work of a task began.
type started chan time.Time

// Work implements processor.Worker.
func (s started) Work(context.Context, task.Task, processor.Call) (processor.Result, error) {
	s <- time.Now()
	return processor.Result{URL: "https://example.com/result"}, nil
}

type riverStarted struct {
	river.WorkerDefaults[riverArgs]
	started
}

// Work implements river.Worker.
func (w *riverStarted) Work(context.Context, *river.Job[riverArgs]) error {
	w.started <- time.Now()
	return nil
}

// runLatency is the process that measures latencies, and returns them in ms.
func runLatency(ctx context.Context, l load) (values []float64, err error) {
	begun := make(started, 1)
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	working, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	var insert func(context.Context) error
	if l.Kind == "ours" {
		application, err := store.Open(store.Config{URL: l.URL})
		if err != nil {
			return nil, err
		}
		defer application.Close()
		st, err := store.Open(store.Config{URL: l.URL})
		if err != nil {
			return nil, err
		}
		defer st.Close()
		if _, err := application.GrantCredits(ctx, "user", 1_000_000, "bench", uuid.NewString()); err != nil {
			return nil, err
		}
		p := processor.New(processor.Config{Worker: l.Name, Concurrency: l.Concurrency}, st, begun)
		go func() { ended <- p.Run(working) }()
		insert = func(ctx context.Context) error {
			_, err := application.Enqueue(ctx, store.EnqueueRequest{UserID: "user", Prompt: prompt, Cost: 1})
			return err
		}
	} else {
		c, err := newRiverPgx(ctx, l, &riverStarted{started: begun})
		if err != nil {
			return nil, err
		}
		go func() { ended <- c.run(working) }()
		insert = func(ctx context.Context) error { return c.insert(ctx, riverArgs{User: "user", Prompt: prompt}) }
	}
	const warmUp = 20
	for i := range l.Samples + warmUp {
		time.Sleep(5*time.Millisecond + rand.N(20*time.Millisecond))
		if err := insert(ctx); err != nil {
			return nil, err
		}
		committed := time.Now()
		select {
		case at := <-begun:
			if i >= warmUp {
				values = append(values, ms(at.Sub(committed)))
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("task %d was not begun: %w", i, ctx.Err())
		}
	}
	stop()
	return values, <-ended
}
