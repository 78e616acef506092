package store

import (
	"strings"

	"github.com/lib/pq"
)

// channel is the NOTIFY channel for tasks that are due.
const channel = "imagetasks"

// Tables are the names of the application's tables, each with or without a schema. An empty name is the default:
// image_tasks, user_credits.
type Tables struct {
	Tasks   string
	Credits string
}

// names is the data of the SQL templates: quoted identifiers, and expressions that contain only columns.
type names struct {
	Tasks, Credits, Ledger    string
	LedgerOnce, LedgerUser    string
	LedgerTime, Processors    string
	TasksSchema, LedgerSchema string // with a dot, or empty
	Channel                   string
	StartedAt                 string // when processing started; the index "started" is on this expression
	tasksTable, schema        string
}

func (t Tables) names() names {
	if t.Tasks == "" {
		t.Tasks = "image_tasks"
	}
	if t.Credits == "" {
		t.Credits = "user_credits"
	}
	schema, tasksTable := splitName(t.Tasks)
	ledgerSchema, _ := splitName(t.Credits)
	return names{
		Tasks:        quoteName(schema, tasksTable),
		Credits:      quoteName(splitName(t.Credits)),
		Ledger:       quoteName(ledgerSchema, "credit_ledger"),
		LedgerOnce:   pq.QuoteIdentifier("credit_ledger_once"),
		LedgerUser:   pq.QuoteIdentifier("credit_ledger_user"),
		TasksSchema:  prefix(schema),
		LedgerSchema: prefix(ledgerSchema),
		LedgerTime:   pq.QuoteIdentifier("credit_ledger_time"),
		Processors:   quoteName(schema, "imagetasks_processors"),
		Channel:      channel,
		StartedAt:    "coalesce(processing_started_at, updated_at, created_at)",
		tasksTable:   tasksTable,
		schema:       schema,
	}
}

// Index returns the name of one of the task table's indexes.
func (n names) Index(purpose string) string { return pq.QuoteIdentifier(n.tasksTable + "_" + purpose) }

// Func returns the name of a function in the task table's schema.
func (n names) Func(name string) string { return quoteName(n.schema, "imagetasks_"+name) }

func prefix(schema string) string {
	if schema == "" {
		return ""
	}
	return pq.QuoteIdentifier(schema) + "."
}

func splitName(name string) (schema, table string) {
	if before, after, ok := strings.Cut(name, "."); ok {
		return before, after
	}
	return "", name
}

func quoteName(schema, table string) string {
	return prefix(schema) + pq.QuoteIdentifier(table)
}
