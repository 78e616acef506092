// Package appshapes provides applications with tables of their own, for tests of the bridge: their schemas, rows, what their routes do, and the
// description of each that an operator would end up with.
package appshapes

import (
	"context"
	"crypto/md5"
	"database/sql"
	"embed"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"imagetasks/pkg/bridge"
)

//go:embed sql/*.sql
var files embed.FS

// Roles of every application. Owner owns its schema and may create schemas in the database; row-level security does not apply to it. Writer is what
// the application connects as: row-level security applies to it, and it has no right on other schemas.
const (
	Owner  = "app_owner"
	Writer = "app_writer"
)

// Shape is an application.
type Shape struct {
	Name        string
	Description bridge.Description // without questions
	InitialSQL  string             // the schema, to be run as Owner
	// Cost is what a task of model number n costs, in our unit.
	Cost func(n int) int64
	// Absolute reports whether routes write balances that they read before. Otherwise balances change by calls or by additions only.
	Absolute bool
	// Marked reports whether the tables show refunds, by a flag or a log, so that the application can refund a task that has failed.
	Marked bool
	// Fixed names columns that the bridge must not change: for each table its key columns, and the others.
	Fixed []Columns

	seed string
	user func(n int) string
	key  func(kind string, n int) string
	statements
}

// Columns are columns of a table.
type Columns struct {
	Table   string // as in SQL
	Key     string // an expression that identifies a row for ever
	Columns string // a list
}

// statements are what the routes of the application run. {name} is a parameter.
type statements struct {
	addUser    []string // {user} {amount}
	insert     string   // {new} {user} {prompt} {amount} {charged} {n}; returns the key
	charged    string   // {key} {amount}: flags the task that was inserted before it was charged; optional
	chargeLog  string   // {key} {user} {amount}; optional
	lock       string   // {user}: locks the balance, where a route cancels after it
	balance    string   // {user}: returns the balance in our unit
	set        string   // {user} {amount}: writes a balance, returns what it replaced
	add        string   // {user} {amount}: returns the new balance
	charge     string   // {user} {amount} {key}: instead of add with a negative amount; optional
	refund     string   // {user} {amount} {key}: instead of add; optional
	buy        string   // {user} {amount}: instead of add; optional
	buyLog     string   // {user} {amount}; optional
	cancel     string   // {key} {user}: returns a row if the task was live
	lockTask   string   // {key}: locks a closed task whose refund is in question; optional
	refunded   string   // {key} {user} {amount}: marks the refund, returns a row if there was none; optional
	deleteTask string   // {key}
	deleteUser string   // {user}
	tasks      string   // {user}: returns key, state as our word, URL of the picture, whether a refund shows, and the cost in our unit
	gallery    string   // {user}: returns URLs of pictures; empty: the same as tasks
}

// All returns the applications that have tasks.
func All() []Shape {
	return []Shape{supabase(), profiles(), doodles(), betterAuth(), quoted(), booleans(), lots(), frozen()}
}

// Named returns the application of that name, and panics if there is none.
func Named(name string) Shape {
	for _, s := range append(All(), WithoutTasks()...) {
		if s.Name == name {
			return s
		}
	}
	panic("appshapes: there is no application " + name)
}

// WithoutTasks returns applications without image tasks: nothing in them is to be bridged.
func WithoutTasks() []Shape {
	return []Shape{
		{Name: "blog", InitialSQL: read("blog.sql")},
		{Name: "shop", InitialSQL: read("shop.sql")},
		{Name: "jobs", InitialSQL: read("jobs.sql")},
	}
}

func read(name string) string {
	text, err := files.ReadFile("sql/" + name)
	if err != nil {
		panic("appshapes: " + err.Error())
	}
	return string(text)
}

// URL returns the address of a database for one of the application's roles.
func URL(databaseURL, role string) string {
	u, err := url.Parse(databaseURL)
	if err != nil {
		panic("appshapes: the address of a test's database is no URL")
	}
	u.User = url.User(role)
	return u.String()
}

// Install creates the roles and the application's schema. The database's address must be that of a superuser.
func (s Shape) Install(ctx context.Context, databaseURL string) error {
	return run(ctx, databaseURL, "install the application "+s.Name, read("roles.sql"), "begin; set local role "+Owner+";"+s.InitialSQL+"; commit")
}

func run(ctx context.Context, databaseURL, what string, scripts ...string) error {
	db, err := sql.Open("postgres", databaseURL)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, script := range scripts {
		if _, err := db.ExecContext(ctx, script); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}

// Rows is how many rows Seed inserts.
type Rows struct {
	Users      int   // at least 1; task number n belongs to user 1 + n % Users
	History    int   // closed tasks: completed ones, and every tenth failed and refunded
	Pending    int   // live tasks, charged
	Processing int   // live tasks that a program of the application had begun
	Balance    int64 // of each user, in our unit, besides what is frozen
}

// Seed inserts users and tasks, as a superuser.
func (s Shape) Seed(ctx context.Context, databaseURL string, r Rows) error {
	script := strings.NewReplacer("@users@", strconv.Itoa(r.Users), "@history@", strconv.Itoa(r.History), "@pending@", strconv.Itoa(r.Pending),
		"@processing@", strconv.Itoa(r.Processing), "@balance@", strconv.FormatInt(r.Balance, 10)).Replace(s.seed)
	return run(ctx, databaseURL, "insert rows of the application "+s.Name, "begin;"+script+"; commit", "analyze")
}

// User returns the key of user number n, from 1, as text.
func (s Shape) User(n int) string { return s.user(n) }

// Key returns the key of task number n, from 1, that Seed inserted; kind is "history", "pending" or "processing". It returns "" where the database
// chooses the keys.
func (s Shape) Key(kind string, n int) string {
	if s.key == nil {
		return ""
	}
	return s.key(kind, n)
}

// digest returns the uuid of which PostgreSQL writes md5(text)::uuid.
func digest(text string) string { return uuid.UUID(md5.Sum([]byte(text))).String() }

func uuidUser(n int) string               { return digest("user" + strconv.Itoa(n)) }
func uuidKey(kind string, n int) string   { return digest(kind + strconv.Itoa(n)) }
func flatCost(cost int64) func(int) int64 { return func(int) int64 { return cost } }

// bind replaces each {name} by the parameter's number, and returns the arguments in their order.
func bind(statement string, parameters map[string]string) (string, []any) {
	var out strings.Builder
	var args []any
	numbers := map[string]int{}
	for {
		before, rest, found := strings.Cut(statement, "{")
		out.WriteString(before)
		if !found {
			return out.String(), args
		}
		name, tail, closed := strings.Cut(rest, "}")
		value, known := parameters[name]
		if !closed || !known {
			out.WriteString("{")
			statement = rest
			continue
		}
		if numbers[name] == 0 {
			args = append(args, value)
			numbers[name] = len(args)
		}
		fmt.Fprintf(&out, "$%d", numbers[name])
		statement = tail
	}
}
