package store

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"text/template"

	"github.com/lib/pq"
)

// Channel is where NOTIFY tells of tasks that are due.
const Channel = "imagetasks"

//go:embed sql/*.sql
var sqlFiles embed.FS

// Tables names the application's tables, each with or without its schema. Empty names are the
// defaults, image_tasks and user_credits.
type Tables struct {
	Tasks   string
	Credits string
}

// names is what the SQL templates are filled with: identifiers, quoted.
type names struct {
	Tasks, Credits, Ledger    string
	LedgerOnce, LedgerUser    string
	LedgerTime, Processors    string
	TasksSchema, LedgerSchema string // with a dot, or empty
	Channel                   string
	Began                     string
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
		Channel:      Channel,
		Began:        "coalesce(processing_started_at, updated_at, created_at)",
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

// closing is what close.sql is filled with.
type closing struct {
	names
	State, Code, Message, Request string
}

// statements are the SQL texts by name, with the tables' names filled in.
type statements struct {
	byName map[string]string
	audits []string // names, in the order of the file
}

func loadStatements(n names) (statements, error) {
	out := statements{byName: map[string]string{}}
	tail, err := template.ParseFS(sqlFiles, "sql/close.sql")
	if err != nil {
		return out, err
	}
	funcs := template.FuncMap{"close": func(state, code, message, request string) (string, error) {
		var b strings.Builder
		err := tail.Execute(&b, closing{names: n, State: state, Code: code, Message: message, Request: request})
		return strings.TrimSpace(b.String()), err
	}, "stuck": func(tasks, user string) string {
		return fmt.Sprintf("status = 'processing' and %s < now() - $1 * interval '1 millisecond'\n"+
			"      and (%s::text[] is null or task_id = any (%[2]s)) and (%s::uuid is null or user_id = %[3]s)", n.Began, tasks, user)
	}}
	for _, file := range []string{"work.sql", "money.sql", "watch.sql", "audit.sql"} {
		text, err := fs.ReadFile(sqlFiles, path.Join("sql", file))
		if err != nil {
			return out, err
		}
		filled, err := fill(file, string(text), n, funcs)
		if err != nil {
			return out, err
		}
		for _, part := range strings.Split(filled, "-- name: ")[1:] {
			name, body, _ := strings.Cut(part, "\n")
			if _, taken := out.byName[name]; taken {
				return out, fmt.Errorf("%s: statement %q stands twice", file, name)
			}
			out.byName[name] = strings.TrimSuffix(strings.TrimSpace(body), ";")
			if strings.HasPrefix(name, "audit: ") {
				out.audits = append(out.audits, name)
			}
		}
	}
	return out, nil
}

func fill(name, text string, n names, funcs template.FuncMap) (string, error) {
	t, err := template.New(name).Funcs(funcs).Parse(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, n)
	return b.String(), err
}
