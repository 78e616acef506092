package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"imagetasks/internal/postgres"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// checked returns a load whose highest rate is twice what the slots can do, so that a queue forms and is worked off.
func checked(seconds float64, c costs) config {
	return config{Tasks: 38 * seconds, Peak: 2.2, Day: seconds, Seed: 1, Processors: 1, Concurrency: 30, Seconds: 0.75, PostgresCores: 2, ProcessorCores: 2,
		Memory: math.MaxInt32, Files: math.MaxInt32, Costs: c}
}

// measured is what became of a load that was really worked.
type measured struct {
	tasks     int
	perSecond float64
	waits     histogram
}

// outcome returns the same of a simulation.
func (q *queue) outcome() measured {
	return measured{q.completed, float64(q.completed) / q.lastCompleted, q.waits}
}

// difference compares a value of both.
type difference struct {
	What      string  `json:"what"`
	Simulated float64 `json:"simulated"`
	Measured  float64 `json:"measured"`
	Allowed   float64 `json:"allowed_difference"`
}

func (d difference) ok() bool { return math.Abs(d.Simulated-d.Measured) <= d.Allowed }

// compare allows for waiting times a quarter of the greater value and a quarter of a second, and for the others 15%.
func compare(simulated, worked measured) []difference {
	wait := func(what string, simulated, worked float64) difference {
		return difference{what, simulated, worked, max(simulated, worked)/4 + 0.25}
	}
	return []difference{
		{"tasks", float64(simulated.tasks), float64(worked.tasks), 0},
		{"tasks/s until all are completed", simulated.perSecond, worked.perSecond, 0.15 * max(simulated.perSecond, worked.perSecond)},
		wait("waiting, mean (s)", simulated.waits.mean(), worked.waits.mean()),
		wait("waiting, p50 (s)", simulated.waits.quantile(0.5), worked.waits.quantile(0.5)),
		wait("waiting, p99 (s)", simulated.waits.quantile(0.99), worked.waits.quantile(0.99)),
	}
}

func differs(compared []difference) bool {
	for _, d := range compared {
		if !d.ok() {
			return true
		}
	}
	return false
}

// checkSeconds is the length of the day of --check.
const checkSeconds = 10

func (o options) executeCheck(ctx context.Context, out io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := checked(checkSeconds, o.Costs)
	worked, err := work(ctx, c, postgres.Config{Durable: true})
	if err != nil {
		return err
	}
	compared := compare(simulate(c).outcome(), worked)
	if o.json {
		err = writeJSON(out, map[string]any{"config": c, "compared": compared, "ok": !differs(compared)})
	} else {
		fmt.Fprintf(out, "%.0f tasks in %.0f s, %s s each, in %d slots; the highest rate is %s tasks/s\n\n%-34s %10s %10s %10s\n", c.Tasks, c.Day, number(c.Seconds),
			c.Concurrency, number(c.Tasks/c.Day*c.Peak), "", "simulated", "measured", "allowed")
		for _, d := range compared {
			_, err = fmt.Fprintf(out, "%-34s %10.2f %10.2f %10s\n", d.What, d.Simulated, d.Measured, fmt.Sprintf("± %.2f", d.Allowed))
		}
	}
	if err != nil {
		return err
	}
	if differs(compared) {
		return errDiffers
	}
	return nil
}

// timed is a Worker that takes always the same time, and records when it begins.
type timed struct {
	takes time.Duration
	mu    sync.Mutex
	begun map[string]time.Time // by task id
	ended int
	last  time.Time
	all   chan struct{} // closed when all tasks have ended
	tasks int
}

// Work implements processor.Worker.
func (w *timed) Work(ctx context.Context, t task.Task, c processor.Call) (processor.Result, error) {
	w.mu.Lock()
	if _, again := w.begun[t.ID]; !again {
		w.begun[t.ID] = time.Now()
	}
	w.mu.Unlock()
	if _, err := c.BeforeRequest(ctx); err != nil {
		return processor.Result{}, err
	}
	select {
	case <-ctx.Done():
		return processor.Result{}, ctx.Err()
	case <-time.After(w.takes):
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = time.Now()
	if w.ended++; w.ended == w.tasks {
		close(w.all)
	}
	return processor.Result{URL: "https://example.com/result"}, nil
}

// work works the load of a configuration, in real time, on a private PostgreSQL: a processor works tasks that are enqueued one by one, at the times of the simulation.
func work(ctx context.Context, c config, server postgres.Config) (m measured, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(10*c.Day)*time.Second+time.Minute)
	defer cancel()
	cluster, err := postgres.Start(ctx, server)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	st, err := store.Open(store.Config{URL: cluster.URL("postgres")})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	application, err := store.Open(store.Config{URL: cluster.URL("postgres")})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, application.Close()) }()
	if _, err := st.Migrate(ctx, store.Roles{}); err != nil {
		return m, err
	}
	if _, err := application.GrantCredits(ctx, user, 1_000_000, "simulate", uuid.NewString()); err != nil {
		return m, err
	}
	var times []float64
	for a := newArrivals(c); ; {
		at, ok := a.next()
		if !ok {
			break
		}
		times = append(times, at)
	}
	w := &timed{takes: time.Duration(c.Seconds * float64(time.Second)), begun: map[string]time.Time{}, all: make(chan struct{}), tasks: len(times)}
	p := processor.New(processor.Config{Worker: "simulate", Concurrency: c.Concurrency}, st, w)
	working, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- p.Run(working) }()
	began := time.Now()
	enqueued, err := enqueueAt(ctx, application, began, times)
	if err == nil {
		select {
		case <-w.all:
		case err = <-ended:
			return m, fmt.Errorf("the processor ended before its tasks: %w", err)
		case <-ctx.Done():
			err = fmt.Errorf("the %d tasks were not all worked: %w", len(times), ctx.Err())
		}
	}
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		return m, err
	}
	states, err := st.CountByState(ctx)
	if err != nil {
		return m, err
	}
	m = measured{tasks: states[task.Completed], perSecond: float64(len(times)) / w.last.Sub(began).Seconds()}
	for id, at := range enqueued {
		m.waits.add(max(0, w.begun[id].Sub(at).Seconds()))
	}
	return m, nil
}

const user = "user"

// enqueueAt enqueues a task at each of the times, and returns when each commit was acknowledged.
func enqueueAt(ctx context.Context, application *store.Store, began time.Time, times []float64) (map[string]time.Time, error) {
	enqueued := map[string]time.Time{}
	var errs []error
	var mu sync.Mutex
	var calls sync.WaitGroup
	for _, at := range times {
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(began.Add(time.Duration(at * float64(time.Second))))):
		}
		calls.Go(func() {
			r, err := application.Enqueue(ctx, store.EnqueueRequest{UserID: user, Prompt: "a lantern by a river", Cost: 1})
			now := time.Now()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			enqueued[r.TaskIDs[0]] = now
		})
	}
	calls.Wait()
	return enqueued, errors.Join(errs...)
}
