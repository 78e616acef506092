package monitor

import (
	"context"
	"errors"
	"slices"
	"time"

	"imagetasks/pkg/overview"
	"imagetasks/pkg/task"
)

// checkAPI finds out whether the API works: from a running processor that knows it, otherwise by a check, seldom, at once after many stuck tasks,
// and in every pass as long as it fails.
func (m *Monitor) checkAPI(ctx context.Context, r *Report, state *State, s *overview.Snapshot) {
	r.Summary.API = state.API
	for _, p := range s.Processors {
		if !p.Alive || p.Host != m.conf.Host {
			continue
		}
		if !p.Report.APIUnreachableSince.IsZero() {
			// It checks every few seconds.
			r.Summary.API = overview.APICheck{At: r.At, Error: p.Report.APIError}
			s.APICheck, state.API = r.Summary.API, r.Summary.API
			return
		}
		if at := p.Report.APIRespondedAt; at.After(r.Summary.API.At) {
			r.Summary.API = overview.APICheck{At: at, OK: true}
		}
	}
	s.APICheck, state.API = r.Summary.API, r.Summary.API
	age := r.At.Sub(r.Summary.API.At)
	failing := slices.ContainsFunc(r.Summary.API.Endpoints, func(e overview.EndpointCheck) bool { return !e.OK })
	due := failing || age < 0 || age >= APICheckInterval || !r.Summary.API.OK || len(r.Repair.Tasks) >= APICheckStuckCount
	if !due || m.conf.DryRun {
		return
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	results := m.conf.Check(ctx)
	check := overview.APICheck{At: began, Millis: time.Since(began).Milliseconds()}
	for _, result := range results {
		ok, text := m.endpointText(result.Err)
		name := "api"
		if len(results) > 1 {
			name += " " + result.Name
			e := overview.EndpointCheck{Name: result.Name, OK: ok, Millis: result.Took.Milliseconds()}
			if !ok {
				e.Error = text
			}
			check.Endpoints = append(check.Endpoints, e)
		}
		if !ok && check.Error == "" {
			check.Error = text
		}
		check.OK = check.OK || ok
		m.record(name, began, ok, text, "")
	}
	if check.OK {
		check.Error = ""
	}
	r.Summary.API, state.API, s.APICheck = check, check, check
}

// endpointText reports whether an endpoint can be used, and describes the result of its check.
func (m *Monitor) endpointText(err error) (ok bool, text string) {
	failed, isTask := errors.AsType[*task.Error](err)
	switch {
	case err == nil:
		return true, "responds"
	case errors.Is(err, task.ErrUncheckable) && !isTask:
		return true, "can be asked only with a paid request"
	case errors.Is(err, task.ErrUncheckable):
		return true, m.conf.Redact("responds, and may do so to incomplete requests only: " + failed.Error())
	case isTask && failed.Scope == task.ScopeModel:
		return true, m.conf.Redact("responds, and refuses the default model: " + failed.Error())
	}
	return false, m.conf.Redact(err.Error())
}
