package status

import (
	"encoding/json"
	"fmt"
	"net/http"

	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/health"
	"imagetasks/pkg/metrics"
)

// Watch is the source of the pages of monitor-tasks --watch.
type Watch struct {
	Version string
	Last    func() WatchedPass // the last pass
	Checks  func() []health.Check
	// Dashboard is of the data of the page; optional.
	Dashboard *dashboard.Reader
	// Metrics returns the state that /metrics shows.
	Metrics func() metrics.Watch
	// Operator does what signed-in people ask for. Optional.
	Operator Operator
	// Thumbnails makes small copies of pictures for those who have signed in; nil: none are shown.
	Thumbnails Thumbnails
}

// WatchedPass is the last pass of a monitor.
type WatchedPass struct {
	Done     bool // false: no pass has ended yet
	Healthy  bool // it found no problems
	Summary  string
	Document any // the pass as JSON
}

// WatchHandler serves a monitor's /healthz, /readyz, /status.json and /metrics, and the page.
func WatchHandler(w Watch) http.Handler {
	mux := http.NewServeMux()
	if w.Operator != nil {
		AddActions(mux, w.Operator)
	}
	if w.Thumbnails != nil {
		AddThumbnails(mux, w.Thumbnails)
	}
	mux.HandleFunc("GET /healthz", healthz)
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, r *http.Request) {
		last := w.Last()
		if !last.Done || !last.Healthy {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
		if mayRead(r.Context()) { // anybody may ask whether it is ready
			_, _ = fmt.Fprintln(rw, last.Summary)
		}
	})
	mux.HandleFunc("GET /status.json", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(struct {
			Version string         `json:"version"`
			Last    any            `json:"last_pass"`
			Checks  []health.Check `json:"health_checks"`
		}{w.Version, w.Last().Document, w.Checks()})
	})
	if w.Dashboard != nil {
		AddPage(mux)
		AddAPI(mux, w.Dashboard)
	}
	exported := metrics.NewMonitor(w.Version)
	mux.HandleFunc("GET /metrics", func(rw http.ResponseWriter, r *http.Request) {
		exported.Serve(rw, r, func() metrics.State { return w.Metrics() })
	})
	return mux
}
