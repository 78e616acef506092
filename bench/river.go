package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/lib/pq"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// The settings of River for throughput. Its own benchmark (river bench) has the same, but for a cooldown of 2 ms.
const (
	riverWorkers      = 2000
	riverCooldown     = time.Millisecond
	riverPollInterval = 20 * time.Millisecond
)

// riverArgs is a job as large as our task.
type riverArgs struct {
	User   string `json:"user"`
	Prompt string `json:"prompt"`
}

// Kind implements river.JobArgs.
func (riverArgs) Kind() string { return "picture" }

type riverNoop struct {
	river.WorkerDefaults[riverArgs]
	count *atomic.Int64
}

// Work implements river.Worker.
func (w *riverNoop) Work(context.Context, *river.Job[riverArgs]) error {
	w.count.Add(1)
	return nil
}

// newRiver creates a database with River's schema and n jobs.
func newRiver(ctx context.Context, s *server, n int) (string, error) {
	name, err := s.database(ctx, "")
	if err != nil {
		return "", err
	}
	pool, err := pgxpool.New(ctx, s.URL(name))
	if err != nil {
		return "", err
	}
	defer pool.Close()
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: quiet()})
	if err != nil {
		return "", err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return "", fmt.Errorf("create river's schema: %w", err)
	}
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Logger: quiet()})
	if err != nil {
		return "", err
	}
	for left := n; left > 0; {
		batch := make([]river.InsertManyParams, min(left, 1000))
		for i := range batch {
			batch[i].Args = riverArgs{User: fmt.Sprintf("user-%04d", i%50), Prompt: prompt}
		}
		if _, err := client.InsertManyFast(ctx, batch); err != nil {
			return "", fmt.Errorf("insert river's jobs: %w", err)
		}
		left -= len(batch)
	}
	return name, s.exec(ctx, name, "vacuum analyze")
}

func quiet() *slog.Logger {
	return slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError + 1}))
}

// riverContender is a River client on one of its drivers.
type riverContender struct {
	count  atomic.Int64
	start  func(context.Context) error
	stop   func(context.Context) error
	insert func(context.Context, riverArgs) error
	close  func() error
}

func (c *riverContender) config(work river.Worker[riverArgs]) *river.Config {
	workers := river.NewWorkers()
	river.AddWorker(workers, work)
	return &river.Config{
		Logger:            quiet(),
		FetchCooldown:     riverCooldown,
		FetchPollInterval: riverPollInterval,
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: riverWorkers}},
		Workers:           workers,
	}
}

func newRiverPgx(ctx context.Context, l load, work river.Worker[riverArgs]) (*riverContender, error) {
	conf, err := pgxpool.ParseConfig(l.URL)
	if err != nil {
		return nil, err
	}
	if l.Conns > 0 {
		conf.MaxConns = int32(l.Conns)
	}
	pool, err := pgxpool.NewWithConfig(ctx, conf)
	if err != nil {
		return nil, err
	}
	if err := pool.Ping(ctx); err != nil {
		return nil, err
	}
	c := &riverContender{}
	if work == nil {
		work = &riverNoop{count: &c.count}
	}
	client, err := river.NewClient(riverpgxv5.New(pool), c.config(work))
	if err != nil {
		return nil, err
	}
	c.start, c.stop = client.Start, client.StopAndCancel
	c.insert = func(ctx context.Context, args riverArgs) error {
		_, err := client.Insert(ctx, args, nil)
		return err
	}
	c.close = func() error { pool.Close(); return nil }
	return c, nil
}

func newRiverPq(ctx context.Context, l load) (*riverContender, error) {
	db, err := sql.Open("postgres", l.URL)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(max(l.Conns, 8))
	db.SetMaxIdleConns(max(l.Conns, 8))
	if err := db.PingContext(ctx); err != nil {
		return nil, err
	}
	c := &riverContender{}
	client, err := river.NewClient(riverdatabasesql.New(db), c.config(&riverNoop{count: &c.count}))
	if err != nil {
		return nil, err
	}
	c.start, c.stop, c.close = client.Start, client.StopAndCancel, db.Close
	return c, nil
}

func (c *riverContender) worked() int64 { return c.count.Load() }

func (c *riverContender) run(ctx context.Context) error {
	if err := c.start(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	<-ctx.Done()
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(c.stop(stopping), c.close())
}
