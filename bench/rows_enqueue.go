package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/sirupsen/logrus"

	"imagetasks/pkg/repair"
	"imagetasks/pkg/store"
)

// sessions is how many goroutines enqueue at the same time, each for users of its own.
const sessions = 4

// inSessions calls add from several goroutines until it was called for each number below n, and returns the calls per second.
func inSessions(ctx context.Context, n int, add func(ctx context.Context, session, i int) error) (perSecond float64, err error) {
	errs := make([]error, sessions)
	var adding sync.WaitGroup
	began := time.Now()
	for session := range sessions {
		adding.Go(func() {
			for i := session; i < n && errs[session] == nil; i += sessions {
				errs[session] = add(ctx, session, i)
			}
		})
	}
	adding.Wait()
	return float64(n) / time.Since(began).Seconds(), errors.Join(errs...)
}

// enqueue measures how fast tasks are enqueued with their charge, beside River, which charges nobody.
func enqueue(ctx context.Context, b *suite) ([]row, error) {
	s := b.server
	bulk, single := b.times(50_000, 10_000), b.times(4_000, 800)
	const perCall = 1000
	ours, err := newOurs(ctx, s, 0, 1)
	if err != nil {
		return nil, err
	}
	peer, err := newRiver(ctx, s, 0)
	if err != nil {
		return nil, err
	}
	unit := "tasks/s"
	oursBulk, riverBulk, riverCopy := series{Name: "ours, bulk", Unit: unit}, series{Name: "River, InsertMany", Unit: unit}, series{Name: "River, InsertManyFast (COPY)", Unit: unit}
	oursSingle, riverSingle := series{Name: "ours, single", Unit: unit}, series{Name: "River, Insert", Unit: unit}
	for range b.pairs {
		name, err := copyOurs(ctx, s, ours)
		if err != nil {
			return nil, err
		}
		rates, err := s.enqueueOurs(ctx, name, bulk, single, perCall)
		if err != nil {
			return nil, err
		}
		oursBulk.Values, oursSingle.Values = append(oursBulk.Values, rates[0]), append(oursSingle.Values, rates[1])
		if err := auditOurs(ctx, s, name); err != nil {
			return nil, err
		}
		if err := s.drop(ctx, name); err != nil {
			return nil, err
		}
		if name, err = s.database(ctx, peer); err != nil {
			return nil, err
		}
		if rates, err = s.insertRiver(ctx, name, bulk, single, perCall); err != nil {
			return nil, err
		}
		riverBulk.Values, riverCopy.Values, riverSingle.Values = append(riverBulk.Values, rates[0]), append(riverCopy.Values, rates[1]), append(riverSingle.Values, rates[2])
		if err := s.drop(ctx, name); err != nil {
			return nil, err
		}
		b.progress("enqueue: bulk %.0f, River %.0f and %.0f; single %.0f, River %.0f", oursBulk.Values[len(oursBulk.Values)-1], rates[0], rates[1],
			oursSingle.Values[len(oursSingle.Values)-1], rates[2])
	}
	return []row{{
		Name: "enqueue", Title: "enqueue with charge, bulk and single",
		Detail: fmt.Sprintf("%d sessions; bulk: %s tasks, %d in each call, each session for users of its own; single: %s tasks. River inserts the same numbers of jobs "+
			"and charges nobody; InsertManyFast returns no ids", sessions, count(bulk), perCall, count(single)),
		Series: []series{oursBulk, riverBulk, riverCopy, oursSingle, riverSingle},
		Aims: []aim{named("bulk", ratio(oursBulk, riverBulk, 1, false)), named("bulk", ratio(oursBulk, riverCopy, 1, false)),
			named("single", stated(oursSingle, riverSingle))},
		Audited: true,
	}}, nil
}

func named(what string, a aim) aim {
	a.What = what
	return a
}

// enqueueOurs returns the tasks per second in bulk and single.
func (s *server) enqueueOurs(ctx context.Context, database string, bulk, single, perCall int) (rates []float64, err error) {
	st, err := store.Open(store.Config{URL: s.URL(database)})
	if err != nil {
		return nil, err
	}
	defer st.Close()
	for session := range sessions {
		if _, err := st.GrantCredits(ctx, fmt.Sprintf("user-%d", session), int64(bulk+single), "bench", uuid.NewString()); err != nil {
			return nil, err
		}
	}
	if err := s.checkpoint(ctx); err != nil {
		return nil, err
	}
	for _, step := range []struct{ tasks, perCall int }{{bulk, perCall}, {single, 1}} {
		rate, err := inSessions(ctx, step.tasks/step.perCall, func(ctx context.Context, session, _ int) error {
			_, err := st.Enqueue(ctx, store.EnqueueRequest{UserID: fmt.Sprintf("user-%d", session), Prompt: prompt, Cost: 1, Count: step.perCall})
			return err
		})
		if err != nil {
			return nil, err
		}
		rates = append(rates, rate*float64(step.perCall))
	}
	return rates, nil
}

