package store

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"imagetasks/pkg/bridge"
)

// Compared is the condition that the rows o and n of a task differ in something that the queue goes by. Pictures are not compared.
func (a *application) Compared() (string, error) {
	names := []string{a.User, a.Prompt, a.Style, a.Ratio, a.Model, a.Status.Column, a.Credits.CostColumn, a.Credits.ChargedColumn, a.Credits.RefundedColumn}
	if a.Status.Column == "" {
		names = append(names, a.Status.CompletedColumn, a.Status.FailedColumn, a.Status.CancelledColumn, a.Status.ProcessingColumn)
		if a.Status.CompletedColumn == "" {
			names = append(names, a.Result)
		}
	}
	names = append(append(names, slices.Sorted(maps.Keys(a.Only))...), a.Deleted)
	var conditions, seen []string
	for _, name := range names {
		if name == "" || slices.Contains(seen, name) {
			continue
		}
		seen = append(seen, name)
		c, err := columnOf(a.tasks, name)
		if err != nil {
			return "", err
		}
		before, after := column("o", name), column("n", name)
		if c.Base == "json" || kind(c) == otherKind && c.Base != "enum" && c.Base != "uuid" {
			before, after = before+"::text", after+"::text" // some types have no operator of equality
		}
		conditions = append(conditions, fmt.Sprintf("%s is distinct from %s", after, before))
	}
	return strings.Join(conditions, "\n           or "), nil
}

// EitherOnly is the condition that one of the rows o and n is a task, to be added to others.
func (a *application) EitherOnly() (string, error) {
	before, err := a.AndOnly("o")
	if err != nil || before == "" {
		return "", err
	}
	after, err := a.AndOnly("n")
	return fmt.Sprintf("\n          and (true%s or true%s)", before, after), err
}

func (a *application) chargeLogged() bool {
	c := a.Credits
	return c.Charged == "log" && c.ChargeLog != nil && (c.RefundLog == nil || c.RefundLog.Table != c.ChargeLog.Table)
}

// logged selects the tasks of rows that were inserted into a log.
func (a *application) logged(matches ...*bridge.Match) (string, error) {
	var selects []string
	for _, m := range matches {
		t, err := a.table(m.Table)
		if err != nil {
			return "", err
		}
		if _, err := keyType(t, m.Task); err != nil {
			return "", err
		}
		where, err := matchWhere("n", t, m)
		if err != nil {
			return "", err
		}
		selects = append(selects, fmt.Sprintf("select 'task', %s::text from new_rows n where %[1]s is not null%s", column("n", m.Task), where))
	}
	return strings.Join(selects, "\n        union\n        "), nil
}

// ChargesLogged selects the tasks of rows that record a charge.
func (a *application) ChargesLogged() (string, error) { return a.logged(a.Credits.ChargeLog) }

// RefundsLogged selects the tasks of rows that record a refund, or a charge in the same table.
func (a *application) RefundsLogged() (string, error) {
	if a.Credits.Charged == "log" && a.Credits.ChargeLog != nil && !a.chargeLogged() {
		return a.logged(a.Credits.RefundLog, a.Credits.ChargeLog)
	}
	return a.logged(a.Credits.RefundLog)
}

// trigger is a trigger of the bridge on a table of the application.
type trigger struct {
	table    bridge.Table
	name     string
	function string // of ours, without arguments
	event    string
	rows     int // transition tables: 1: new rows, 2: old rows, 3: both
}

// The names of the triggers.
const triggerPrefix = "imagetasks_"

// triggersOf returns the triggers of a bridge, by table.
func (a *application) triggersOf() ([]trigger, error) {
	all := func(table bridge.Table, function string) []trigger {
		return []trigger{
			{table, triggerPrefix + "insert", function, "insert", 1},
			{table, triggerPrefix + "update", function, "update", 3},
			{table, triggerPrefix + "delete", function, "delete", 2},
			{table, triggerPrefix + "truncate", function, "truncate", 0},
		}
	}
	out := all(a.Tasks, "app_task_changed")
	if a.HasBalances() {
		out = append(out, all(a.Credits.Table, "app_balance_changed")...)
	}
	if a.Credits.RefundLog != nil {
		out = append(out, trigger{a.Credits.RefundLog.Table, triggerPrefix + "insert", "app_refund_logged", "insert", 1})
	}
	if a.chargeLogged() {
		out = append(out, trigger{a.Credits.ChargeLog.Table, triggerPrefix + "insert", "app_charge_logged", "insert", 1})
	}
	seen := map[bridge.Table]string{}
	for _, t := range out {
		if before, ok := seen[t.table]; ok && before != t.function {
			return nil, misfit("the table %s can't be two of: tasks, balances, log of charges, log of refunds", t.table)
		}
		seen[t.table] = t.function
	}
	return out, nil
}

// withPartitions adds the triggers of partitions: a statement that names a partition fires its own only.
func (a *application) withPartitions(triggers []trigger) []trigger {
	var out []trigger
	for _, t := range triggers {
		out = append(out, t)
		for _, partition := range a.partitions[t.table] {
			of := t
			of.table = partition
			out = append(out, of)
		}
	}
	return out
}

// create returns the statement that creates the trigger.
func (t trigger) create(n names) string {
	var referencing []string
	if t.rows&2 != 0 {
		referencing = append(referencing, "old table as old_rows")
	}
	if t.rows&1 != 0 {
		referencing = append(referencing, "new table as new_rows")
	}
	tables := ""
	if len(referencing) > 0 {
		tables = " referencing " + strings.Join(referencing, " ")
	}
	return fmt.Sprintf("create or replace trigger %s after %s on %s%s\n    for each statement execute function %s.%s()",
		t.name, t.event, qualified(t.table), tables, n.Schema, t.function)
}
