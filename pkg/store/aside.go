package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"imagetasks/pkg/task"
)

// isRowError reports whether a statement failed because of what a row holds, or of what is done with it (a constraint, a trigger, a value
// out of range, a damaged row), so that the same statement may succeed for other rows.
func isRowError(err error) bool {
	pqErr, ok := errors.AsType[*pq.Error](err)
	if !ok || isRecorded(err) {
		return false
	}
	switch pqErr.Code.Class() {
	case pqerror.ClassDataException, pqerror.ClassIntegrityConstraintViolation, pqerror.ClassWithCheckOptionViolation,
		pqerror.ClassTriggeredDataChangeViolation, pqerror.ClassTriggeredActionException, pqerror.ClassPLpgSQLError,
		pqerror.ClassProgramLimitExceeded:
		return true
	}
	return pqErr.Code == pqerror.DataCorrupted || pqErr.Code == pqerror.IndexCorrupted
}

// IsRowError reports whether a call for one task failed because of what its row holds: it fails again each time.
func IsRowError(err error) bool { return isRowError(err) }

// SetAside leaves a task out of claims and sweeps for an hour, after an operation on it failed because of what its row holds.
func (s *Store) SetAside(ctx context.Context, taskID, operation string, cause error) error {
	return s.putAside(ctx, taskID, operation, cause)
}

// commonFault is how many tasks a statement must fail for, and succeed for none, before that counts as no fault of these tasks.
const commonFault = 20

// eachByItself calls do for each of the candidates after a statement on all of them has failed, and sets aside those for which it fails because of
// the row. When it fails for many candidates and succeeds for none, the cause is not theirs: none is set aside, and the
// error is returned.
func (s *Store) eachByItself(ctx context.Context, operation string, candidates []string, cause error, do func(id string) error) error {
	failed := map[string]error{}
	for _, id := range candidates {
		if err := do(id); isRowError(err) {
			failed[id] = err
		} else if err != nil {
			return err
		}
	}
	if len(failed) >= commonFault && len(failed) == len(candidates) {
		return cause
	}
	var errs []error
	for id, err := range failed {
		errs = append(errs, s.putAside(ctx, id, operation, err))
	}
	if len(failed) == 0 {
		return cause // it passed by now, or has nothing to do with the candidates
	}
	return errors.Join(errs...)
}

// putAside leaves a task out of claims and sweeps for an hour, with the reason. The reason has no value of the row, which may be a prompt.
func (s *Store) putAside(ctx context.Context, id, operation string, cause error) error {
	reason := "an error of the database"
	if pqErr, ok := errors.AsType[*pq.Error](cause); ok {
		reason = fmt.Sprintf("SQLSTATE %s (%s)", pqErr.Code, pqErr.Code.Name())
		if pqErr.Constraint != "" {
			reason += ", constraint " + pqErr.Constraint
		}
	}
	_, err := s.queryTexts(ctx, s.sql.setAside, id, operation, reason)
	return err
}

// AsideTask is a task that no claim or sweep could change.
type AsideTask struct {
	TaskID    string    `json:"task_id"`
	Operation string    `json:"operation"` // what failed
	Reason    string    `json:"reason"`
	Since     time.Time `json:"since"`
}

// TasksAside returns up to limit tasks that are set aside, those of the longest time first. They are tried again each hour.
func (s *Store) TasksAside(ctx context.Context, limit int) ([]AsideTask, error) {
	var out []AsideTask
	err := s.query(ctx, s.sql.tasksAside, func(rows *sql.Rows) error {
		var a AsideTask
		err := rows.Scan(&a.TaskID, &a.Operation, &a.Reason, &a.Since)
		out = append(out, a)
		return err
	}, limit)
	return out, err
}

// FailSetAside fails and refunds up to limit tasks that have been set aside for longer than after. A task for which that fails too stays set
// aside. A repeat with the same call id returns the first result.
func (s *Store) FailSetAside(ctx context.Context, after time.Duration, limit int, call uuid.UUID) ([]task.Refund, error) {
	candidates := func() ([]string, error) {
		aside, err := s.TasksAside(ctx, limit)
		ids := make([]string, len(aside))
		for i, a := range aside {
			ids[i] = a.TaskID
		}
		return ids, err
	}
	return s.closeBatch(ctx, call, s.sql.failSetAside, candidates, nil, after.Milliseconds(), limit, string(task.CodeBadRow))
}
