package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"imagetasks/pkg/bridge"
)

// A lock on a table of the application is waited for this long at most: its statements queue up behind the one that waits. All statements that need
// the lock are sent as one message, so that it is held for no round trip.
const (
	adoptLockTimeout = 100 * time.Millisecond
	adoptLockTries   = 50
	adoptMaxPause    = time.Second
)

// Adoption is what PlanAdoption would do, or what Adopt did. Without steps the bridge is as described.
type Adoption struct {
	Steps []Step `json:"steps"`
}

// AdoptError means that a step failed. The steps before it stand; it may be repeated.
type AdoptError struct {
	Step Step
	Err  error
	Hint string // what to do; may be empty
}

// Error implements error.
func (e *AdoptError) Error() string {
	text := fmt.Sprintf("adopt: %s: %v", e.Step.What, e.Err)
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// Unwrap returns the database's error.
func (e *AdoptError) Unwrap() error { return e.Err }

// adoptionPlan is the statements of an adoption, by the transaction that they run in.
type adoptionPlan struct {
	functions []Step // and the description: one transaction
	tables    []tableStep
	last      []Step // one transaction
}

// tableStep is a transaction that locks a table of the application.
type tableStep struct {
	table      bridge.Table
	what       string
	statements []string
}

// text returns the statements as they are run: one message is one transaction.
func (t tableStep) text() string {
	return fmt.Sprintf("set local lock_timeout = '%dms';\n%s", adoptLockTimeout.Milliseconds(), strings.Join(t.statements, ";\n"))
}

// steps returns what an operator may run by hand.
func (p adoptionPlan) steps() []Step {
	out := []Step{}
	transaction := func(steps []Step) {
		if len(steps) > 0 {
			out = append(append(append(out, Step{"begin a transaction", "begin"}), steps...), Step{"end the transaction", "commit"})
		}
	}
	transaction(p.functions)
	for _, t := range p.tables {
		out = append(out, t.step())
	}
	transaction(p.last)
	return out
}

func (t tableStep) step() Step { return Step{t.what, "begin;\n" + t.text() + ";\ncommit"} }

// PlanAdoption returns the steps that Adopt would run now. It takes no lock on a table of the application that its statements could wait for, and
// changes nothing: functions are created and rolled back, so that an error is the one that Adopt would meet.
func (s *Store) PlanAdoption(ctx context.Context, d bridge.Description) (Adoption, error) {
	plan, err := s.planAdoption(ctx, d)
	return Adoption{Steps: plan.steps()}, err
}

// Adopt makes a bridge as described, or changes it. Each lock on a table of the application is bounded. It may be interrupted anywhere and
// repeated. note is called after each step; optional.
func (s *Store) Adopt(ctx context.Context, d bridge.Description, note func(Step)) (Adoption, error) {
	done := Adoption{Steps: []Step{}}
	plan, err := s.planAdoption(ctx, d)
	if err != nil {
		return done, err
	}
	finished := func(steps ...Step) {
		for _, step := range steps {
			done.Steps = append(done.Steps, step)
			if note != nil {
				note(step)
			}
		}
	}
	if len(plan.functions) > 0 {
		if err := s.runSteps(ctx, plan.functions, nil); err != nil {
			return done, err
		}
		finished(plan.functions...)
	}
	for _, t := range plan.tables {
		if err := s.runLocked(ctx, t); err != nil {
			return done, err
		}
		finished(t.step())
	}
	if len(plan.last) > 0 {
		description, err := json.Marshal(d)
		if err != nil {
			return done, err
		}
		err = s.runSteps(ctx, plan.last, func(ctx context.Context, tx *sql.Tx) error {
			var same bool
			err := tx.QueryRowContext(ctx, "select coalesce(bool_or(description = $1::jsonb), false) from (select description from "+
				s.names.Schema+".bridge for update) b", string(description)).Scan(&same)
			if err == nil && !same {
				err = errors.New("adopt: another adopt ran at the same time; run it again")
			}
			return err
		})
		if err != nil {
			return done, err
		}
		finished(plan.last...)
	}
	return done, nil
}

// runSteps runs steps in one transaction, after check; optional. It is repeated when its answer is lost, or a lock is not free.
func (s *Store) runSteps(ctx context.Context, steps []Step, check func(context.Context, *sql.Tx) error) error {
	for try := 0; ; try++ {
		err := s.repeat(ctx, func(ctx context.Context) error { return s.runTransaction(ctx, steps, check) })
		if err == nil || !IsTransient(err) || try == 5 || !sleep(ctx, pauseAfter(try)) {
			return err
		}
	}
}

func (s *Store) runTransaction(ctx context.Context, steps []Step, check func(context.Context, *sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	m := migrator{tx: tx, names: s.names}
	if err := m.prepare(ctx); err != nil {
		return err
	}
	if check != nil {
		if err := check(ctx, tx); err != nil {
			return err
		}
	}
	for _, step := range steps {
		if _, err := tx.ExecContext(ctx, step.SQL); err != nil {
			return &AdoptError{Step: step, Err: err}
		}
	}
	return tx.Commit()
}

// pauseAfter is the wait after that many tries.
func pauseAfter(try int) time.Duration {
	pause := min(time.Duration(50+30*try)*time.Millisecond, adoptMaxPause)
	return pause/2 + rand.N(pause)
}

// runLocked runs a step that locks a table of the application, in many short tries.
func (s *Store) runLocked(ctx context.Context, t tableStep) error {
	text := t.text()
	var busy error // of the last try that did not get the lock
	for try := 0; ; try++ {
		err := s.repeat(ctx, func(ctx context.Context) error {
			_, err := s.db.ExecContext(ctx, text) // without arguments it is one message
			return err
		})
		if err == nil {
			return nil
		}
		if IsLockTimeout(err) || pq.As(err, pqerror.TRDeadlockDetected) != nil {
			busy = err
			if try < adoptLockTries-1 && sleep(ctx, pauseAfter(try)) {
				continue
			}
		}
		failed := &AdoptError{Step: t.step(), Err: err}
		if busy != nil && (ctx.Err() != nil || errors.Is(err, busy)) {
			failed.Err = busy
			failed.Hint = fmt.Sprintf("a transaction holds the table %s%s; run it again when that has ended: what was done stands", t.table, s.holders(ctx, t.table))
		}
		return failed
	}
}

// holders names the sessions with the oldest transactions that hold a table.
func (s *Store) holders(ctx context.Context, t bridge.Table) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // also when ctx has ended the tries
	defer cancel()
	var text string
	err := s.read(ctx, func(ctx context.Context) error {
		return s.db.QueryRowContext(ctx, `
			select coalesce(string_agg(' (pid ' || pid || ', ' || coalesce(nullif(application_name, ''), usename::text, '') || ', for ' || age || ' s)', ','), '')
			from (select distinct a.pid, a.application_name, a.usename, round(extract(epoch from now() - a.xact_start)) as age
			      from pg_locks l join pg_stat_activity a on a.pid = l.pid
			      where l.relation = to_regclass($1)::oid and l.granted and a.pid <> pg_backend_pid() and a.xact_start is not null
			      order by age desc limit 3) holders`, qualified(t)).Scan(&text)
	})
	if err != nil {
		return ""
	}
	return text
}

// planAdoption finds what differs from the description, in a transaction that is rolled back.
func (s *Store) planAdoption(ctx context.Context, d bridge.Description) (plan adoptionPlan, err error) {
	if len(d.Questions) > 0 {
		return plan, misfit("questions are open; answer them in imagetasks.toml: %s", strings.Join(d.Questions, " / "))
	}
	if d.Tasks.IsZero() {
		return plan, misfit("tasks: no table is named")
	}
	err = s.read(ctx, func(ctx context.Context) error {
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return fmt.Errorf("adopt: %w", err)
		}
		defer func() { _ = tx.Rollback() }()
		if err := checkAdopter(ctx, tx, s.schemaName()); err != nil {
			return err
		}
		if err := s.checkVersion(ctx); err != nil {
			return err
		}
		m := migrator{tx: tx, names: s.names}
		if err := m.prepare(ctx); err != nil {
			return err
		}
		p := adoptPlanner{tx: tx, names: s.names, schema: s.schemaName(), description: d}
		if err := p.run(ctx); err != nil {
			return err
		}
		plan = p.plan
		return nil
	})
	return plan, err
}

