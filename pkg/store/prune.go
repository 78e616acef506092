package store

import (
	"context"
	"time"
)

// How long rows are kept that only serve repeated calls, or that describe processors that ended.
const (
	keepKeys       = 90 * 24 * time.Hour
	keepCalls      = time.Hour
	keepProcessors = 24 * time.Hour
)

// PruneConfig says what is pruned.
type PruneConfig struct {
	Retention     time.Duration // closed tasks older than this; 0: none
	RedriveWindow time.Duration // input pictures of tasks that failed longer ago than this
	Batch         int           // rows of each kind that one call deletes at most
}

// Pruned is the number of rows that were deleted.
type Pruned struct {
	Tasks      int `json:"tasks"`
	Inputs     int `json:"inputs"` // tasks whose input pictures were deleted
	Keys       int `json:"keys"`
	Calls      int `json:"calls"`
	Processors int `json:"processors"`
}

// Add adds another result.
func (p *Pruned) Add(q Pruned) {
	p.Tasks += q.Tasks
	p.Inputs += q.Inputs
	p.Keys += q.Keys
	p.Calls += q.Calls
	p.Processors += q.Processors
}

// More reports whether one of the kinds was limited by the size of the batch, so that another call may find more.
func (p Pruned) More(batch int) bool {
	return max(p.Tasks, p.Inputs, p.Keys, p.Calls, p.Processors) >= batch
}

// Prune deletes one batch of each kind of row that is no longer needed. Each is one short statement; rows locked by others are
// skipped. Ledger, grants' keys and pictures are never deleted.
func (s *Store) Prune(ctx context.Context, c PruneConfig) (Pruned, error) {
	var p Pruned
	for _, step := range []struct {
		st   statement
		age  time.Duration
		n    *int
		skip bool
	}{
		{s.sql.pruneTasks, c.Retention, &p.Tasks, c.Retention <= 0},
		{s.sql.pruneInputs, c.RedriveWindow, &p.Inputs, false},
		{s.sql.pruneKeys, keepKeys, &p.Keys, false},
		{s.sql.pruneCalls, keepCalls, &p.Calls, false},
		{s.sql.pruneProcessors, keepProcessors, &p.Processors, false},
	} {
		if step.skip {
			continue
		}
		if err := s.queryRow(ctx, step.st, []any{step.age.Milliseconds(), c.Batch}, step.n); err != nil {
			return p, err
		}
	}
	return p, nil
}
