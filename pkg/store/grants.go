package store

import (
	"fmt"
	"strings"

	"github.com/lib/pq"
)

// object is a table, sequence or function of the schema, with the privileges that a role needs on it.
type object struct {
	kind       string // table, sequence or function
	name       string // for a function with the types of its arguments
	privileges []string
}

// Roles are the roles that migrate grants privileges to.
type Roles struct {
	App    []string `json:"app"`    // they call the interface: functions and the view task_status
	Worker []string `json:"worker"` // they run the four programs
}

// appObjects is the interface for applications, and all that an application's role may use.
func appObjects() []object {
	return []object{
		{"table", "task_status", []string{"select"}},
		{"function", "enqueue(text, text, jsonb, bigint, text, integer, timestamp with time zone, jsonb)", []string{"execute"}},
		{"function", "enqueue_many(text, jsonb, text)", []string{"execute"}},
		{"function", "cancel(text, text)", []string{"execute"}},
		{"function", "redrive(text, integer)", []string{"execute"}},
		{"function", "grant_credits(text, bigint, text, text)", []string{"execute"}},
		{"function", "balance(text)", []string{"execute"}},
	}
}

// workerObjects is what the four programs use.
func workerObjects() []object {
	objects := []object{
		{"table", "schema_versions", []string{"select"}},
		{"table", "tasks", []string{"select", "update", "delete"}},
		{"table", "inputs", []string{"select", "delete"}},
		{"table", "credits", []string{"select", "insert", "update"}},
		{"table", "ledger", []string{"select", "insert"}},
		{"table", "keys", []string{"select", "delete"}},
		{"table", "calls", []string{"select", "insert", "delete"}},
		{"table", "processors", []string{"select", "insert", "update", "delete"}},
		{"table", "control", []string{"select", "update"}},
		{"table", "set_aside", []string{"select", "insert", "update", "delete"}},
		{"table", "pending_results", []string{"select", "insert", "update", "delete"}},
		{"table", "models", []string{"select", "insert", "update"}},
		{"table", "endpoints", []string{"select", "insert", "update"}},
		{"table", "results", []string{"select", "insert", "update"}},
		{"table", "task_status", []string{"select"}},
		{"table", "bridge", []string{"select"}},
		{"table", "inbox", []string{"select"}},
		{"table", "outbox", []string{"select", "insert"}},
		{"table", "bridged_users", []string{"select", "update"}}, // the lock of a user
		{"table", "bridge_failures", []string{"select"}},
		{"table", "lost_updates", []string{"select", "update"}},
		{"table", "events", []string{"select", "update", "delete"}},
		{"table", "alerts", []string{"select", "insert", "update", "delete"}},
		{"table", "alert_receivers", []string{"select", "insert", "update"}},
		{"table", "alert_told", []string{"select", "insert", "update"}},
		{"table", "figures", []string{"select", "insert", "delete"}},
		{"table", "operations", []string{"select", "insert"}},
		{"function", "bridge_sync(integer)", []string{"execute"}},
		{"function", "bridge_apply(text)", []string{"execute"}},
		{"function", "bridge_progress(text[], bigint[], integer[], text[])", []string{"execute"}},
		{"function", "bridge_reconcile()", []string{"execute"}},
		{"function", "bridge_inputs(text)", []string{"execute"}},
		{"function", "bridge_check()", []string{"execute"}},
		{"function", "bridge_is_here()", []string{"execute"}},
		{"function", "claim_events(uuid, integer, integer, bigint, text[], integer[])", []string{"execute"}},
		{"function", "enqueue_many(text, jsonb, text)", []string{"execute"}},
		{"function", "cancel(text, text)", []string{"execute"}},
		{"function", "redrive(text, integer)", []string{"execute"}},
		{"function", "grant_credits(text, bigint, text, text)", []string{"execute"}},
		{"function", "balance(text)", []string{"execute"}},
		{"function", "hold_models(text[], text[], integer, boolean, text[])", []string{"execute"}},
		{"function", "is_model(text, text[], text[])", []string{"execute"}},
		{"function", "claim(uuid, text, integer, bigint, integer, integer, integer, bigint, boolean, text[], text[], text[], boolean, jsonb, boolean)", []string{"execute"}},
		{"function", "permit_interval(integer)", []string{"execute"}},
		{"function", "free_endpoints(jsonb, integer)", []string{"execute"}},
		{"function", "claimable_models(jsonb, integer[])", []string{"execute"}},
		{"function", "is_served(jsonb, text)", []string{"execute"}},
		{"function", "with_pauses(jsonb, jsonb)", []string{"execute"}},
		{"function", "is_elsewhere(jsonb, text)", []string{"execute"}},
		{"function", "choose_endpoint(jsonb, integer[], text, integer, text, text)", []string{"execute"}},
		{"function", "begin_request(text, bigint, text, text, integer)", []string{"execute"}},
		{"function", "begin_requests(text[], bigint[], text[], text[], integer[])", []string{"execute"}},
		{"function", "complete(text[], bigint[], text[], text[], text[], text[], text[])", []string{"execute"}},
		{"function", "limit_waits()", []string{"execute"}},
		{"function", "attempts_of(text)", []string{"execute"}},
		{"function", "tasks_set_aside()", []string{"execute"}},
		{"function", "database_identity()", []string{"execute"}},
		{"function", "promote(integer, text[])", []string{"execute"}},
		{"function", "admit(text[], boolean)", []string{"execute"}},
		{"function", "lock_user(text)", []string{"execute"}},
		{"function", "keep_limits()", []string{"execute"}},
		{"function", "virtual_time(integer)", []string{"execute"}},
		{"function", "last_slot(text, integer)", []string{"execute"}},
		{"function", "set_limits(integer, integer)", []string{"execute"}},
	}
	for priority := range 10 {
		objects = append(objects, object{"sequence", fmt.Sprintf("virtual_time_%d", priority), []string{"usage", "update"}})
	}
	return objects
}

// grant returns the statement that grants privileges on an object.
func (o object) grant(n names, role string) string {
	return fmt.Sprintf("grant %s on %s %s.%s to %s", strings.Join(o.privileges, ", "), o.kind, n.Schema, o.name, pq.QuoteIdentifier(role))
}

// policyName is the name of a worker role's policy on each table.
func policyName(role string) string { return "imagetasks worker " + role }

// policyTables are the tables that a worker role reads or changes directly.
func policyTables() []string { return append([]string{"schema_versions"}, tables...) }

// grants returns the statements that grant a role what it needs, without the policies.
func grants(n names, role string, objects []object) []string {
	out := []string{fmt.Sprintf("grant usage on schema %s to %s", n.Schema, pq.QuoteIdentifier(role))}
	for _, o := range objects {
		out = append(out, o.grant(n, role))
	}
	return out
}