// adoptPlanner compares a description with the database.
type adoptPlanner struct {
	tx          *sql.Tx
	names       names
	schema      string
	description bridge.Description
	app         *application
	generated   []generated
	plan        adoptionPlan
}

func (p *adoptPlanner) run(ctx context.Context) error {
	// Names of types are complete when nothing is in the search path.
	if _, err := p.tx.ExecContext(ctx, "set local search_path = pg_catalog, pg_temp"); err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	if err := checkProcessors(ctx, p.tx, p.names); err != nil {
		return err
	}
	facts, err := readFacts(ctx, p.tx, p.description)
	if err != nil {
		return err
	}
	p.app = &application{names: p.names, Description: p.description, tables: facts.tables, partitions: facts.partitions, routines: facts.routines}
	if p.generated, err = functionsOf(p.names, p.description, facts.tables, facts.routines); err != nil {
		return err
	}
	if err := checkUnique(ctx, p.tx, p.description); err != nil {
		return err
	}
	if err := checkSequences(ctx, p.tx, p.description.Log, p.description.History); err != nil {
		return err
	}
	if err := p.validate(ctx); err != nil {
		return err
	}
	for _, compare := range []func(context.Context) error{p.compareFunctions, p.revoke, p.compareRecord, p.compareTriggers, p.finish} {
		if err := compare(ctx); err != nil {
			return err
		}
	}
	return nil
}

