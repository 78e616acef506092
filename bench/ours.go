package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/google/uuid"

	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// oursConcurrency is TASK_CONCURRENCY of the processors that are measured.
const oursConcurrency = 2000

// acceptCopy does what "task-processor resume" does for a copied database, from which nothing is claimed otherwise.
const acceptCopy = `update imagetasks.control set database_identity = imagetasks.database_identity()`

// newOurs creates a database with the schema and n charged tasks of users users, all enqueued by the application's SQL function.
func newOurs(ctx context.Context, s *server, n, users int) (string, error) {
	name, err := s.database(ctx, "")
	if err != nil {
		return "", err
	}
	st, err := store.Open(store.Config{URL: s.URL(name)})
	if err != nil {
		return "", err
	}
	defer st.Close()
	if _, err := st.Migrate(ctx, store.Roles{}); err != nil {
		return "", err
	}
	if err := enqueueTasks(ctx, st, n, users); err != nil {
		return "", err
	}
	return name, s.exec(ctx, name, "vacuum analyze")
}

// enqueueTasks grants users what they need and enqueues n tasks for them, in calls of at most 1,000 tasks, from several sessions.
func enqueueTasks(ctx context.Context, st *store.Store, n, users int) error {
	_, err := inSessions(ctx, min(users, n), func(ctx context.Context, _, u int) error {
		mine := (n + users - 1 - u) / users
		user := fmt.Sprintf("user-%04d", u)
		if _, err := st.GrantCredits(ctx, user, int64(mine), "bench", uuid.NewString()); err != nil {
			return err
		}
		for ; mine > 0; mine -= 1000 {
			if _, err := st.Enqueue(ctx, store.EnqueueRequest{UserID: user, Prompt: prompt, Cost: 1, Count: min(mine, 1000)}); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

const prompt = "a lantern by a river"

// copyOurs returns a copy of a database made by newOurs.
func copyOurs(ctx context.Context, s *server, template string) (string, error) {
	name, err := s.database(ctx, template)
	if err != nil {
		return "", err
	}
	return name, s.exec(ctx, name, acceptCopy)
}

// auditOurs proves that the money rules hold, that all tasks of the database are closed, and that each was completed once.
func auditOurs(ctx context.Context, s *server, database string) error {
	st, err := store.Open(store.Config{URL: s.URL(database)})
	if err != nil {
		return err
	}
	defer st.Close()
	rules, err := st.Audit(ctx)
	if err != nil {
		return err
	}
	if n := store.CountViolations(rules); n > 0 {
		rules = slices.DeleteFunc(rules, func(r store.Rule) bool { return r.Count == 0 })
		return fmt.Errorf("the audit found %d violations: %+v", n, rules)
	}
	return nil
}

// noop is a Worker that takes no time.
type noop struct {
	worked atomic.Int64
	paid   bool // a paid request is recorded
}

// Work implements processor.Worker.
func (w *noop) Work(ctx context.Context, t task.Task, c processor.Call) (processor.Result, error) {
	if w.paid {
		if _, err := c.BeforeRequest(ctx); err != nil {
			return processor.Result{}, err
		}
	}
	w.worked.Add(1)
	return processor.Result{URL: "https://example.com/result"}, nil
}

// oursContender is a processor.
type oursContender struct {
	store     *store.Store
	worker    noop
	processor *processor.Processor
}

func newOursContender(ctx context.Context, l load) (*oursContender, error) {
	st, err := store.Open(store.Config{URL: l.URL, MaxConns: l.Conns})
	if err != nil {
		return nil, err
	}
	if err := st.Ping(ctx); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	c := &oursContender{store: st, worker: noop{paid: l.Paid}}
	c.processor = processor.New(processor.Config{Worker: l.Name, Concurrency: l.Concurrency}, st, &c.worker)
	return c, nil
}

func (c *oursContender) worked() int64 { return c.worker.worked.Load() }

func (c *oursContender) run(ctx context.Context) error {
	return errors.Join(c.processor.Run(ctx), c.store.Close())
}
