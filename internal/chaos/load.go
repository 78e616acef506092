package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
)

// users is the number of users of the load, and granted the credits that each gets.
const (
	users   = 12
	granted = 1_000_000
)

// order is one call of enqueue, or of enqueue_many.
type order struct {
	user    string
	key     string
	prompts []string // more than one: enqueue_many
	cost    int
	repeat  bool // is repeated with the same key after it succeeded
	cancel  time.Duration
	direct  bool // beside the man in the middle
	ids     []string
}

// load is an application: it grants credits, enqueues, cancels and redrives by SQL, and repeats each call with its key until it is answered.
type load struct {
	system  *system
	db      *sql.DB // through the man in the middle
	balance map[string]int64

	mu       sync.Mutex
	orders   []*order // that were answered
	redrives int
}

func userID(n int) string { return fmt.Sprintf("user-%02d", n) }

// newLoad grants the users their credits.
func newLoad(ctx context.Context, s *system) (*load, error) {
	connector, err := pq.NewConnector(databaseURL(s.env))
	if err != nil {
		return nil, err
	}
	connector.Dialer(boundedDialer{})
	l := &load{system: s, db: sql.OpenDB(connector), balance: map[string]int64{}}
	s.cleanupLater(l.db.Close)
	for n := range users {
		for range 2 { // the second one changes nothing
			if _, err := l.db.ExecContext(ctx, `select imagetasks.grant_credits($1, $2, 'chaos', $3)`, userID(n), granted, "grant "+userID(n)); err != nil {
				return nil, err
			}
		}
		l.balance[userID(n)] = granted
	}
	return l, nil
}

func databaseURL(env []string) string {
	for _, v := range env {
		if url, ok := strings.CutPrefix(v, "DATABASE_URL="); ok {
			return url
		}
	}
	return ""
}

// boundedDialer dials connections whose reads and writes end when nothing comes for a while. Without it lib/pq waits for ever.
type boundedDialer struct{}

func (boundedDialer) Dial(network, address string) (net.Conn, error) {
	return boundedDialer{}.DialTimeout(network, address, 5*time.Second)
}

func (boundedDialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	c, err := net.DialTimeout(network, address, timeout)
	return boundedConn{c}, err
}

type boundedConn struct{ net.Conn }

func (c boundedConn) Read(p []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(8 * time.Second))
	return c.Conn.Read(p)
}

func (c boundedConn) Write(p []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(8 * time.Second))
	return c.Conn.Write(p)
}

// clients is the number of connections that enqueue.
const clients = 8

// run enqueues at the given rate until loading ends, and returns when each call is answered.
func (l *load) run(ctx, loading context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	orders := make(chan *order, 10000)
	defer close(orders)
	for range clients {
		running.Go(func() {
			for o := range orders {
				l.enqueue(ctx, o)
			}
		})
	}
	running.Go(func() { l.redriveFailed(ctx, loading) })
	r := rand.New(rand.NewPCG(l.system.seed, 0x6c6f6164))
	began, tasks := time.Now(), 0
	for loading.Err() == nil {
		for float64(tasks) < l.system.rate*time.Since(began).Seconds() {
			o := newOrder(r, l.system.seed, tasks)
			tasks += len(o.prompts)
			orders <- o
		}
		wait(loading, 50*time.Millisecond)
	}
}

// newOrder returns the order whose first task has number n.
func newOrder(r *rand.Rand, seed uint64, n int) *order {
	o := &order{user: userID(r.IntN(users)), key: fmt.Sprintf("order %d-%d", seed, n), cost: r.IntN(4), repeat: r.IntN(10) == 0, direct: r.IntN(2) == 0}
	count := 1
	if r.IntN(25) == 0 {
		count = 2 + r.IntN(6)
	}
	for i := range count {
		o.prompts = append(o.prompts, fmt.Sprintf("%schaos %d #%d# d=%s %s", behaviour(r), seed, n+i, requestTime(r), promptSecret))
	}
	if r.IntN(20) == 0 {
		o.cancel = time.Duration(1+r.IntN(3000)) * time.Millisecond
	}
	return o
}

// behaviour returns how the API treats a prompt: most give a picture at once, and one in ten the URL of one.
func behaviour(r *rand.Rand) string {
	switch n := r.IntN(100); {
	case n >= 26:
		return ""
	case n >= 16:
		return "[url] "
	}
	return oneOf(r, "[500 once] ", "[500] ", "[503 once] ", "[429 once] ", "[408 once] ", "[cut once] ", "[break once] ", "[truncated once] ",
		"[html once] ", "[error] ", "[text] ", "[zero] ", "[moderation] ", "[400] ", "[cut] ", "[hang once] ")
}