// validate checks what the functions could be created with, and would still fail: words that a CHECK refuses, values that an insert needs.
func (p *adoptPlanner) validate(ctx context.Context) error {
	catalog, err := catalogOf(ctx, p.tx)
	if err != nil {
		return fmt.Errorf("adopt: read the catalog: %w", err)
	}
	d := p.description
	d.Moving.Processing = cmp.Or(d.Moving.Processing, "wait")
	var texts []string
	for _, problem := range bridge.Validate(d, catalog) {
		texts = append(texts, problem.Error())
	}
	if len(texts) > 0 {
		return misfit("%s", strings.Join(texts, "\n"))
	}
	return nil
}

// definition returns what the database has of a function, or an empty text.
func (p *adoptPlanner) definition(ctx context.Context, g generated) (text string, err error) {
	err = p.tx.QueryRowContext(ctx, "select coalesce(pg_get_functiondef(to_regprocedure($1)), '')",
		fmt.Sprintf("%s.%s(%s)", p.names.Schema, g.Name, g.Arguments)).Scan(&text)
	if err != nil {
		return "", fmt.Errorf("adopt: read the function %s: %w", g.Name, err)
	}
	return text, nil
}

func (p *adoptPlanner) compareFunctions(ctx context.Context) error {
	for _, g := range p.generated {
		before, err := p.definition(ctx, g)
		if err != nil {
			return err
		}
		create := Step{"create the function " + g.Name, g.SQL}
		drop := Step{"drop the function " + g.Name + ", whose type changes", fmt.Sprintf("drop function if exists %s.%s(%s)", p.names.Schema, g.Name, g.Arguments)}
		steps := []Step{create}
		if _, err := p.tx.ExecContext(ctx, "savepoint one; "+create.SQL); err != nil {
			if before == "" || pq.As(err, pqerror.InvalidFunctionDefinition) == nil {
				return &AdoptError{Step: create, Err: err, Hint: "nothing was changed"}
			}
			// Another type of keys: "create or replace" can't change it.
			steps = []Step{drop, create}
			if _, err := p.tx.ExecContext(ctx, "rollback to savepoint one; "+drop.SQL+"; "+create.SQL); err != nil {
				return &AdoptError{Step: create, Err: err, Hint: "nothing was changed"}
			}
		}
		after, err := p.definition(ctx, g)
		if err != nil {
			return err
		}
		if after != before {
			p.plan.functions = append(p.plan.functions, steps...)
		}
	}
	return nil
}

