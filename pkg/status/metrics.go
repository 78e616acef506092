package status

import (
	"net/http"

	"imagetasks/pkg/metrics"
)

// serveMetrics serves the metrics of a processor. While the database does not respond, those that come from it are missing.
func (s Source) serveMetrics(w http.ResponseWriter, r *http.Request) {
	s.Metrics.Serve(w, r, func() metrics.State {
		report := s.report(r.Context())
		return metrics.Processor{Report: report.Processor, Queue: report.Queue, Bridge: report.Bridge, Problems: report.Problems}
	})
}
