package store

import (
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/template"

	"github.com/lib/pq"

	"imagetasks/pkg/pattern"
)

//go:embed sql/*.sql
var sqlFiles embed.FS

// statement is one named SQL text.
type statement struct {
	name   string
	schema string
	// filled returns the text, with the schema's name filled in, which is done by its first call: most programs use few statements.
	filled func() (string, error)
}

// text returns the SQL text. It panics if the file is invalid, which loadStatements finds.
func (st statement) text() string {
	text, err := st.filled()
	if err != nil {
		panic(fmt.Errorf("statement %q: %w", st.name, err))
	}
	return text
}

// writes reports whether it changes rows, or calls a function that may. Only a lost answer raises the question.
func (st statement) writes() bool { return !readsOnly(st.text(), st.schema) }

// readsOnly reports whether an SQL text changes nothing.
func readsOnly(text, schema string) bool {
	for _, reading := range []string{"balance", "tasks_set_aside", "database_identity", "bridge_inputs", "bridge_check", "claimable_models", "choose_endpoint", "attempts_of",
		"with_pauses"} {
		text = strings.ReplaceAll(text, schema+"."+reading+"(", "")
	}
	for _, lock := range []string{"for update", "for no key update"} {
		text = strings.ReplaceAll(text, lock, "")
	}
	calls := regexp.MustCompile(regexp.QuoteMeta(schema) + `\.\w+\(`)
	return !calls.MatchString(text) && !changing().MatchString(text)
}

