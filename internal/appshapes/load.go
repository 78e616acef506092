package appshapes

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Load is an application at work: sessions of the role Writer that enqueue, cancel, refund, buy, delete and look, in random order. Two sessions never work
// for one user at the same time, so that the application can't lose its own changes, and can't be in a deadlock with itself.
type Load struct {
	Shape    Shape
	URL      string // of the database, for any role
	Users    int    // numbers 1 to Users, which exist
	Rate     int    // statements a second, besides those that begin and end transactions; 0: as fast as possible
	Sessions int    // at least 1
	Seed     uint64
	// Think is the longest time between a read of a balance and the write of it.
	Think time.Duration
	// Balance is what users get that the load adds, and deletes again with their tasks.
	Balance int64
	// Ready is called when the balances of the beginning are noted: nothing else may change them before. Optional.
	Ready func()
}

// Record is what a Load did. Balances and costs are in our unit.
type Record struct {
	Statements int
	Slowest    Statement
	Failures   []Statement
	Tasks      map[string]Task
	Changes    []Change
	Deleted    []string // users
	Start      map[string]int64
}

// Task is what the application knows of a task.
type Task struct {
	User      string
	Cost      int64
	Charged   bool
	Refunds   int // by the application
	Cancelled bool
	Deleted   bool
}

// Lost returns how many credits of a user the application's writes overwrote.
func (r Record) Lost(user string) (sum int64) {
	for _, c := range r.Changes {
		if c.User == user {
			sum += c.Lost()
		}
	}
	return sum
}

// Balance returns what the application expects as a user's balance, without the refunds of the bridge.
func (r Record) Balance(user string) int64 {
	balance := r.Start[user]
	for _, c := range r.Changes {
		if c.User == user {
			balance += c.Delta - c.Lost()
		}
	}
	return balance
}

// loadRun is a run of a Load.
type loadRun struct {
	Load
	limiter *rate.Limiter

	mu     sync.Mutex
	record Record
	busy   map[string]bool
	added  int
}

// Run works until ctx ends, and returns what was done. What has begun is finished, for which every statement has 30 seconds.
func (l Load) Run(ctx context.Context) (Record, error) {
	db, err := sql.Open("postgres", URL(l.URL, Writer))
	if err != nil {
		return Record{}, err
	}
	defer db.Close()
	limit := rate.Inf
	if l.Rate > 0 {
		limit = rate.Limit(l.Rate)
	}
	r := &loadRun{Load: l, limiter: rate.NewLimiter(limit, max(l.Rate, 100)), busy: map[string]bool{},
		record: Record{Tasks: map[string]Task{}, Start: map[string]int64{}}}
	if err := r.read(context.WithoutCancel(ctx), db); err != nil {
		return Record{}, err
	}
	if l.Ready != nil {
		l.Ready()
	}
	var sessions sync.WaitGroup
	errs := make([]error, l.Sessions)
	for i := range l.Sessions {
		sessions.Go(func() { errs[i] = r.work(ctx, db, rand.New(rand.NewPCG(l.Seed, uint64(i)))) })
	}
	sessions.Wait()
	return r.record, errors.Join(errs...)
}

// read notes the balances and the live tasks at the beginning.
func (r *loadRun) read(ctx context.Context, db *sql.DB) error {
	a, err := r.Shape.NewSession(ctx, db, nil)
	if err != nil {
		return err
	}
	defer a.Close()
	for n := 1; n <= r.Users; n++ {
		user := r.Shape.User(n)
		tasks, _, balance, err := a.View(ctx, user)
		if err != nil {
			return err
		}
		r.record.Start[user] = balance
		for _, t := range tasks {
			if t.State == "pending" || t.State == "processing" {
				r.record.Tasks[t.Key] = Task{User: user, Cost: t.Cost, Charged: true}
			}
		}
	}
	return nil
}

func (r *loadRun) work(ctx context.Context, db *sql.DB, random *rand.Rand) error {
	statements := 0
	a, err := r.Shape.NewSession(context.WithoutCancel(ctx), db, func(s Statement) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.record.Statements++
		if s.Elapsed > r.record.Slowest.Elapsed {
			r.record.Slowest = s
		}
		if s.Err != nil {
			r.record.Failures = append(r.record.Failures, s)
		}
		if s.What != "begin" && s.What != "set user" && s.What != "commit" {
			statements++
		}
	})
	if err != nil {
		return err
	}
	defer a.Close()
	a.think = func() {
		if r.Think > 0 {
			time.Sleep(time.Duration(random.Int64N(int64(r.Think))))
		}
	}
	for ctx.Err() == nil {
		user := r.reserve(random)
		statements = 0
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		err := r.route(bounded, a, user, random)
		cancel()
		r.release(user)
		if err != nil && !errors.Is(err, ErrNoCredits) {
			return fmt.Errorf("the application %s, user %s: %w", r.Shape.Name, user, err)
		}
		if err := r.limiter.WaitN(ctx, max(statements, 1)); err != nil {
			return nil
		}
	}
	return nil
}

