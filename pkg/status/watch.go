package status

import (
	"encoding/json"
	"fmt"
	"net/http"

	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/health"
)

// Watch is the source of the pages of monitor-tasks --watch.
type Watch struct {
	Version string
	Last    func() WatchedPass // the last pass
	Checks  func() []health.Check
	// Dashboard is of the data of the page; optional.
	Dashboard *dashboard.Reader
}

// WatchedPass is the last pass of a monitor.
type WatchedPass struct {
	Done     bool // false: no pass has ended yet
	Healthy  bool // it found no problems
	Summary  string
	Document any // the pass as JSON
}

// WatchHandler serves a monitor's /healthz, /readyz and /status.json.
func WatchHandler(w Watch) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthz)
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) {
		last := w.Last()
		if !last.Done || !last.Healthy {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = fmt.Fprintln(rw, last.Summary)
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
		AddAPI(mux, w.Dashboard)
	}
	return mux
}
