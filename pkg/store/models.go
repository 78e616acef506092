package store

import (
	"context"
	"errors"

	"imagetasks/pkg/task"
)

// Model is a model at an endpoint.
type Model struct {
	Endpoint string // the API's address
	Name     string // as it is sent to the API
}

// RecordModel records that a model has made a picture at an endpoint.
func (s *Store) RecordModel(ctx context.Context, m Model) error { return errors.ErrUnsupported }

// WorkedModels returns the models that RecordModel has recorded.
func (s *Store) WorkedModels(ctx context.Context) ([]Model, error) { return nil, errors.ErrUnsupported }

// SavePending records what is paid for and still to be fetched. It returns task.ErrLeaseLost if the lease is not held.
func (s *Store) SavePending(ctx context.Context, l task.Lease, p task.PendingResult) error {
	return errors.ErrUnsupported
}
