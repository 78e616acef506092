package store

import (
	"context"
	"database/sql"
	"errors"

	"imagetasks/pkg/task"
)

// Model is a model at an endpoint.
type Model struct {
	Endpoint string // the API's address
	Name     string // as it is sent to the API
}

// maxModels bounds the result of WorkedModels: more models than any API has.
const maxModels = 10000

// RecordModel records that a model has made a picture at an endpoint. With 10,000 models on record it records no more.
func (s *Store) RecordModel(ctx context.Context, m Model) error {
	var n int
	err := s.queryRow(ctx, s.sql.recordModel, []any{m.Endpoint, m.Name, maxModels}, &n)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return err
}

// WorkedModels returns the models that RecordModel has recorded, the latest first, at most 10,000.
func (s *Store) WorkedModels(ctx context.Context) ([]Model, error) {
	var models []Model
	err := s.query(ctx, s.sql.workedModels, func(rows *sql.Rows) error {
		var m Model
		err := rows.Scan(&m.Endpoint, &m.Name)
		models = append(models, m)
		return err
	}, maxModels)
	return models, err
}

// SavePending records a result of a leased task that is paid for and still has to be fetched. Until the run is closed, Claim returns it with
// the task. Its Age, Gone and GoneFor are not used. A repeat changes nothing. It returns task.ErrLeaseLost if the lease is not held.
func (s *Store) SavePending(ctx context.Context, l task.Lease, p task.PendingResult) error {
	ids, err := s.queryTexts(ctx, s.sql.savePending, l.TaskID, l.Epoch, p.Ref, p.RequestID, p.Endpoint, usageText(p.Usage))
	if err == nil && len(ids) == 0 {
		return task.ErrLeaseLost
	}
	return err
}
