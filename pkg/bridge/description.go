// Package bridge describes the tables of an application: where its tasks and credits are, and what its words mean. "task-processor adopt"
// writes such a description, an operator corrects it, and the store generates the SQL of the bridge from it. This package knows neither
// the database nor files.
package bridge

import "imagetasks/pkg/task"

// Description is the part [bridge] of imagetasks.toml. Names of columns are as in the catalog, without quotes. Empty names mean that there is no
// such column.
type Description struct {
	// Tasks is the table of tasks.
	Tasks Table `toml:"tasks"`
	// Key is the column that identifies a task: a primary key, or unique and not null. Its value as text is the id of our task.
	Key string `toml:"key"`
	// Only selects the rows that are image tasks, where the table holds others too: a column, and the values it must have.
	Only map[string][]string `toml:"only,omitempty"`
	// Deleted is the column of a soft delete, a time or a boolean: a row where it is set is as if deleted.
	Deleted string `toml:"deleted,omitempty"`
	User    string `toml:"user"` // column of the user's id

	Prompt string   `toml:"prompt,omitempty"`
	Style  string   `toml:"style,omitempty"`
	Ratio  string   `toml:"ratio,omitempty"`
	Model  string   `toml:"model,omitempty"`
	Inputs []string `toml:"inputs,omitempty"` // columns of input pictures: data: URL, base64 or http URL; text, text[], jsonb (array of text) or bytea
	// Values translate what stands in the columns style, ratio and model: Values["ratio"]["square"] = "1:1". A value that is translated to ""
	// is left out.
	Values map[string]map[string]string `toml:"values,omitempty"`

	Result string `toml:"result"` // column that gets the picture's URL
	// ResultForm is how Result holds it: "text", "array" (text[] with one element) or JSON with {url} in it, such as ["{url}"] (json, jsonb).
	ResultForm string `toml:"result_form,omitempty"`
	Error      string `toml:"error,omitempty"`    // column of the error message, for people
	Progress   string `toml:"progress,omitempty"` // column of the percentage
	Stage      string `toml:"stage,omitempty"`    // column of the stage's word
	// Stages translates our stages (imagetasks' current_stage) to theirs; one that is missing is not written, unless Stages is empty: then all are.
	Stages map[string]string `toml:"stages,omitempty"`
	// Created gives the order of tasks; Started, Completed and Updated are columns of times to write. A trigger of theirs that sets them wins.
	Created   string `toml:"created,omitempty"`
	Started   string `toml:"started,omitempty"`
	Completed string `toml:"completed,omitempty"`
	Updated   string `toml:"updated,omitempty"`

	Status  Status   `toml:"status"`
	Moving  Moving   `toml:"moving"`
	Credits Credits  `toml:"credits"`
	Log     *Insert  `toml:"log,omitempty"`     // a row for each refund
	History *Insert  `toml:"history,omitempty"` // a row for each completed task
	Notify  string   `toml:"notify,omitempty"`  // channel of pg_notify for each closed task
	Path    []string `toml:"search_path"`       // schemas, for the application's own triggers and defaults
	// Settings are set (set_config) for the transactions that write to the application's tables, for triggers that look at them.
	Settings map[string]string `toml:"settings,omitempty"`
	// Questions are what adopt could not decide. adopt --plan and --apply refuse a description that has any.
	Questions []string `toml:"questions,omitempty"`
}

// Table is the name of a table: schema and table without quotes, in TOML "schema.table". Each part may be quoted as in SQL.
type Table struct{ Schema, Name string }

// Status says how the table shows the state of a task: by a column of words (text or enum) or codes (whole numbers), or by columns.
type Status struct {
	Column string `toml:"column,omitempty"`
	// The words of each state; the first is the one that is written. Pending and Processing may share words: such rows are pending.
	Pending    []string `toml:"pending,omitempty"`
	Processing []string `toml:"processing,omitempty"`
	Completed  []string `toml:"completed,omitempty"`
	Failed     []string `toml:"failed,omitempty"`
	Cancelled  []string `toml:"cancelled,omitempty"` // empty: Failed is written for a cancelled task

	// Without Column: boolean columns. A row is in the first state whose column is true, in the order completed, failed, cancelled, processing; else pending.
	// An empty CompletedColumn means: completed when the column Result is not null.
	CompletedColumn  string `toml:"completed_column,omitempty"`
	FailedColumn     string `toml:"failed_column,omitempty"`
	CancelledColumn  string `toml:"cancelled_column,omitempty"`
	ProcessingColumn string `toml:"processing_column,omitempty"`
}

// Moving says what becomes of rows that are processing at the moment of moving, or that the application itself sets to processing.
type Moving struct {
	Processing string `toml:"processing"` // "wait" (until stuck), "requeue" or "fail"
}

// Credits says what a task costs, how to see that it was charged, and where credits are.
type Credits struct {
	Cost        int64            `toml:"cost"` // in their credits (see Decimals): of a task where nothing below says otherwise
	CostColumn  string           `toml:"cost_column,omitempty"`
	CostByModel map[string]int64 `toml:"cost_by_model,omitempty"`
	// Charged is "always", "column", "log" or "never".
	Charged        string `toml:"charged"`
	ChargedColumn  string `toml:"charged_column,omitempty"`  // boolean, or a number: not null and not 0
	RefundedColumn string `toml:"refunded_column,omitempty"` // boolean, or the number of credits
	// ChargeLog finds the row of the application's log that records the charge (Charged = "log").
	ChargeLog *Match `toml:"charge_log,omitempty"`
	// RefundLog finds the row of a refund that the application made.
	RefundLog *Match `toml:"refund_log,omitempty"`

	Table    Table  `toml:"table,omitempty"`    // of balances; empty: none
	Key      string `toml:"key,omitempty"`      // column of the user's id there
	Column   string `toml:"column,omitempty"`   // integer or numeric
	Decimals int    `toml:"decimals,omitempty"` // digits after the point, 0 to 6: our unit is 10^-Decimals of their credit

	// Refund and Charge: "balance" (add to, or take from, Column), a call such as public.refund_credits({user}, {amount}, {task}), or "" (none).
	// Placeholders: {user}, {amount}, {task}, {reason}. A charge by a call fails by an error.
	Refund string `toml:"refund,omitempty"`
	Charge string `toml:"charge,omitempty"` // for redrive
}

// Match finds a row of a table: Task is the column that holds the task's key, Where further columns and their values.
type Match struct {
	Table Table               `toml:"table"`
	Task  string              `toml:"task"`
	Where map[string][]string `toml:"where,omitempty"`
}

// Insert is a row to insert: for each column a text with placeholders. {user}, {task}, {amount}, {balance}, {balance_before}, {url}, {prompt}, {style},
// {ratio}, {model}, {size}, {reason} and {row.NAME} (a column of the task's row) keep their type where they are the whole text; other text is a literal
// of the column's type.
type Insert struct {
	Table   Table             `toml:"table"`
	Columns map[string]string `toml:"columns"`
}

// Words returns the words for a state of ours.
func (s Status) Words(state task.State) []string {
	switch state {
	case task.Pending:
		return s.Pending
	case task.Processing:
		return s.Processing
	case task.Completed:
		return s.Completed
	case task.Failed:
		return s.Failed
	case task.Cancelled:
		return s.Cancelled
	}
	return nil
}
