package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// BridgeRemoval is what RemoveBridge did.
type BridgeRemoval struct {
	Steps      []Step `json:"steps"`
	HandedBack int    `json:"handed_back"` // live tasks that the application has again
	Reset      int    `json:"reset"`       // of them, rows that were set back from processing to pending
	Dropped    int    `json:"dropped"`     // ends of tasks that were not written to the application's tables, by force
}

// BridgeBusyError means that a bridge can't be removed now.
type BridgeBusyError struct {
	NotPaused  bool
	Processing int // tasks of the application that are being processed
	Owed       int // tasks whose end is not written to the application's tables yet
}

// Error implements error.
func (e *BridgeBusyError) Error() string {
	var reasons []string
	if e.NotPaused {
		reasons = append(reasons, "the queue is not paused")
	}
	if e.Processing > 0 {
		reasons = append(reasons, fmt.Sprintf("tasks of the application that are being processed: %d", e.Processing))
	}
	if e.Owed > 0 {
		reasons = append(reasons, fmt.Sprintf("tasks whose end is not written to the application's tables yet: %d", e.Owed))
	}
	return "the bridge can't be removed: " + strings.Join(reasons, ", ") +
		"; run task-processor pause, wait until task-processor status shows none of them, and run it again (--force gives up what is left)"
}

// RemoveBridge removes the triggers and functions of the bridge, so that the application's schema is as it was before. Tasks that are waiting are the
// application's again: their rows are pending. Nothing may be processed and no end may be owed, unless force is set; then what is owed, refunds
// included, is given up. It may be interrupted anywhere and repeated. note is called after each step; optional.
func (s *Store) RemoveBridge(ctx context.Context, force bool, note func(Step)) (BridgeRemoval, error) {
	done := BridgeRemoval{Steps: []Step{}}
	finished := func(step Step) {
		done.Steps = append(done.Steps, step)
		if note != nil {
			note(step)
		}
	}
	var triggers tableSteps
	err := s.inAdoptTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		triggers = nil
		if err := checkBusy(ctx, tx, s.names, force); err != nil {
			return err
		}
		p := adoptPlanner{tx: tx, names: s.names, schema: s.schemaName()}
		existing, err := p.existingTriggers(ctx)
		for _, e := range existing {
			if e.own {
				triggers.add(e.table, "drop the triggers on "+e.table.String(), e.drop())
			}
		}
		return err
	})
	if err != nil {
		return done, err
	}
	for _, t := range triggers {
		if err := s.runLocked(ctx, t); err != nil {
			return done, err
		}
		finished(t.step())
	}
	if done.Reset, err = s.handBack(ctx, force); err != nil {
		return done, err
	}
	var steps []Step
	err = s.inAdoptTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		steps = nil
		return s.removeRest(ctx, tx, force, &done, &steps)
	})
	if err != nil {
		return done, err
	}
	for _, step := range steps {
		finished(step)
	}
	return done, nil
}

// inAdoptTx runs a transaction as the owner of the schema. It is repeated when its answer is lost.
func (s *Store) inAdoptTx(ctx context.Context, run func(context.Context, *sql.Tx) error) error {
	return s.repeat(ctx, func(ctx context.Context) error {
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return fmt.Errorf("adopt: %w", err)
		}
		defer func() { _ = tx.Rollback() }()
		if err := checkAdopter(ctx, tx, s.schemaName()); err != nil {
			return err
		}
		m := migrator{tx: tx, names: s.names}
		if err := m.prepare(ctx); err != nil {
			return err
		}
		if err := run(ctx, tx); err != nil {
			return err
		}
		return tx.Commit()
	})
}

// heldByApplication are tasks that the application itself was processing when it moved.
const heldByApplication = "leased_by is not distinct from 'the application'"

// checkBusy locks the row of bridge and refuses the removal while something is in progress. Without a bridge there is nothing.
func checkBusy(ctx context.Context, tx *sql.Tx, n names, force bool) error {
	var busy BridgeBusyError
	err := tx.QueryRowContext(ctx, fmt.Sprintf(`
		with b as (select only_row from %[1]s.bridge for update)
		select exists (select from %[1]s.control where paused_at is null),
		       (select count(*) from %[1]s.tasks where bridge_state = 'live' and status = 'processing' and not %[2]s),
		       (select count(*) from %[1]s.outbox)
		from b`, n.Schema, heldByApplication)).Scan(&busy.NotPaused, &busy.Processing, &busy.Owed)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("adopt: look for work in progress: %w", err)
	case !force && busy != BridgeBusyError{}:
		return &busy
	}
	return nil
}

