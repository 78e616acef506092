package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/google/uuid"
)

// How long rows are kept that only serve repeated calls, or that describe processors that ended.
const (
	keepKeys       = 90 * 24 * time.Hour
	keepCalls      = time.Hour
	keepProcessors = 24 * time.Hour
	keepEvents     = 3 * 24 * time.Hour
)

// PruneConfig says what is pruned.
type PruneConfig struct {
	Retention     time.Duration // closed tasks older than this; 0: none
	RedriveWindow time.Duration // input pictures of tasks that failed longer ago than this
	Batch         int           // rows of each kind that one call deletes at most
	CallID        uuid.UUID     // of this call, the same for its repeats, which return the first result; zero: a new one
}

// Pruned is the number of rows that were deleted.
type Pruned struct {
	Tasks      int `json:"tasks"`
	Inputs     int `json:"inputs"` // tasks whose input pictures were deleted
	Keys       int `json:"keys"`
	Calls      int `json:"calls"`
	Processors int `json:"processors"`
	SetAside   int `json:"set_aside"` // notes on tasks that were set aside and are closed now
	Pending    int `json:"pending"`   // results to be fetched of runs that are closed now
	Events     int `json:"events"`    // completion events
}

// Add adds another result.
func (p *Pruned) Add(q Pruned) {
	p.Tasks += q.Tasks
	p.Inputs += q.Inputs
	p.Keys += q.Keys
	p.Calls += q.Calls
	p.Processors += q.Processors
	p.SetAside += q.SetAside
	p.Pending += q.Pending
	p.Events += q.Events
}

// More reports whether one of the kinds was limited by the size of the batch, so that another call may find more.
func (p Pruned) More(batch int) bool {
	return max(p.Tasks, p.Inputs, p.Keys, p.Calls, p.Processors, p.SetAside, p.Pending, p.Events) >= batch
}

// Prune deletes one batch of each kind of row that is no longer needed. Each is one short statement; rows locked by others are
// skipped. Ledger, grants' keys and pictures are never deleted. Rows that can't be deleted keep none of another kind.
func (s *Store) Prune(ctx context.Context, c PruneConfig) (Pruned, error) {
	call := newIdentifiedCall(c.CallID)
	var p Pruned
	some, err := s.prunable(ctx, c, call)
	if err != nil {
		return p, err
	}
	var errs []error
	for _, step := range []struct {
		st   statement
		age  time.Duration
		n    *int
		skip bool
	}{
		{s.sql.pruneTasks, c.Retention, &p.Tasks, c.Retention <= 0},
		{s.sql.pruneInputs, c.RedriveWindow, &p.Inputs, !some.inputs},
		{s.sql.pruneKeys, keepKeys, &p.Keys, !some.keys},
		{s.sql.pruneCalls, keepCalls, &p.Calls, !some.calls},
		{s.sql.pruneProcessors, keepProcessors, &p.Processors, !some.processors},
		{s.sql.pruneSetAside, 0, &p.SetAside, !some.setAside},
		{s.sql.prunePending, 0, &p.Pending, !some.pending},
		{s.sql.pruneEvents, keepEvents, &p.Events, !some.events},
	} {
		if step.skip {
			continue
		}
		n, err := s.pruneBatch(ctx, step.st, step.age, c.Batch, identifiedCall{uuid.NewSHA1(call.id, []byte(step.st.name)), call.mayRepeat})
		if err != nil && !isRowError(err) {
			return p, errors.Join(append(errs, err)...)
		}
		*step.n = n
		errs = append(errs, err)
	}
	return p, errors.Join(errs...)
}

// prunable says which kinds of rows there may be to prune, besides closed tasks.
type prunable struct{ inputs, keys, calls, processors, setAside, pending, events bool }

// prunable asks for all kinds at once: mostly there is nothing to prune. After an earlier call of that id nothing may be left of what it deleted, and
// its results are looked up.
func (s *Store) prunable(ctx context.Context, c PruneConfig, call identifiedCall) (prunable, error) {
	all := prunable{true, true, true, true, true, true, true}
	if call.mayRepeat {
		return all, nil
	}
	var p prunable
	err := s.queryRow(ctx, s.sql.prunable, prunableArgs(c), &p.inputs, &p.keys, &p.calls, &p.processors, &p.setAside, &p.pending, &p.events)
	if err != nil && isRowError(err) {
		return all, nil
	}
	return p, err
}

func prunableArgs(c PruneConfig) []any {
	return []any{c.RedriveWindow.Milliseconds(), keepKeys.Milliseconds(), keepCalls.Milliseconds(), keepProcessors.Milliseconds(), keepEvents.Milliseconds()}
}

// pruneBatch runs a statement that deletes rows.
func (s *Store) pruneBatch(ctx context.Context, st statement, age time.Duration, limit int, call identifiedCall) (n int, err error) {
	return s.recordedCall(ctx, st, call, age.Milliseconds(), limit)
}

// recordedCall runs a statement that records the number of its rows under the id of the call, its last argument, for a repeat after a lost answer.
func (s *Store) recordedCall(ctx context.Context, st statement, call identifiedCall, args ...any) (n int, err error) {
	id := call.id.String()
	lost, err := s.queryRepeated(ctx, s.db, st, func(rows *sql.Rows) error { return rows.Scan(&n) }, append(args, id)...)
	// Where the first call changed all there was, a repeat changes nothing.
	if isRecorded(err) || err == nil && n == 0 && (call.mayRepeat || lost) {
		err = s.queryRow(ctx, s.sql.recordedCount, []any{id}, &n)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return n, err
}