// revoke takes from everybody but the owner what default privileges granted: the static functions call these with the owner's rights.
func (p *adoptPlanner) revoke(ctx context.Context) error {
	rows, err := p.tx.QueryContext(ctx, `
		select case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end,
		       string_agg($2 || '.' || quote_ident(p.proname) || '(' || pg_get_function_identity_arguments(p.oid) || ')', E',\n    ' order by p.proname)
		from pg_proc p join pg_namespace n on n.oid = p.pronamespace,
		     lateral (select distinct grantee from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner)))) a
		where n.nspname = $1 and p.proname like 'app\_%' and a.grantee <> p.proowner
		group by a.grantee order by 1`, p.schema, p.names.Schema)
	if err != nil {
		return fmt.Errorf("adopt: read privileges: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var grantee, functions string
		if err := rows.Scan(&grantee, &functions); err != nil {
			return fmt.Errorf("adopt: read privileges: %w", err)
		}
		p.plan.functions = append(p.plan.functions, Step{"revoke default privileges of " + grantee, fmt.Sprintf("revoke all on function %s from %s", functions, grantee)})
	}
	return rows.Err()
}

// compareRecord compares what the table bridge has.
func (p *adoptPlanner) compareRecord(ctx context.Context) error {
	d := p.description
	description, err := json.Marshal(d)
	if err != nil {
		return err
	}
	moving := d.Moving.Processing
	if moving == "" {
		moving = "wait"
	}
	if !slices.Contains([]string{"wait", "requeue", "fail"}, moving) {
		return misfit("moving: processing must be \"wait\", \"requeue\" or \"fail\"")
	}
	triggers, err := p.app.triggersOf()
	if err != nil {
		return err
	}
	noting := [][2]string{}
	for _, t := range triggers {
		noting = append(noting, [2]string{qualified(t.table), t.name})
	}
	watched, err := json.Marshal(noting)
	if err != nil {
		return err
	}
	columns := []string{"description", "moving", "refunds", "charges", "balances", "history", "shows_charges", "shows_refunds", "decimals", "triggers"}
	values := []string{literal(string(description)) + "::jsonb", literal(moving), fmt.Sprint(d.Credits.Refund != ""), fmt.Sprint(d.Credits.Charge != ""),
		fmt.Sprint(p.app.HasBalances()), fmt.Sprint(d.History != nil), fmt.Sprint(d.Credits.Charged == "column" || d.Credits.Charged == "log"),
		fmt.Sprint(d.Credits.RefundedColumn != "" || d.Credits.RefundLog != nil), fmt.Sprint(d.Credits.Decimals),
		literal(string(watched)) + "::jsonb"}
	var same bool
	err = p.tx.QueryRowContext(ctx, fmt.Sprintf("select exists (select from %s.bridge where (%s) = (%s))", p.names.Schema,
		strings.Join(columns, ", "), strings.Join(values, ", "))).Scan(&same)
	if err != nil {
		return fmt.Errorf("adopt: read what was applied: %w", err)
	}
	if same {
		return nil
	}
	if err := p.checkMoved(ctx); err != nil {
		return err
	}
	var set []string
	for _, c := range columns {
		set = append(set, c+" = excluded."+c)
	}
	p.plan.functions = append(p.plan.functions, Step{"record the description", fmt.Sprintf("insert into %s.bridge (%s)\nvalues (%s)\non conflict (only_row) do update set %s",
		p.names.Schema, strings.Join(columns, ", "), strings.Join(values, ", "), strings.Join(set, ", "))})
	return nil
}

// checkMoved refuses other tables while tasks of the present ones are not done.
func (p *adoptPlanner) checkMoved(ctx context.Context) error {
	var text []byte
	err := p.tx.QueryRowContext(ctx, "select description from "+p.names.Schema+".bridge").Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	var before bridge.Description
	if err != nil || json.Unmarshal(text, &before) != nil {
		return err // what can't be read was not written by this program
	}
	d := p.description
	if before.Tasks == d.Tasks && before.Key == d.Key && before.Credits.Table == d.Credits.Table && before.Credits.Decimals == d.Credits.Decimals {
		return nil
	}
	var live bool
	err = p.tx.QueryRowContext(ctx, "select exists (select from "+p.names.Schema+".tasks where bridge_state in ('live', 'owed'))").Scan(&live)
	if err == nil && live {
		err = misfit("the bridge works tasks of %s, and the description now names another table, key or unit of credits; run task-processor adopt --remove first", before.Tasks)
	}
	return err
}

// existingTrigger is a trigger with a name of ours.
type existingTrigger struct {
	trigger
	own  bool // its function is in our schema
	same bool // as far as it is not in trigger
}

func (p *adoptPlanner) existingTriggers(ctx context.Context) ([]existingTrigger, error) {
	rows, err := p.tx.QueryContext(ctx, `
		select n.nspname, c.relname, t.tgname, f.proname, fn.nspname = $1,
		       case t.tgtype when 4 then 'insert' when 8 then 'delete' when 16 then 'update' when 32 then 'truncate' else '' end,
		       (coalesce(t.tgnewtable = 'new_rows', false))::int + 2 * (coalesce(t.tgoldtable = 'old_rows', false))::int,
		       t.tgenabled = 'O' and t.tgqual is null and t.tgnargs = 0 and t.tgattr::text = ''
		from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
		join pg_proc f on f.oid = t.tgfoid join pg_namespace fn on fn.oid = f.pronamespace
		where t.tgname like 'imagetasks\_%' and not t.tgisinternal
		order by 1, 2, 3`, p.schema)
	if err != nil {
		return nil, fmt.Errorf("adopt: read the triggers: %w", err)
	}
	defer rows.Close()
	var out []existingTrigger
	for rows.Next() {
		var t existingTrigger
		if err := rows.Scan(&t.table.Schema, &t.table.Name, &t.name, &t.function, &t.own, &t.event, &t.rows, &t.same); err != nil {
			return nil, fmt.Errorf("adopt: read the triggers: %w", err)
		}
		out = append(out, t)
	}
	return out, rows.Err()
}

func (p *adoptPlanner) compareTriggers(ctx context.Context) error {
	wanted, err := p.app.triggersOf()
	if err != nil {
		return err
	}
	wanted = p.app.withPartitions(wanted)
	existing, err := p.existingTriggers(ctx)
	if err != nil {
		return err
	}
	var created, dropped tableSteps
	for _, t := range wanted {
		same := false
		for _, e := range existing {
			if e.table != t.table || e.name != t.name {
				continue
			}
			if !e.own {
				return misfit("the table %s has a trigger %s of another installation; remove that bridge first", t.table, t.name)
			}
			same = e.same && e.trigger == t
		}
		if !same {
			created.add(t.table, "create the triggers on "+t.table.String(), t.create(p.names))
		}
	}
	for _, e := range existing {
		if e.own && !slices.ContainsFunc(wanted, func(t trigger) bool { return t.table == e.table && t.name == e.name }) {
			dropped.add(e.table, "drop triggers on "+e.table.String(), e.drop())
		}
	}
	p.plan.tables = slices.Concat(created, dropped)
	return nil
}

func (t trigger) drop() string {
	return fmt.Sprintf("drop trigger if exists %s on %s", t.name, qualified(t.table))
}

// tableSteps are steps, one for each table.
type tableSteps []tableStep

func (s *tableSteps) add(table bridge.Table, what, statement string) {
	for i := range *s {
		if (*s)[i].table == table {
			(*s)[i].statements = append((*s)[i].statements, statement)
			return
		}
	}
	*s = append(*s, tableStep{table, what, []string{statement}})
}

// finish adds the steps that follow when the triggers are there.
func (p *adoptPlanner) finish(ctx context.Context) error {
	obsolete, err := appFunctions(ctx, p.tx, p.schema)
	if err != nil {
		return err
	}
	for _, f := range obsolete {
		if !slices.ContainsFunc(p.generated, func(g generated) bool { return g.Name == f.Name }) {
			p.plan.last = append(p.plan.last, Step{"drop the function " + f.Name + ", which is not used any more", f.drop(p.names)})
		}
	}
	var active, failed bool
	err = p.tx.QueryRowContext(ctx, fmt.Sprintf(`select coalesce((select bool_or(b.active) from %s.bridge b), false),
		exists (select from %[1]s.bridge_failures) or exists (select from %[1]s.outbox o where o.tries > 0)`, p.names.Schema)).Scan(&active, &failed)
	if err != nil {
		return fmt.Errorf("adopt: read the state of the bridge: %w", err)
	}
	if failed { // its cause may be gone
		p.plan.last = append(p.plan.last, Step{retryStep, fmt.Sprintf("update %s.bridge_failures set next_try_at = now();\n"+
			"update %[1]s.outbox set next_try_at = now() where tries > 0;\ndelete from %[1]s.bridge_failures where part = 'triggers'", p.names.Schema)})
	}
	if active && len(p.plan.functions) == 0 && len(p.plan.tables) == 0 {
		return nil
	}
	p.plan.last = append(p.plan.last,
		Step{"switch the bridge on", fmt.Sprintf("update %s.bridge set active = true, applied_at = now()", p.names.Schema)},
		Step{"note the tasks that are waiting", fmt.Sprintf("insert into %s.inbox (kind, key)\nselect 'task', live.key from %[1]s.app_live() with ordinality live (key, n) order by live.n",
			p.names.Schema)})
	return nil
}

// retryStep is a step that changes nothing of the bridge.
const retryStep = "try again what failed"

// appFunctions returns the functions of the bridge that exist.
func appFunctions(ctx context.Context, tx *sql.Tx, schema string) ([]generated, error) {
	rows, err := tx.QueryContext(ctx, `
		select p.proname, pg_get_function_identity_arguments(p.oid) from pg_proc p join pg_namespace n on n.oid = p.pronamespace
		where n.nspname = $1 and p.proname like 'app\_%' order by 1, 2`, schema)
	if err != nil {
		return nil, fmt.Errorf("adopt: list the functions: %w", err)
	}
	defer rows.Close()
	var out []generated
	for rows.Next() {
		var g generated
		if err := rows.Scan(&g.Name, &g.Arguments); err != nil {
			return nil, fmt.Errorf("adopt: list the functions: %w", err)
		}
		out = append(out, g)
	}
	return out, rows.Err()
}

func (g generated) drop(n names) string {
	return fmt.Sprintf("drop function if exists %s.%s(%s)", n.Schema, g.Name, g.Arguments)
}
