// Package operator wires what an operator does on the status page from the settings.
package operator

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/operate"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

// New returns an Operator. Its log gets what the log of operations has no entry of.
func New(s settings.Settings, st *store.Store, redact func(string) string, log logrus.FieldLogger) *operate.Operator {
	return operate.New(operate.Config{Store: st, StuckAfter: s.StuckAfter, Lease: s.Lease, Log: log, Redact: redact,
		Endpoints: func(ctx context.Context) ([]string, error) { return Endpoints(ctx, s, st) }})
}

// Endpoints returns the names of the endpoints in the settings, and of those that processors report.
func Endpoints(ctx context.Context, s settings.Settings, st *store.Store) ([]string, error) {
	var names []string
	if own, err := s.APIEndpoints(); err == nil {
		for _, e := range own {
			names = append(names, e.Name)
		}
	}
	rows, err := st.Processors(ctx)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		var report overview.ProcessorReport
		if json.Unmarshal(row.Report, &report) != nil {
			continue // of another version
		}
		for _, e := range report.APIEndpoints {
			names = append(names, e.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