// insertRiver returns the jobs per second of InsertMany, of InsertManyFast and of Insert.
func (s *server) insertRiver(ctx context.Context, database string, bulk, single, perCall int) (rates []float64, err error) {
	conf, err := pgxpool.ParseConfig(s.URL(database))
	if err != nil {
		return nil, err
	}
	conf.MaxConns = 2 * sessions
	pool, err := pgxpool.NewWithConfig(ctx, conf)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Logger: quiet()})
	if err != nil {
		return nil, err
	}
	batch := func() []river.InsertManyParams {
		jobs := make([]river.InsertManyParams, perCall)
		for i := range jobs {
			jobs[i].Args = riverArgs{User: "user-0", Prompt: prompt}
		}
		return jobs
	}
	if err := s.checkpoint(ctx); err != nil {
		return nil, err
	}
	for _, step := range []struct {
		tasks, perCall int
		insert         func(context.Context) error
	}{
		{bulk, perCall, func(ctx context.Context) error { _, err := client.InsertMany(ctx, batch()); return err }},
		{bulk, perCall, func(ctx context.Context) error { _, err := client.InsertManyFast(ctx, batch()); return err }},
		{single, 1, func(ctx context.Context) error {
			_, err := client.Insert(ctx, riverArgs{User: "user-0", Prompt: prompt}, nil)
			return err
		}},
	} {
		rate, err := inSessions(ctx, step.tasks/step.perCall, func(ctx context.Context, _, _ int) error { return step.insert(ctx) })
		if err != nil {
			return nil, err
		}
		rates = append(rates, rate*float64(step.perCall))
	}
	return rates, nil
}

//go:embed sql/sweep_limit.sql
var sweepLimit string

// sweep measures how fast stuck tasks are failed and refunded, beside one plain statement that does as much.
func sweep(ctx context.Context, b *suite) ([]row, error) {
	s, n := b.server, b.times(100_000, 10_000)
	owners := b.times(1000, 200)
	template, err := newOurs(ctx, s, n, owners)
	if err != nil {
		return nil, err
	}
	if err := s.abandonAll(ctx, template, n); err != nil {
		return nil, err
	}
	ours, limit := series{Name: "ours", Unit: "tasks/s"}, series{Name: "one statement", Unit: "tasks/s"}
	for range b.pairs {
		for _, c := range []*series{&ours, &limit} {
			name, err := copyOurs(ctx, s, template)
			if err != nil {
				return nil, err
			}
			if err := s.checkpoint(ctx); err != nil {
				return nil, err
			}
			began := time.Now()
			if c == &ours {
				err = s.sweepAll(ctx, name, n)
			} else {
				err = s.exec(ctx, name, sweepLimit)
			}
			if err != nil {
				return nil, fmt.Errorf("sweep, %s: %w", c.Name, err)
			}
			c.Values = append(c.Values, float64(n)/time.Since(began).Seconds())
			b.progress("sweep, %s: %.0f tasks/s", c.Name, c.Values[len(c.Values)-1])
			if err := s.requireSwept(ctx, name, n); err != nil {
				return nil, fmt.Errorf("sweep, %s: %w", c.Name, err)
			}
			if err := s.drop(ctx, name); err != nil {
				return nil, err
			}
		}
	}
	return []row{{
		Name: "sweep", Title: fmt.Sprintf("sweep and refund of %s stuck tasks of %s users", count(n), count(owners)),
		Detail: "in batches, by what `fix-stuck-tasks` calls (repair.Sweep, its log discarded); the limit is bench/sql/sweep_limit.sql",
		Series: []series{ours, limit}, Aims: []aim{ratio(ours, limit, 0.8, false)}, Audited: true,
	}}, nil
}

// abandonAll claims all tasks of a database and makes them stuck.
func (s *server) abandonAll(ctx context.Context, database string, n int) error {
	st, err := store.Open(store.Config{URL: s.URL(database)})
	if err != nil {
		return err
	}
	defer st.Close()
	for claimed := 0; claimed < n; {
		tasks, err := st.Claim(ctx, store.ClaimRequest{Worker: "killed", Limit: 1000, Lease: time.Minute, MaxAttempts: 3})
		if err != nil || len(tasks) == 0 {
			return fmt.Errorf("claim the tasks that are to be stuck, after %d: %w", claimed, err)
		}
		claimed += len(tasks)
	}
	if err := s.exec(ctx, database, `update imagetasks.tasks set processing_started_at = now() - interval '1 hour', lease_expires_at = now() - interval '1 hour'`); err != nil {
		return err
	}
	return s.exec(ctx, database, "vacuum analyze")
}

func (s *server) sweepAll(ctx context.Context, database string, n int) error {
	st, err := store.Open(store.Config{URL: s.URL(database)})
	if err != nil {
		return err
	}
	defer st.Close()
	log := logrus.New()
	log.SetOutput(io.Discard)
	done, err := repair.Sweep(ctx, st, repair.Options{Sweep: store.Sweep{OlderThan: 20 * time.Minute}}, log)
	if err == nil && len(done.Tasks) != n {
		err = fmt.Errorf("%d of %d stuck tasks were closed", len(done.Tasks), n)
	}
	return err
}

// requireSwept returns an error unless n tasks were failed and refunded, and the audit passes.
func (s *server) requireSwept(ctx context.Context, database string, n int) error {
	conn, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	var refunds int
	if err := conn.QueryRow(ctx, `select count(*) from imagetasks.ledger where kind = 'refund'`).Scan(&refunds); err != nil {
		return err
	}
	if refunds != n {
		return fmt.Errorf("%d refunds for %d stuck tasks", refunds, n)
	}
	return auditOurs(ctx, s, database)
}
