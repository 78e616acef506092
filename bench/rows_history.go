package main

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"imagetasks/pkg/store"
)

//go:embed sql/closed.sql
var copyClosed string

// workedTasks is how many tasks are really worked for a history, which is copied then.
const workedTasks = 2_000

// newHistory creates a database with n closed tasks, a multiple of workedTasks.
func newHistory(ctx context.Context, s *server, n int) (string, error) {
	name, err := newOurs(ctx, s, workedTasks, users)
	if err != nil {
		return "", err
	}
	if _, err := s.work(ctx, name, workedTasks, load{Kind: "ours", Concurrency: oursConcurrency}); err != nil {
		return "", err
	}
	if copies := n/workedTasks - 1; copies > 0 {
		if err := s.exec(ctx, name, strings.ReplaceAll(copyClosed, "{{copies}}", fmt.Sprint(copies))); err != nil {
			return "", fmt.Errorf("copy the closed tasks: %w", err)
		}
	}
	return name, s.exec(ctx, name, "vacuum analyze")
}

// enqueueAndWork enqueues n tasks, and measures how long one processor takes for them. With a transaction, that is open in the database before the first task
// is enqueued and to the end.
func (s *server) enqueueAndWork(ctx context.Context, database string, n int, transaction bool) (run, error) {
	if transaction {
		conn, err := pgx.Connect(ctx, s.URL(database))
		if err != nil {
			return run{}, err
		}
		defer conn.Close(context.Background())
		// It has a transaction id and a snapshot, as that of an application that has written a row and waits for something.
		if _, err := conn.Exec(ctx, "begin isolation level repeatable read; select pg_current_xact_id()"); err != nil {
			return run{}, err
		}
	}
	st, err := store.Open(store.Config{URL: s.URL(database)})
	if err != nil {
		return run{}, err
	}
	defer st.Close()
	if err := enqueueTasks(ctx, st, n, users); err != nil {
		return run{}, err
	}
	return s.work(ctx, database, n, load{Kind: "ours", Concurrency: oursConcurrency})
}

// history measures throughput with many closed rows, and while another transaction stays open. All three contenders run in turns.
func history(ctx context.Context, b *suite) ([]row, error) {
	s, n := b.server, b.times(50_000, 5_000)
	empty, err := newOurs(ctx, s, 0, 1)
	if err != nil {
		return nil, err
	}
	large, err := b.history(ctx, b.closedRows())
	if err != nil {
		return nil, err
	}
	alone, filled, held := series{Name: "ours, empty table", Unit: "tasks/s"}, series{Name: "ours, closed rows", Unit: "tasks/s"}, series{Name: "ours, open transaction", Unit: "tasks/s"}
	for range b.pairs {
		for _, c := range []struct {
			*series
			database    string
			transaction bool
		}{{&alone, "", false}, {&filled, large, false}, {&held, "", true}} {
			name := c.database
			if name == "" {
				if name, err = copyOurs(ctx, s, empty); err != nil {
					return nil, err
				}
			}
			r, err := s.enqueueAndWork(ctx, name, n, c.transaction)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.Name, err)
			}
			c.Values = append(c.Values, r.perSecond())
			b.progress("%s: %.0f tasks/s", c.Name, r.perSecond())
			if c.database != "" {
				continue
			}
			if err := auditOurs(ctx, s, name); err != nil {
				return nil, err
			}
			if err := s.drop(ctx, name); err != nil {
				return nil, err
			}
		}
	}
	if err := auditOurs(ctx, s, large); err != nil {
		return nil, err
	}
	return []row{
		{
			Name: "closed", Title: fmt.Sprintf("the same with %s closed rows", count(b.closedRows())),
			Detail: fmt.Sprintf("%s tasks are enqueued in each run of both, and worked by one processor; the closed rows are in one database for all runs", count(n)),
			Series: []series{filled, alone}, Aims: []aim{ratio(filled, alone, 0.8, false)}, Audited: true,
		}, {
			Name: "transaction", Title: "the same while another transaction is open from before the first task is enqueued",
			Detail: "the transaction has an id and a snapshot of the same database, so that no dead row version can be removed",
			Series: []series{held, alone}, Aims: []aim{ratio(held, alone, 0.5, false)}, Audited: true,
		},
	}, nil
}

// closedRows returns how many closed rows the large table has.
func (b *suite) closedRows() int {
	switch {
	case b.full:
		return 10_000_000
	case b.quick:
		return 100_000
	}
	return 1_000_000
}

// idle measures a sweep and a claim that find nothing, with few and many closed rows.
func idle(ctx context.Context, b *suite) ([]row, error) {
	type measured struct {
		database    string
		store       *store.Store
		claim, take *series
	}
	sizes := []int{10_000, b.closedRows()}
	if b.full {
		sizes = []int{10_000, 1_000_000, b.closedRows()}
	}
	var all []measured
	for _, size := range sizes {
		name, err := b.history(ctx, size)
		if err != nil {
			return nil, err
		}
		st, err := store.Open(store.Config{URL: b.server.URL(name)})
		if err != nil {
			return nil, err
		}
		defer st.Close()
		all = append(all, measured{name, st, &series{Name: "claim, " + count(size) + " rows", Unit: "µs"}, &series{Name: "sweep, " + count(size) + " rows", Unit: "µs"}})
	}
	const calls = 100
	for range b.pairs {
		for _, m := range all {
			var claims, sweeps []float64
			for range calls {
				began := time.Now()
				tasks, err := m.store.Claim(ctx, store.ClaimRequest{Worker: "bench", Limit: 100, Lease: time.Minute, MaxAttempts: 3, Expired: 100})
				if err != nil || len(tasks) > 0 {
					return nil, fmt.Errorf("an idle claim returned %d tasks: %w", len(tasks), err)
				}
				claims = append(claims, float64(time.Since(began).Nanoseconds())/1000)
				began = time.Now()
				if _, err := m.store.Sweep(ctx, store.Sweep{OlderThan: 20 * time.Minute, Limit: 500, CallID: uuid.New()}); err != nil {
					return nil, err
				}
				sweeps = append(sweeps, float64(time.Since(began).Nanoseconds())/1000)
			}
			m.claim.Values, m.take.Values = append(m.claim.Values, quantile(claims, 0.5)), append(m.take.Values, quantile(sweeps, 0.5))
		}
	}
	r := row{Name: "idle", Title: "a sweep and a claim with nothing to do",
		Detail: fmt.Sprintf("medians of %d calls for each value", calls), Audited: true}
	first, last := all[0], all[len(all)-1]
	for _, m := range all {
		if err := auditOurs(ctx, b.server, m.database); err != nil {
			return nil, err
		}
		r.Series = append(r.Series, *m.claim, *m.take)
	}
	for _, pair := range [][2]*series{{last.claim, first.claim}, {last.take, first.take}} {
		a := ratio(*pair[0], *pair[1], 1.25, true)
		a.What = pair[0].Name
		r.Aims = append(r.Aims, a)
	}
	return []row{r}, nil
}
