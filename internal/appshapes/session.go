package appshapes

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
)

// Route says how a route of the application is written.
type Route struct {
	BalanceFirst bool // the balance is locked and changed before the task's row
	Absolute     bool // the balance is read, and its new value written; only where Shape.Absolute
	Separate     bool // several transactions instead of one
}

// Statement is a statement that a Session ran.
type Statement struct {
	What    string
	Elapsed time.Duration
	Err     error
}

// Change is a change of a balance by the application, in our unit.
type Change struct {
	User, Task string
	Kind       string // charge, refund or purchase
	Delta      int64  // what the route intended
	Absolute   bool
	Read       int64 // the balance that the route had read; only of absolute changes
	Replaced   int64 // the balance that the write replaced: another than Read where a change in between was lost; only of absolute changes
	At         time.Time
}

// Lost returns the sum of the changes that this one overwrote.
func (c Change) Lost() int64 {
	if !c.Absolute {
		return 0
	}
	return c.Replaced - c.Read
}

// ErrNoCredits means that a user has not enough credits for a task.
var ErrNoCredits = errors.New("the user has not enough credits")

// Session is one connection of the application. Its methods do what the routes of the application do for one user each. They are not safe for
// concurrent use.
type Session struct {
	shape   Shape
	conn    *sql.Conn
	observe func(Statement)
	user    string
	inTx    bool
	think   func()   // between reading and writing a balance
	changes []Change // of the current transaction
}

// NewSession returns a session on a connection of the role Writer. observe is called after each statement; nil: nothing is.
func (s Shape) NewSession(ctx context.Context, db *sql.DB, observe func(Statement)) (*Session, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect as the application %s: %w", s.Name, err)
	}
	if observe == nil {
		observe = func(Statement) {}
	}
	return &Session{shape: s, conn: conn, observe: observe, think: func() {}}, nil
}

// Close returns the connection.
func (a *Session) Close() error { return a.conn.Close() }

type parameters = map[string]string

// query runs a statement and returns its rows as texts.
func (a *Session) query(ctx context.Context, what, statement string, p parameters) (rows [][]string, err error) {
	begun := time.Now()
	defer func() {
		a.observe(Statement{What: what, Elapsed: time.Since(begun), Err: err})
		if err != nil {
			err = fmt.Errorf("%s: %w", what, err)
		}
	}()
	text, args := bind(statement, p)
	found, err := a.conn.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	columns, err := found.Columns()
	if err != nil {
		return nil, err
	}
	for found.Next() {
		values := make([]sql.NullString, len(columns))
		targets := make([]any, len(columns))
		for i := range values {
			targets[i] = &values[i]
		}
		if err := found.Scan(targets...); err != nil {
			return nil, err
		}
		row := make([]string, len(columns))
		for i, v := range values {
			row[i] = v.String
		}
		rows = append(rows, row)
	}
	return rows, found.Err()
}

func (a *Session) number(ctx context.Context, what, statement string, p parameters) (int64, error) {
	rows, err := a.query(ctx, what, statement, p)
	if err != nil {
		return 0, err
	}
	if len(rows) != 1 {
		return 0, fmt.Errorf("%s: %d rows instead of one", what, len(rows))
	}
	return strconv.ParseInt(rows[0][0], 10, 64)
}

func (a *Session) begin(ctx context.Context) error {
	if _, err := a.query(ctx, "begin", "begin", nil); err != nil {
		return err
	}
	a.inTx, a.changes = true, nil
	_, err := a.query(ctx, "set user", "select set_config('app.user', {user}, true)", parameters{"user": a.user})
	return err
}

func (a *Session) commit(ctx context.Context) ([]Change, error) {
	_, err := a.query(ctx, "commit", "commit", nil)
	a.inTx = false
	now := time.Now()
	for i := range a.changes {
		a.changes[i].At = now
	}
	return a.changes, err
}

func (a *Session) rollback(ctx context.Context) {
	if a.inTx {
		a.query(context.WithoutCancel(ctx), "rollback", "rollback", nil) // its failure is observed, and the connection useless
		a.inTx = false
	}
}

// transaction runs steps, in one transaction or in one each, as a user. It returns the changes that were committed. A step that returns errStop ends
// it, and what was done in the same transaction is rolled back.
func (a *Session) transaction(ctx context.Context, user string, separate bool, steps ...func(context.Context) error) (done []Change, err error) {
	a.user = user
	defer a.rollback(ctx)
	for i, step := range steps {
		if i == 0 || separate {
			if err := a.begin(ctx); err != nil {
				return done, err
			}
		}
		if err := step(ctx); err != nil {
			return done, err
		}
		if separate || i == len(steps)-1 {
			changes, err := a.commit(ctx)
			if err != nil {
				return done, err
			}
			done = append(done, changes...)
		}
	}
	return done, nil
}

