package status

import (
	"encoding/json"
	"fmt"
	"net/http"

	"imagetasks/pkg/health"
	"imagetasks/pkg/monitor"
)

// Watch is where the pages of a monitor that stays look.
type Watch struct {
	Version string
	Last    func() monitor.Report // the last round
	Checks  func() []health.Check
}

// WatchHandler returns a monitor's /healthz, /readyz and /status.json.
func WatchHandler(w Watch) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = rw.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) {
		last := w.Last()
		if last.At.IsZero() || len(last.Problems) > 0 {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = fmt.Fprintln(rw, last.Summary.String())
	})
	mux.HandleFunc("GET /status.json", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(struct {
			Version string         `json:"version"`
			Last    monitor.Report `json:"last_round"`
			Checks  []health.Check `json:"health_checks"`
		}{w.Version, w.Last(), w.Checks()})
	})
	return mux
}
