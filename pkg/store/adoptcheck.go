package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/lib/pq"

	"imagetasks/pkg/bridge"
)

// BridgeIncomplete is the code of a difference between the bridge that is there and the one that was applied.
const BridgeIncomplete = "incomplete"

// IncompleteBridge returns what is missing of the bridge, or is not as it was applied: triggers and functions, and columns that the application has changed
// since. Only the owner of the schema can see that; for other roles it returns nothing.
func (s *Store) IncompleteBridge(ctx context.Context) ([]BridgeDifference, error) {
	d, ok, err := s.appliedDescription(ctx)
	if err != nil || !ok {
		return nil, err
	}
	plan, err := s.planAdoption(ctx, d)
	if err != nil {
		if isFault(err) {
			return []BridgeDifference{{Code: BridgeIncomplete, Subject: d.Tasks.String(), Detail: err.Error() + "; correct what is wrong, here or in imagetasks.toml, and run task-processor adopt --apply"}}, nil
		}
		return nil, err
	}
	var out []BridgeDifference
	add := func(what string) {
		out = append(out, BridgeDifference{Code: BridgeIncomplete, Subject: d.Tasks.String(), Detail: what + "; run task-processor adopt --apply"})
	}
	for _, step := range plan.functions {
		add("to do: " + step.What)
	}
	for _, t := range plan.tables {
		add("to do: " + t.what)
	}
	for _, step := range plan.last {
		if len(out) == 0 && step.What != retryStep {
			add("to do: " + step.What)
		}
	}
	return out, nil
}

// isFault reports whether an error says what is wrong with the application's tables or the functions, and not that the database can't be asked.
func isFault(err error) bool {
	if _, ok := errors.AsType[*DescriptionError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*AccessError](err); ok {
		return true
	}
	_, ok := errors.AsType[*AdoptError](err)
	return ok && pq.As(err) != nil && !IsTransient(err)
}

// appliedDescription returns the description that was applied. It returns false if there is none, or if the role may not adopt.
func (s *Store) appliedDescription(ctx context.Context) (d bridge.Description, ok bool, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if err := checkAdopter(ctx, tx, s.schemaName()); err != nil {
			if _, denied := errors.AsType[*AccessError](err); denied || errors.Is(err, errStandby) {
				return nil
			}
			return err
		}
		var text []byte
		err = tx.QueryRowContext(ctx, "select description from "+s.names.Schema+".bridge").Scan(&text)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err == nil {
			err = json.Unmarshal(text, &d)
		}
		ok = err == nil
		return err
	})
	if err != nil {
		return d, false, fmt.Errorf("read the description that was applied: %w", err)
	}
	return d, ok, nil
}

// CheckWholeBridge is CheckBridge, with what is missing of the bridge itself. Without a column that it needs both sides can't be compared: then only
// that is returned.
func (s *Store) CheckWholeBridge(ctx context.Context) ([]BridgeDifference, error) {
	incomplete, err := s.IncompleteBridge(ctx)
	if err != nil {
		return nil, err
	}
	found, err := s.CheckBridge(ctx)
	if err != nil && (len(incomplete) == 0 || pq.As(err) == nil) {
		return nil, err
	}
	return slices.Concat(incomplete, found), nil
}