// requestTime returns how long a request takes. Two in a hundred take longer than three leases.
func requestTime(r *rand.Rand) time.Duration {
	ms := func(least, most int) time.Duration { return time.Duration(least+r.IntN(most-least)) * time.Millisecond }
	switch n := r.IntN(100); {
	case n < 2:
		return ms(9500, 12000)
	case n < 8:
		return ms(1000, 3000)
	}
	return ms(50, 400)
}

// call repeats a call until it is answered.
func (l *load) call(ctx context.Context, direct bool, query string, args []any, into ...any) error {
	db := l.db
	if direct {
		db = l.system.db
	}
	for {
		bounded, cancel := context.WithTimeout(ctx, 15*time.Second)
		err := db.QueryRowContext(bounded, query, args...).Scan(into...)
		cancel()
		if pqErr, ok := errors.AsType[*pq.Error](err); err == nil || ctx.Err() != nil || errors.Is(err, sql.ErrNoRows) ||
			ok && strings.HasPrefix(string(pqErr.Code), "IT") {
			return err
		}
		wait(ctx, 100*time.Millisecond)
	}
}

func (l *load) enqueue(ctx context.Context, o *order) {
	query, args := `select array[task_id] from imagetasks.enqueue($1, $2, cost => $3, idempotency_key => $4)`, []any{o.user, o.prompts[0], o.cost, o.key}
	if len(o.prompts) > 1 {
		query = `select task_ids from imagetasks.enqueue_many($1, (select jsonb_agg(jsonb_build_object('prompt', p, 'cost', $3::int) order by n)
			from unnest($2::text[]) with ordinality as given (p, n)), $4)`
		args[1] = pq.Array(o.prompts)
	}
	var ids []string
	if err := l.call(ctx, o.direct, query, args, pq.Array(&ids)); err != nil {
		if ctx.Err() == nil {
			l.system.problems.add("enqueue succeeds", "%s: %v", o.key, err)
		}
		return
	}
	o.ids = ids
	l.mu.Lock()
	l.orders = append(l.orders, o)
	l.mu.Unlock()
	if o.repeat {
		var again []string
		if err := l.call(ctx, !o.direct, query, args, pq.Array(&again)); err == nil && strings.Join(again, " ") != strings.Join(ids, " ") {
			l.system.problems.add("a repeat returns the first result", "%s: %v, then %v", o.key, ids, again)
		}
	}
	if o.cancel > 0 {
		wait(ctx, o.cancel)
		l.cancel(ctx, o)
	}
}

// cancel cancels the first task of an order, twice.
func (l *load) cancel(ctx context.Context, o *order) {
	const query = `select status, refunded from imagetasks.cancel($1, $2)`
	var status, again string
	var refunded, refundedAgain int
	if l.call(ctx, o.direct, query, []any{o.ids[0], o.user}, &status, &refunded) != nil ||
		l.call(ctx, o.direct, query, []any{o.ids[0], o.user}, &again, &refundedAgain) != nil {
		return
	}
	if again == status && refunded != refundedAgain || status == "cancelled" && (again != status || refunded != o.cost) {
		l.system.problems.add("cancel may be repeated", "%s: %s, refunded %d; then %s, refunded %d; it cost %d", o.ids[0], status, refunded, again, refundedAgain, o.cost)
	}
}

// redriveFailed redrives some of the failed tasks.
func (l *load) redriveFailed(ctx, loading context.Context) {
	for wait(loading, 4*time.Second); loading.Err() == nil; wait(loading, 4*time.Second) {
		var id string
		var run int
		err := l.call(loading, true, `select task_id, run from imagetasks.tasks where status = 'failed' and run < 4
			order by random() limit 1`, nil, &id, &run)
		if err != nil {
			continue
		}
		var next, again int
		for i, into := range []*int{&next, &again} {
			if err := l.call(ctx, i == 0, `select new_run from imagetasks.redrive($1, $2)`, []any{id, run}, into); err != nil {
				*into = -1
			}
		}
		switch {
		case next == run+1:
			l.mu.Lock()
			l.redrives++
			l.mu.Unlock()
			if again != next && ctx.Err() == nil {
				l.system.problems.add("redrive may be repeated", "%s: run %d, then %d", id, next, again)
			}
		case next != -1:
			l.system.problems.add("redrive begins the next run", "%s: run %d after %d", id, next, run)
		}
	}
}