// handBack sets rows that were processed here back to pending. Each is a transaction of its own, so that no row stays locked.
func (s *Store) handBack(ctx context.Context, force bool) (int, error) {
	var exists bool
	err := s.read(ctx, func(ctx context.Context) error {
		return s.db.QueryRowContext(ctx, "select to_regprocedure($1) is not null", s.names.Schema+".app_hand_back(text)").Scan(&exists)
	})
	if err != nil || !exists {
		return 0, err
	}
	var keys []string
	err = s.read(ctx, func(ctx context.Context) error {
		keys = nil
		rows, err := s.db.QueryContext(ctx, fmt.Sprintf(`select task_id from %s.tasks
			where bridge_state = 'live' and status in ('pending', 'processing') and lease_epoch > 0 and not %s order by task_id`, s.names.Schema, heldByApplication))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var key string
			if err := rows.Scan(&key); err != nil {
				return err
			}
			keys = append(keys, key)
		}
		return rows.Err()
	})
	if err != nil {
		return 0, fmt.Errorf("adopt: list the tasks to hand back: %w", err)
	}
	reset := 0
	for _, key := range keys {
		did, err := s.handBackOne(ctx, key)
		if err != nil && !force {
			return reset, fmt.Errorf("adopt: set the row of task %s back to pending: %w; set it by hand, or run it again", key, err)
		}
		if did == "applied" {
			reset++
		}
	}
	return reset, nil
}

func (s *Store) handBackOne(ctx context.Context, key string) (did string, err error) {
	for try := 0; ; try++ {
		err = s.repeat(ctx, func(ctx context.Context) error {
			return s.db.QueryRowContext(ctx, "select "+s.names.Schema+".app_hand_back($1)", key).Scan(&did)
		})
		if err == nil || !IsTransient(err) || try == 20 || !sleep(ctx, pauseAfter(try)) {
			return did, err
		}
	}
}

// removeRest closes our side of the tasks and removes everything but the triggers. A claim or a change of theirs that came in between is seen here.
func (s *Store) removeRest(ctx context.Context, tx *sql.Tx, force bool, done *BridgeRemoval, steps *[]Step) error {
	// Also waits for the processor that is reading the inbox.
	if err := checkBusy(ctx, tx, s.names, force); err != nil {
		return err
	}
	run := func(step Step, count *int) error {
		var n int
		if err := tx.QueryRowContext(ctx, step.SQL).Scan(&n); err != nil {
			return &AdoptError{Step: step, Err: err}
		}
		if n > 0 {
			*steps = append(*steps, step)
		}
		*count = max(*count, n) // a repeat finds nothing left
		return nil
	}
	schema := s.names.Schema
	err := run(Step{"hand waiting tasks back", fmt.Sprintf(`with closed as (
    update %[1]s.tasks
    set status = 'cancelled', bridge_state = 'superseded', error_code = 'handed_back', error_message = 'the bridge was removed; the application has the task again',
        current_stage = 'closed', leased_by = null, lease_expires_at = null, completed_at = now(), updated_at = now()
    where bridge_state = 'live' and status in ('pending', 'processing')
    returning task_id, run
), noted as (
    select %[1]s.bridge_not_refunded(task_id, run, false, 'handed back to the application') from closed order by task_id
)
select count(*) from noted`, schema)}, &done.HandedBack)
	if err != nil {
		return err
	}
	err = run(Step{"give up what is owed", fmt.Sprintf(`with given_up as (
    delete from %[1]s.outbox returning task_id, run
), marked as (
    update %[1]s.tasks t set bridge_state = 'superseded', updated_at = now() from given_up g where t.task_id = g.task_id
    returning t.task_id, t.run, t.status
), noted as (
    select %[1]s.bridge_not_refunded(task_id, run, false, 'the bridge was removed by force') from marked where status <> 'completed' order by task_id
)
select (select count(*) from marked) + 0 * (select count(*) from noted)`, schema)}, &done.Dropped)
	if err != nil {
		return err
	}
	functions, err := appFunctions(ctx, tx, s.schemaName())
	if err != nil {
		return err
	}
	rest := []Step{
		{"forget what was not read", fmt.Sprintf("delete from %s.inbox", schema)},
		{"forget what failed", fmt.Sprintf("delete from %s.bridge_failures", schema)},
	}
	for _, f := range functions {
		rest = append(rest, Step{"drop the function " + f.Name, f.drop(s.names)})
	}
	rest = append(rest, Step{"remove the description", fmt.Sprintf("delete from %s.bridge", schema)})
	for _, step := range rest {
		result, err := tx.ExecContext(ctx, step.SQL)
		if err != nil {
			return &AdoptError{Step: step, Err: err}
		}
		if n, err := result.RowsAffected(); err == nil && n == 0 && strings.HasPrefix(step.SQL, "delete") {
			continue
		}
		*steps = append(*steps, step)
	}
	return nil
}