// change changes the balance. A task's charge that the user can't pay is ErrNoCredits.
func (a *Session) change(ctx context.Context, r Route, c Change) error {
	p := parameters{"user": c.User, "key": c.Task, "amount": strconv.FormatInt(c.Delta, 10)}
	call := map[string]string{"charge": a.shape.charge, "refund": a.shape.refund, "purchase": a.shape.buy}[c.Kind]
	switch {
	case call != "":
		p["amount"] = strconv.FormatInt(max(c.Delta, -c.Delta), 10)
		_, err := a.query(ctx, c.Kind, call, p)
		if refused := new(pq.Error); errors.As(err, &refused) && refused.Message == "not enough credits" {
			return errors.Join(ErrNoCredits, err)
		}
		if err != nil {
			return err
		}
	case r.Absolute && a.shape.Absolute:
		c.Absolute = true
		var err error
		if c.Read, err = a.number(ctx, "read balance", a.shape.balance, p); err != nil {
			return err
		}
		if c.Read+c.Delta < 0 {
			return ErrNoCredits
		}
		a.think()
		p["amount"] = strconv.FormatInt(c.Read+c.Delta, 10)
		if c.Replaced, err = a.number(ctx, "write balance", a.shape.set, p); err != nil {
			return err
		}
	default:
		rows, err := a.query(ctx, "add to balance", a.shape.add, p)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return ErrNoCredits
		}
	}
	a.changes = append(a.changes, c)
	return nil
}

func (a *Session) optional(ctx context.Context, what, statement string, p parameters) error {
	if statement == "" {
		return nil
	}
	_, err := a.query(ctx, what, statement, p)
	return err
}

// Enqueue inserts a task of model number n and charges its cost. The key is that of the task, also where charging it failed after it was inserted,
// which then was deleted.
func (a *Session) Enqueue(ctx context.Context, user, prompt string, n int, r Route) (key string, changes []Change, err error) {
	cost := a.shape.Cost(n)
	id := uuid.NewString()
	p := parameters{"new": id, "user": user, "prompt": prompt, "amount": strconv.FormatInt(cost, 10), "charged": strconv.FormatBool(r.BalanceFirst),
		"n": strconv.Itoa(n)}
	insert := func(ctx context.Context) error {
		rows, err := a.query(ctx, "insert task", a.shape.insert, p)
		if err != nil {
			return err
		}
		key = rows[0][0]
		p["key"] = key
		return nil
	}
	charge := func(ctx context.Context) error {
		task := key
		if task == "" {
			task = id
		}
		return a.change(ctx, r, Change{User: user, Task: task, Kind: "charge", Delta: -cost})
	}
	// The log names the task, so that it follows both.
	log := func(ctx context.Context) error {
		if !r.BalanceFirst {
			if err := a.optional(ctx, "mark as charged", a.shape.charged, p); err != nil {
				return err
			}
		}
		return a.optional(ctx, "log charge", a.shape.chargeLog, p)
	}
	if r.BalanceFirst {
		changes, err = a.transaction(ctx, user, r.Separate, charge, insert, log)
	} else {
		changes, err = a.transaction(ctx, user, r.Separate, insert, charge, log)
	}
	for i := range changes {
		changes[i].Task = key
	}
	if errors.Is(err, ErrNoCredits) && r.Separate && key != "" {
		_, deleted := a.Delete(ctx, user, key)
		err = errors.Join(err, deleted)
	}
	return key, changes, err
}

// errStop ends a route that found nothing to do.
var errStop = errors.New("nothing to do")

// Cancel cancels a live task and refunds cost, as a user's click does. It returns false if the task was not live.
func (a *Session) Cancel(ctx context.Context, user, key string, cost int64, r Route) (bool, []Change, error) {
	return a.undo(ctx, user, key, cost, r, func(ctx context.Context) error {
		rows, err := a.query(ctx, "cancel task", a.shape.cancel, parameters{"key": key, "user": user})
		if err == nil && (len(rows) == 0 || rows[0][0] == "false") {
			err = errStop
		}
		if err != nil {
			return err
		}
		return a.optional(ctx, "mark as refunded", a.shape.refunded, parameters{"key": key, "user": user, "amount": strconv.FormatInt(cost, 10)})
	})
}