var changing = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^[^-]*\b(insert into|update|delete from)\b`) })

// String returns the name for error messages.
func (st statement) String() string { return strings.ReplaceAll(st.name, "_", " ") }

// statements are the SQL statements of a Store, with the schema's name filled in.
type statements struct {
	enqueue statement

	claim, claimable, hasSuspect, beginRequests statement
	permitWait, saveProgress                    statement
	savePending, recordModel, workedModels      statement
	admit, heldUsers, inputs, renewLeases       statement
	retry, release, recordedOutcomes            statement
	setAside, tasksAside, failSetAside          statement

	complete, completed, fail, recordedFailure, cancel, redrive  statement
	abandoned, overdue, failAbandoned, failOverdue, countOverdue statement
	sweep, requeue, stuck, stuckIDs, countStuck                  statement
	recordedResult                                               statement

	grantCredits, balance, ledger statement

	recordHeartbeat, deregister, processors statement

	control, pause, resume, pauseScope, resumeScope, setLimits statement

	noteOperation, operations statement

	installation, pictureTasks, movePictures statement

	pruneTasks, pruneInputs, pruneKeys, pruneCalls, pruneProcessors, pruneSetAside, prunePending, recordedCount, prunable statement

	nextDue, hasPending, hasPendingFor, queueStats, countByState, closedWithin, failuresWithin, refundsToday statement

	taskResults, resultsWithin, reportSince, report statement

	task, listTasks, taskDetails, taskLedger, liveTasksOf, forget, forgotten, unsettled statement

	repairRefunds, oweRefunds, resolve, resolved statement

	bridgeSync, bridgeDue, bridgeApply, bridgeProgress, bridgeReconcile, bridgeState, bridgeProblems, bridgeCheck, acknowledgeLostUpdates statement

	setCompletionEvents, claimEvents, recordEvents, notifyEvents, eventCounts, failingReceivers, listEvents, setEvents, pruneEvents statement

	observeAlerts, takeAlertTurn, claimAlerts, recordAlerts                                                                                  statement
	figuresBounds, recordFigures, figures, closedFigures, failureFigures, failedIDs, closedSince, closedBetween, bookedBetween, recentClosed statement
	findIDs, findPrefix, findUser                                                                                                            statement

	audits []statement // named by the code of the rule, in the order of audit.sql
}

// hot returns the statements that a processor repeats for its tasks. They are prepared once for each connection, so that their plans may be made
// without knowing their arguments: each finds its rows by primary keys, or calls a function. TestPrepared_GenericPlans holds that.
func (s *statements) hot() []statement {
	return []statement{s.claim, s.beginRequests, s.savePending, s.saveProgress, s.renewLeases, s.retry, s.release, s.inputs, s.complete, s.completed, s.fail,
		s.recordModel, s.enqueue, s.nextDue}
}

const auditFile = "audit.sql"

// files returns the field of each statement by its file and its name there. The audits are not in it: audit.sql may
// hold any number of them.
func (s *statements) files() map[string]map[string]*statement {
	return map[string]map[string]*statement{
		"enqueue.sql": {
			"enqueue": &s.enqueue,
		},
		"lease.sql": {
			"claim":             &s.claim,
			"claimable":         &s.claimable,
			"has_suspect":       &s.hasSuspect,
			"begin_requests":    &s.beginRequests,
			"permit_wait":       &s.permitWait,
			"save_progress":     &s.saveProgress,
			"save_pending":      &s.savePending,
			"record_model":      &s.recordModel,
			"worked_models":     &s.workedModels,
			"recorded_outcomes": &s.recordedOutcomes,
			"admit":             &s.admit,
			"held_users":        &s.heldUsers,
			"inputs":            &s.inputs,
			"renew_leases":      &s.renewLeases,
			"retry":             &s.retry,
			"release":           &s.release,
		},
		"close.sql": {
			"complete":         &s.complete,
			"completed":        &s.completed,
			"fail":             &s.fail,
			"recorded_failure": &s.recordedFailure,
			"set_aside":        &s.setAside,
			"tasks_aside":      &s.tasksAside,
			"fail_set_aside":   &s.failSetAside,
			"cancel":           &s.cancel,
			"redrive":          &s.redrive,
			"recorded_result":  &s.recordedResult,
			"abandoned":        &s.abandoned,
			"overdue":          &s.overdue,
			"fail_abandoned":   &s.failAbandoned,
			"fail_overdue":     &s.failOverdue,
			"count_overdue":    &s.countOverdue,
			"sweep":            &s.sweep,
			"requeue":          &s.requeue,
			"stuck":            &s.stuck,
			"stuck_ids":        &s.stuckIDs,
			"count_stuck":      &s.countStuck,
		},
		"credits.sql": {
			"grant_credits": &s.grantCredits,
			"balance":       &s.balance,
			"ledger":        &s.ledger,
		},
		"processors.sql": {
			"record_heartbeat": &s.recordHeartbeat,
			"deregister":       &s.deregister,
			"processors":       &s.processors,
		},
		"control.sql": {
			"control":      &s.control,
			"pause":        &s.pause,
			"resume":       &s.resume,
			"pause_scope":  &s.pauseScope,
			"resume_scope": &s.resumeScope,
			"set_limits":   &s.setLimits,
		},
		"operations.sql": {
			"note_operation": &s.noteOperation,
			"operations":     &s.operations,
		},
		"pictures.sql": {
			"installation":  &s.installation,
			"picture_tasks": &s.pictureTasks,
			"move_pictures": &s.movePictures,
		},
		"prune.sql": {
			"prune_tasks":      &s.pruneTasks,
			"prune_inputs":     &s.pruneInputs,
			"prune_keys":       &s.pruneKeys,
			"prune_calls":      &s.pruneCalls,
			"prune_processors": &s.pruneProcessors,
			"prune_set_aside":  &s.pruneSetAside,
			"prune_pending":    &s.prunePending,
			"prune_events":     &s.pruneEvents,
			"recorded_count":   &s.recordedCount,
			"prunable":         &s.prunable,
		},
		"stats.sql": {
			"next_due":    &s.nextDue,
			"has_pending": &s.hasPending, "has_pending_for": &s.hasPendingFor,
			"queue_stats":     &s.queueStats,
			"count_by_state":  &s.countByState,
			"closed_within":   &s.closedWithin,
			"failures_within": &s.failuresWithin,
			"refunds_today":   &s.refundsToday,
		},
		"report.sql": {
			"task_results":   &s.taskResults,
			"results_within": &s.resultsWithin,
			"report_since":   &s.reportSince,
			"report":         &s.report,
		},
		"tasks.sql": {
			"task":          &s.task,
			"list_tasks":    &s.listTasks,
			"task_details":  &s.taskDetails,
			"task_ledger":   &s.taskLedger,
			"live_tasks_of": &s.liveTasksOf,
			"forget":        &s.forget,
			"forgotten":     &s.forgotten,
			"unsettled":     &s.unsettled,
		},
		"figures.sql": {
			"figures_bounds":  &s.figuresBounds,
			"record_figures":  &s.recordFigures,
			"figures":         &s.figures,
			"closed_figures":  &s.closedFigures,
			"failure_figures": &s.failureFigures,
			"failed_ids":      &s.failedIDs,
			"closed_since":    &s.closedSince,
			"closed_between":  &s.closedBetween,
			"booked_between":  &s.bookedBetween,
			"recent_closed":   &s.recentClosed,
			"find_ids":        &s.findIDs,
			"find_prefix":     &s.findPrefix,
			"find_user":       &s.findUser,
		},
		"settle.sql": {
			"repair_refunds": &s.repairRefunds,
			"owe_refunds":    &s.oweRefunds,
			"resolve":        &s.resolve,
			"resolved":       &s.resolved,
		},
		"bridge.sql": {
			"bridge_sync":      &s.bridgeSync,
			"bridge_due":       &s.bridgeDue,
			"bridge_apply":     &s.bridgeApply,
			"bridge_progress":  &s.bridgeProgress,
			"bridge_reconcile": &s.bridgeReconcile,
			"bridge_state":     &s.bridgeState,
			"bridge_problems":  &s.bridgeProblems,
			"bridge_check":     &s.bridgeCheck,

			"acknowledge_lost_updates": &s.acknowledgeLostUpdates,
		},
		"events.sql": {
			"set_completion_events": &s.setCompletionEvents,
			"claim_events":          &s.claimEvents,
			"record_events":         &s.recordEvents,
			"notify_events":         &s.notifyEvents,
			"event_counts":          &s.eventCounts,
			"failing_receivers":     &s.failingReceivers,
			"list_events":           &s.listEvents,
			"set_events":            &s.setEvents,
		},
		"alerts.sql": {
			"observe_alerts":  &s.observeAlerts,
			"take_alert_turn": &s.takeAlertTurn,
			"claim_alerts":    &s.claimAlerts,
			"record_alerts":   &s.recordAlerts,
		},
	}
}

// loadStatements is findStatements that fills in the statements, too. It returns an error if that fails for one of them.
func loadStatements(files fs.FS, n names) (statements, error) {
	s, err := findStatements(files, n)
	if err != nil {
		return s, err
	}
	for _, st := range s.all() {
		if _, err := st.filled(); err != nil {
			return s, err
		}
	}
	return s, nil
}

// all returns all statements.
func (s *statements) all() []statement {
	all := slices.Clone(s.audits)
	for _, fields := range s.files() {
		for _, st := range fields {
			all = append(all, *st)
		}
	}
	return all
}

// findStatements reads the SQL files. It returns an error if a statement is missing, empty, unknown or defined twice.
func findStatements(files fs.FS, n names) (statements, error) {
	var s statements
	for file, fields := range s.files() {
		sections, err := readSections(files, file, n)
		if err != nil {
			return s, err
		}
		for _, section := range sections {
			field, known := fields[section.name]
			switch {
			case !known:
				return s, fmt.Errorf("%s: unknown statement %q", file, section.name)
			case field.name != "":
				return s, fmt.Errorf("%s: statement %q is defined twice", file, section.name)
			}
			*field = section
		}
		for name, field := range fields {
			if field.name == "" {
				return s, fmt.Errorf("%s: statement %q is missing", file, name)
			}
		}
	}
	var err error
	s.audits, err = loadAudits(files, n)
	return s, err
}

var ruleCode = pattern.New(`^audit: ([a-z]+(?:_[a-z]+)*)$`)

func loadAudits(files fs.FS, n names) ([]statement, error) {
	sections, err := readSections(files, auditFile, n)
	if err != nil {
		return nil, err
	}
	if len(sections) == 0 {
		return nil, fmt.Errorf("%s: no rule is defined", auditFile)
	}
	codes := map[string]bool{}
	for i, section := range sections {
		code := ruleCode().FindStringSubmatch(section.name)
		switch {
		case code == nil:
			return nil, fmt.Errorf("%s: unknown statement %q; want the form audit: rule_code", auditFile, section.name)
		case codes[code[1]]:
			return nil, fmt.Errorf("%s: rule %q is defined twice", auditFile, code[1])
		}
		codes[code[1]] = true
		sections[i].name = code[1]
	}
	return sections, nil
}

const sectionMark = "-- name: "

// readSections splits a file at its "-- name:" lines. What stands before the first are blocks for all of them.
func readSections(files fs.FS, file string, n names) ([]statement, error) {
	text, err := fs.ReadFile(files, file)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(string(text), sectionMark)
	blocks := parts[0]
	var sections []statement
	for _, part := range parts[1:] {
		name, body, _ := strings.Cut(part, "\n")
		section := statement{name: strings.TrimSpace(name), schema: n.Schema, filled: sync.OnceValues(func() (string, error) {
			filled, err := fill(file, blocks+sectionMark+body, n)
			_, filled, _ = strings.Cut(filled, sectionMark)
			return strings.TrimSuffix(strings.TrimSpace(filled), ";"), err
		})}
		if isEmpty(strings.TrimSuffix(strings.TrimSpace(body), ";")) {
			return nil, fmt.Errorf("%s: statement %q is empty", file, section.name)
		}
		sections = append(sections, section)
	}
	return sections, nil
}

// isEmpty reports whether an SQL text has nothing but comments.
func isEmpty(text string) bool {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "--") {
			return false
		}
	}
	return true
}

// closing is the data of the block "close" in close.sql.
type closing struct {
	names
	State, Code, Message, Request, Endpoint string
	Held                                    bool   // by the holder of the lease
	Answer                                  string // of the request that is open; see requestAnswered
	Attempts                                string // how many attempts are used
	Call                                    string // empty: the call is not recorded
}

// maxOutcomes bounds the outcomes that are kept with a task.
const maxOutcomes = 50

// fill executes a template of an SQL file. The functions are the expressions that several statements share; their
// arguments are SQL expressions, mostly parameters such as $1.
func fill(name, text string, n names) (string, error) {
	t := template.New(name)
	execute := func(c closing) (string, error) {
		var b strings.Builder
		err := t.ExecuteTemplate(&b, "close", c)
		return b.String(), err
	}
	t.Funcs(template.FuncMap{
		"literal": pq.QuoteLiteral,
		// An id of a task or a user.
		"id": func(value string) string {
			return fmt.Sprintf(`char_length(%s) between 1 and %d and %[1]s !~ '[\u0001-\u001f\u007f-\u009f]'`, value, MaxID)
		},
		// Processing for longer than ms milliseconds.
		"stuck": func(ms string) string {
			return fmt.Sprintf("status = 'processing' and %s < now() - %s * interval '1 millisecond'", n.StartedAt, ms)
		},
		// Due for longer than ms milliseconds, and not started. What is paid for is still fetched: its host may have it for a day.
		"overdue": func(ms string) string {
			return fmt.Sprintf(`status = 'pending' and run_after < now() - %s * interval '1 millisecond'
      and not exists (select from %s.pending_results p
                      where p.task_id = tasks.task_id and p.run = tasks.run and p.saved_at > now() - interval '1 day')`, ms, n.Schema)
		},
		// When the requests of unknown outcome of the row t were sent, about.
		"unknownAt": func(t string) string {
			return fmt.Sprintf("coalesce(%s.completed_at, %[1]s.processing_started_at, %[1]s.updated_at)", t)
		},
		// A time more than ms milliseconds ago.
		"older": func(column, ms string) string {
			return fmt.Sprintf("%s < now() - %s * interval '1 millisecond'", column, ms)
		},
		// One of these tasks, and this user's; null selects all.
		"selected": func(tasks, user string) string {
			return fmt.Sprintf("(%s::text[] is null or task_id = any (%[1]s)) and (%s::text is null or user_id = %[2]s)", tasks, user)
		},
		// The task is not set aside. The list is read once, not for each row.
		"notAside": func() string {
			return fmt.Sprintf("task_id <> all ((select %s.tasks_set_aside())::text[])", n.Schema)
		},
		// The row says that its run was charged, and the ledger has no charge of it.
		"missingCharge": func(row string) string {
			return fmt.Sprintf(`(%s.credits_deducted > 0 and not exists (
        select from %s.ledger charge where charge.task_id = %[1]s.task_id and charge.run = %[1]s.run and charge.kind = 'charge'))`,
				row, n.Schema)
		},
		// The run of the charge c is refunded, or the application ended it, and an adjust row says why nothing is given back.
		"refundDone": func(c string) string {
			return fmt.Sprintf(`exists (
        select from %s.ledger r where r.task_id = %[2]s.task_id and r.run = %[2]s.run and (r.kind = 'refund' or r.kind = 'adjust' and r.external))`, n.Schema, c)
		},
		// The server was started more than ms milliseconds ago: the owners of leases had time to come back.
		"settled": func(ms string) string {
			return fmt.Sprintf("pg_postmaster_start_time() < now() - %s * interval '1 millisecond'", ms)
		},
		// The database is the installation's own, or was accepted as such more than ms milliseconds ago (resume).
		"accepted": func(ms string) string {
			return fmt.Sprintf(`(select c.database_identity = %s.database_identity() and coalesce(c.accepted_at < now() - %s * interval '1 millisecond', true)
      from %[1]s.control c)`, n.Schema, ms)
		},
		// The end of a statement that counts the rows of counted and records the number under the id of the call.
		"recordedCount": func(counted, call string) string {
			return fmt.Sprintf(`recorded as (
    insert into %s.calls (call_id, result)
    select %s::uuid, jsonb_build_object('count', count(*)) from %s having count(*) > 0
)
select count(*) from %[3]s`, n.Schema, call, counted)
		},
		// The rows of result, recorded under the id of the call: each column is one array, which costs less than an object for each row.
		"recordedTasks": func(call string) string {
			return fmt.Sprintf(`recorded as (
    insert into %s.calls (call_id, result)
    select %s::uuid, jsonb_build_object('task_id', array_agg(task_id), 'user_id', array_agg(user_id), 'credits', array_agg(credits),
                                        'balance', array_agg(balance), 'age', array_agg(age), 'missing_charge', array_agg(missing_charge))
    from result having count(*) > 0
)`, n.Schema, call)
		},
		// What becomes of the record of a request that is open, in an update of the row t. answer is the text "answered", "unsent" (no
		// byte of it left), "in progress" (it was a repeat, and the outcome of the one before is still open), or anything else: its outcome is unknown.
		"requestAnswered": func(answer string) string {
			return fmt.Sprintf(`requests_sent = t.requests_sent - (t.request_open and t.requests_sent > 0 and %[1]s = 'unsent')::int,
        unknown_outcomes = t.unknown_outcomes + (t.request_open and %[1]s not in ('answered', 'unsent', 'in progress'))::int,
        request_key = case when t.request_open and (%[1]s = 'answered' or %[1]s = 'unsent' and t.unknown_outcomes = 0) then null else t.request_key end,
        request_open = false`, answer)
		},
		// The attempts of the row t, with the outcome of the claim that ends, by its holder. Without a claim there is no outcome.
		"outcome": func(outcome, code, message, request, endpoint string) string {
			return outcomeBy("'holder'", outcome, code, message, request, endpoint, "null")
		},
		"outcomeBy": func(by, outcome, code, message, request, endpoint string) string {
			return outcomeBy(by, outcome, code, message, request, endpoint, "null")
		},
		// An insert into results of what a request used, from a text that is JSON or empty.
		"result": func(outcome, keys, usage, from string) string {
			return fmt.Sprintf(`insert into %[1]s.results (task_id, run, user_id, outcome, endpoint, model, took_ms, usage, cost, currency)
    select %[2]s, '%[3]s', u.usage ->> 'endpoint', left(u.usage ->> 'model', 1000), (u.usage ->> 'took')::bigint / 1000000, u.usage -> 'counts',
           coalesce((u.usage ->> 'cost')::bigint, 0), u.usage ->> 'currency'
    %[4]s cross join lateral (select nullif(%[5]s, '')::jsonb as usage) u
    where u.usage is not null`, n.Schema, keys, outcome, from, usage)
		},
		// An insert into the log of operators, with one row for each of from. Nothing is noted without the id of an operation.
		"operation": func(id, who, what, subject, detail, result, from string) string {
			return fmt.Sprintf(`insert into %s.operations (operation_id, who, what, subject, detail, result)
    select %s::uuid, left(%s::text, 500), %s, left(%s::text, 2000), left(%s, 2000), left(%s, 2000) from %s where %[2]s::uuid is not null
    on conflict (operation_id) do nothing returning 1`, n.Schema, id, who, what, subject, detail, result, from)
		},
		// Whether an endpoint or a model is among the pauses.
		"paused": func(pauses, scope, name string) string {
			return fmt.Sprintf("%s @> jsonb_build_array(jsonb_build_object('scope', %s::text, 'name', %s::text))", pauses, scope, name)
		},
		// outcome of a success, with a note.
		"noted": func(outcome, request, endpoint, note string) string {
			return outcomeBy("'holder'", outcome, "null", "null", request, endpoint, note)
		},
		"close": func(state, code, message, request, call string) (string, error) {
			return execute(closing{names: n, State: state, Code: code, Message: message, Request: request, Answer: "''", Attempts: "0", Call: call})
		},
		// close by the holder of the lease.
		"closeHeld": func(state, code, message, request, endpoint, answer, attempts string) (string, error) {
			return execute(closing{names: n, Held: true, State: state, Code: code, Message: message, Request: request,
				Endpoint: endpoint, Answer: answer, Attempts: attempts})
		},
	})
	if _, err := t.Parse(text); err != nil {
		return "", err
	}
	var b strings.Builder
	err := t.Execute(&b, n)
	return b.String(), err
}

// outcomeBy returns the attempts of the row t with one more outcome. by is 'holder' where the holder of the lease records it.
func outcomeBy(by, outcome, code, message, request, endpoint, note string) string {
	return fmt.Sprintf(`case when t.processing_started_at is null then t.attempts else
            case when jsonb_array_length(t.attempts) < %d then t.attempts else t.attempts - 0 end || jsonb_strip_nulls(jsonb_build_object(
                'run', t.run, 'attempt', t.attempt_count + 1, 'epoch', t.lease_epoch, 'by', %s::text, 'outcome', '%s', 'at', now(),
                'seconds', round(extract(epoch from now() - t.processing_started_at)::numeric, 3),
                'code', %s::text, 'message', %s::text, 'request_id', %s::text, 'endpoint', %s::text, 'note', %s::text)) end`,
		maxOutcomes, by, outcome, code, message, request, endpoint, note)
}