// reserve returns a user that no session works for.
func (r *loadRun) reserve(random *rand.Rand) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		user := r.Shape.User(1 + random.IntN(r.Users))
		if !r.busy[user] {
			r.busy[user] = true
			return user
		}
	}
}

func (r *loadRun) release(user string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.busy, user)
}

// tasksOf returns a user's tasks that are not deleted, in order.
func (r *loadRun) tasksOf(user string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var keys []string
	for _, key := range slices.Sorted(maps.Keys(r.record.Tasks)) {
		if t := r.record.Tasks[key]; t.User == user && !t.Deleted {
			keys = append(keys, key)
		}
	}
	return keys
}

// note records what a route did.
func (r *loadRun) note(key string, changes []Change, change func(*Task)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record.Changes = append(r.record.Changes, changes...)
	if key != "" {
		t := r.record.Tasks[key]
		change(&t)
		r.record.Tasks[key] = t
	}
}

func (r *loadRun) route(ctx context.Context, a *Session, user string, random *rand.Rand) error {
	route := Route{BalanceFirst: random.IntN(2) == 0, Absolute: random.IntN(2) == 0, Separate: random.IntN(3) == 0}
	keys := r.tasksOf(user)
	chance := random.IntN(100)
	if len(keys) == 0 && chance < 75 {
		chance = 0
	}
	switch {
	case chance < 40:
		return r.enqueue(ctx, a, user, random, route)
	case chance < 65:
		key := keys[random.IntN(len(keys))]
		done, changes, err := a.Cancel(ctx, user, key, r.cost(key), route)
		r.note(key, changes, func(t *Task) {
			t.Cancelled = t.Cancelled || done
			t.Refunds += len(changes)
		})
		return err
	case chance < 72:
		key := keys[random.IntN(len(keys))]
		_, changes, err := a.Refund(ctx, user, key, r.cost(key), route)
		r.note(key, changes, func(t *Task) { t.Refunds += len(changes) })
		return err
	case chance < 75:
		key := keys[random.IntN(len(keys))]
		_, err := a.Delete(ctx, user, key)
		r.note(key, nil, func(t *Task) { t.Deleted = true })
		return err
	case chance < 90:
		changes, err := a.Buy(ctx, user, 50, route)
		r.note("", changes, nil)
		return err
	case chance < 92:
		return r.passing(ctx, a, random, route)
	default:
		_, _, _, err := a.View(ctx, user)
		return err
	}
}

func (r *loadRun) cost(key string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.record.Tasks[key].Cost
}

func (r *loadRun) enqueue(ctx context.Context, a *Session, user string, random *rand.Rand, route Route) error {
	n := random.IntN(1000)
	key, changes, err := a.Enqueue(ctx, user, fmt.Sprintf("a lantern by a river, number %d", n), n, route)
	if err == nil {
		r.note(key, changes, func(t *Task) { *t = Task{User: user, Cost: r.Shape.Cost(n), Charged: true} })
	} else {
		r.note("", changes, nil)
	}
	return err
}

// passing adds a user, who enqueues two tasks and is deleted.
func (r *loadRun) passing(ctx context.Context, a *Session, random *rand.Rand, route Route) error {
	r.mu.Lock()
	r.added++
	user := r.Shape.User(1_000_000 + r.added)
	r.record.Start[user] = r.Balance
	r.record.Deleted = append(r.record.Deleted, user)
	r.mu.Unlock()
	if err := a.AddUser(ctx, user, r.Balance); err != nil {
		return err
	}
	for range 2 {
		if err := r.enqueue(ctx, a, user, random, route); err != nil {
			return err
		}
	}
	if err := a.DeleteUser(ctx, user); err != nil {
		return err
	}
	for _, key := range r.tasksOf(user) {
		r.note(key, nil, func(t *Task) { t.Deleted = true })
	}
	return nil
}