// Refund refunds cost for a task that has failed and shows no refund, as a support tool does. It returns false if there is nothing to refund.
// It works only for shapes that are Marked.
func (a *Session) Refund(ctx context.Context, user, key string, cost int64, r Route) (bool, []Change, error) {
	if !a.shape.Marked {
		return false, nil, nil
	}
	r.Separate = false
	p := parameters{"key": key, "user": user, "amount": strconv.FormatInt(cost, 10)}
	return a.undo(ctx, user, key, cost, r, func(ctx context.Context) error {
		if err := a.optional(ctx, "lock task", a.shape.lockTask, p); err != nil {
			return err
		}
		rows, err := a.query(ctx, "mark as refunded", a.shape.refunded, p)
		if err == nil && len(rows) == 0 {
			err = errStop
		}
		return err
	})
}

// undo refunds a task if mark finds that it is to be refunded.
func (a *Session) undo(ctx context.Context, user, key string, cost int64, r Route, mark func(context.Context) error) (bool, []Change, error) {
	refund := func(ctx context.Context) error {
		return a.change(ctx, r, Change{User: user, Task: key, Kind: "refund", Delta: cost})
	}
	steps := []func(context.Context) error{mark, refund}
	if r.BalanceFirst {
		lock := func(ctx context.Context) error {
			return a.optional(ctx, "lock balance", a.shape.lock, parameters{"user": user})
		}
		steps, r.Separate = []func(context.Context) error{lock, mark, refund}, false
	}
	changes, err := a.transaction(ctx, user, r.Separate, steps...)
	if errors.Is(err, errStop) {
		return false, changes, nil
	}
	return err == nil, changes, err
}

// Buy adds credits that a user has bought.
func (a *Session) Buy(ctx context.Context, user string, credits int64, r Route) ([]Change, error) {
	return a.transaction(ctx, user, r.Separate, func(ctx context.Context) error {
		return a.change(ctx, r, Change{User: user, Kind: "purchase", Delta: credits})
	}, func(ctx context.Context) error {
		return a.optional(ctx, "log purchase", a.shape.buyLog, parameters{"user": user, "amount": strconv.FormatInt(credits, 10)})
	})
}

// Delete deletes a task, whatever its state. It returns whether there was one.
func (a *Session) Delete(ctx context.Context, user, key string) (found bool, err error) {
	_, err = a.transaction(ctx, user, false, func(ctx context.Context) error {
		rows, err := a.query(ctx, "delete task", a.shape.deleteTask, parameters{"key": key})
		found = len(rows) > 0
		return err
	})
	return found, err
}

// AddUser adds a user with a balance.
func (a *Session) AddUser(ctx context.Context, user string, balance int64) error {
	_, err := a.transaction(ctx, user, false, func(ctx context.Context) error {
		for _, statement := range a.shape.addUser {
			if _, err := a.query(ctx, "add user", statement, parameters{"user": user, "amount": strconv.FormatInt(balance, 10)}); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// DeleteUser deletes a user, and with it the user's tasks and balance.
func (a *Session) DeleteUser(ctx context.Context, user string) error {
	_, err := a.transaction(ctx, user, false, func(ctx context.Context) error {
		_, err := a.query(ctx, "delete user", a.shape.deleteUser, parameters{"user": user})
		return err
	})
	return err
}

// Seen is what a user sees of a task.
type Seen struct {
	Key      string
	State    string // pending, processing, completed, failed or cancelled; of shapes without a word for pending or cancelled: processing, failed
	URL      string // of the picture
	Refunded bool   // the tables show a refund; always false of shapes that show none
	Cost     int64  // in our unit
}

// View returns what a user sees: the tasks, the pictures of the gallery, and the balance in our unit.
func (a *Session) View(ctx context.Context, user string) (tasks []Seen, gallery []string, balance int64, err error) {
	p := parameters{"user": user}
	_, err = a.transaction(ctx, user, false, func(ctx context.Context) error {
		rows, err := a.query(ctx, "list tasks", a.shape.tasks, p)
		if err != nil {
			return err
		}
		for _, row := range rows {
			cost, err := strconv.ParseInt(row[4], 10, 64)
			if err != nil {
				return fmt.Errorf("list tasks: cost: %w", err)
			}
			tasks = append(tasks, Seen{Key: row[0], State: row[1], URL: row[2], Refunded: row[3] == "true", Cost: cost})
			if a.shape.gallery == "" && row[2] != "" {
				gallery = append(gallery, row[2])
			}
		}
		if a.shape.gallery != "" {
			rows, err = a.query(ctx, "list pictures", a.shape.gallery, p)
			if err != nil {
				return err
			}
			for _, row := range rows {
				gallery = append(gallery, row[0])
			}
		}
		balance, err = a.number(ctx, "read balance", a.shape.balance, p)
		return err
	})
	return tasks, gallery, balance, err
}
