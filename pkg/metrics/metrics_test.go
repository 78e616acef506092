package metrics_test

import (
	"bufio"
	"compress/gzip"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/health"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/imageworker"
	"imagetasks/pkg/metrics"
	"imagetasks/pkg/monitor"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
	"imagetasks/pkg/webhook"
)

func newMetrics() *metrics.Metrics {
	return metrics.New(metrics.Config{Version: "1.2.3", Endpoints: []string{"relay-a", "relay-b"}, Models: []string{"m"}})
}

// everything is the state of a processor with a value for each metric.
func everything() metrics.Processor {
	return metrics.Processor{
		Report: overview.ProcessorReport{
			Status: processor.Status{StartedAt: time.Unix(1000, 0), InFlight: 2, Concurrency: 3,
				Counts: processor.Counts{processor.EventCompleted: 7, processor.EventOutcomeUnknown: 2},
				Circuits: []processor.Circuit{{Scope: processor.CircuitEndpoint, Name: "relay-a", State: processor.CircuitHalfOpen},
					{Scope: processor.CircuitModel, Name: "m", Endpoint: "relay-a", State: processor.CircuitOpen},
					{Scope: processor.CircuitModel, Name: "of a user", Endpoint: "relay-a", State: processor.CircuitOpen}},
				Endpoints: []processor.EndpointStatus{{Name: "relay-a", InFlight: 2, RateLimited: time.Now().Add(time.Hour)}}},
			APIEndpoints: []overview.EndpointReport{{Name: "relay-a",
				APIRateLimits: imageapi.RateLimits{Headers: map[string]string{"remaining-requests": "59", "reset-requests": "1s", "chosen-by-the-api": "1"}},
				Upstreams:     []proxy.UpstreamState{{Proxy: "http://one:1", Served: 3}}}},
		},
		Queue:    &store.QueueStats{Pending: 9, Due: 4, Held: 1, OutOfOrder: 2, Processing: 3, Stuck: 1, OldestDue: 90 * time.Second},
		Bridge:   &overview.Bridge{Active: true, Inbox: 6},
		Problems: []finding.Document{{Finding: finding.Finding{Code: finding.TasksStuck}}},
	}
}

// observed has a value for each metric of observations.
func observed() *metrics.Metrics {
	m := newMetrics()
	m.Observe(processor.Event{Kind: processor.EventClaimCall, Duration: time.Millisecond})
	m.Observe(processor.Event{Kind: processor.EventClaimed, Duration: 3 * time.Second})
	m.Observe(processor.Event{Kind: processor.EventCompleted, Duration: 20 * time.Second, Write: 4 * time.Millisecond, Credits: 5})
	m.Observe(processor.Event{Kind: processor.EventFailed, Code: task.CodeModeration, Credits: 5})
	m.Observe(processor.Event{Kind: processor.EventFailed, Code: "<script>"})
	m.Observe(processor.Event{Kind: processor.EventReleased, Code: task.CodeRateLimited})
	m.RequestEnded("relay-a", imageworker.RequestSucceeded, 18*time.Second)
	m.RequestEnded("of an earlier configuration", imageworker.RequestUnknown, time.Second)
	m.Received(1000)
	m.Stored(900)
	m.ObserveDelivery(webhook.Delivery{Outcome: store.EventOutcome{Result: store.ResultDelivered}, Took: time.Second})
	return m
}

func scrape(t *testing.T, m *metrics.Metrics, s metrics.State, header ...string) (*http.Response, string) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	m.Serve(w, r, func() metrics.State { return s })
	return w.Result(), w.Body.String()
}

func TestServe_Values(t *testing.T) {
	answer, body := scrape(t, observed(), everything())
	assert.Equal(t, http.StatusOK, answer.StatusCode)
	for _, line := range []string{
		`imagetasks_build_info{goversion="go1`, `imagetasks_queue_wait_seconds_sum 3`, `imagetasks_queue_wait_seconds_bucket{le="2.5"} 0`, `imagetasks_queue_wait_seconds_bucket{le="5"} 1`,
		`imagetasks_task_duration_seconds_count 1`, `imagetasks_claim_duration_seconds_sum 0.001`, `imagetasks_completion_duration_seconds_sum 0.004`,
		`imagetasks_completed_credits_total 5`, `imagetasks_refunded_credits_total 5`, `imagetasks_refunds_total 1`,
		`imagetasks_task_outcomes_total{code="",outcome="completed"} 1`, `imagetasks_task_outcomes_total{code="moderation_blocked",outcome="failed"} 1`,
		`imagetasks_task_outcomes_total{code="other",outcome="failed"} 1`, `imagetasks_task_outcomes_total{code="rate_limited",outcome="released"} 1`,
		`imagetasks_paid_requests_total{endpoint="relay-a",outcome="success"} 1`, `imagetasks_paid_requests_total{endpoint="relay-b",outcome="success"} 0`,
		`imagetasks_paid_requests_total{endpoint="other",outcome="unknown"} 1`, `imagetasks_api_request_duration_seconds_sum{endpoint="relay-a",outcome="success"} 18`,
		`imagetasks_received_picture_bytes_total 1000`, `imagetasks_stored_picture_bytes_total 900`, `imagetasks_webhook_delivery_duration_seconds_count{result="delivered"} 1`,
		`imagetasks_queue_tasks{state="later"} 5`, `imagetasks_queue_tasks{state="due"} 4`, `imagetasks_queue_tasks{state="processing"} 2`, `imagetasks_queue_tasks{state="stuck"} 1`,
		`imagetasks_circuit_open{endpoint="",name="relay-a",scope="endpoint"} 0.5`, `imagetasks_circuit_open{endpoint="relay-a",name="m",scope="model"} 1`, `imagetasks_models_refused 2`,
		`imagetasks_api_rate_limit{endpoint="relay-a",header="remaining-requests"} 59`, `imagetasks_endpoint_rate_limited{endpoint="relay-a"} 1`,
		`imagetasks_problems{code="tasks_stuck"} 1`, `imagetasks_tasks_total{step="completed"} 7`, "\ngo_goroutines ", "\nprocess_resident_memory_bytes ",
	} {
		assert.Contains(t, body, line)
	}
	for _, foreign := range []string{"of a user", "of an earlier", "<script>", "chosen-by-the-api"} {
		assert.NotContains(t, body, foreign, "no label comes from a task or an answer")
	}
}

func TestServe_Formats(t *testing.T) {
	m := observed()
	answer, body := scrape(t, m, everything(), "Accept", "application/openmetrics-text;version=1.0.0")
	assert.Contains(t, answer.Header.Get("Content-Type"), "application/openmetrics-text")
	assert.True(t, strings.HasSuffix(body, "# EOF\n"))
	answer, body = scrape(t, m, everything(), "Accept-Encoding", "gzip")
	require.Equal(t, "gzip", answer.Header.Get("Content-Encoding"))
	unpacked, err := gzip.NewReader(strings.NewReader(body))
	require.NoError(t, err)
	text, err := io.ReadAll(unpacked)
	require.NoError(t, err)
	assert.Contains(t, string(text), "imagetasks_build_info")
}

// More scrapes than a few at the same time are refused at once.
func TestServe_ManyAtATime(t *testing.T) {
	m := newMetrics()
	release, ended := make(chan struct{}), make(chan int)
	for range 10 {
		go func() {
			w := httptest.NewRecorder()
			m.Serve(w, httptest.NewRequest(http.MethodGet, "/metrics", nil), func() metrics.State {
				<-release
				return everything()
			})
			ended <- w.Code
		}()
	}
	for range 6 {
		assert.Equal(t, http.StatusServiceUnavailable, <-ended)
	}
	close(release)
	for range 4 {
		assert.Equal(t, http.StatusOK, <-ended)
	}
}

// The names, labels and help texts follow Prometheus's conventions.
func TestServe_PromtoolFindsNothing(t *testing.T) {
	for name, s := range map[string]metrics.State{"processor": everything(), "monitor": watched()} {
		_, body := scrape(t, observed(), s)
		check := exec.Command("promtool", "check", "metrics")
		check.Stdin = strings.NewReader(body)
		out, err := check.CombinedOutput()
		assert.NoError(t, err, name)
		assert.Empty(t, string(out), name)
	}
}

func watched() metrics.Watch {
	w := metrics.Watch{At: time.Unix(5000, 0), Queue: &store.QueueStats{Due: 1}, Problems: []finding.Document{{Finding: finding.Finding{Code: finding.TasksStuck}}},
		Checks: []health.Check{{Name: "api", OK: false, Millis: 1500}, {Name: "api", OK: true, Millis: 10}, {Name: "database", OK: true}}}
	w.Totals.Add(monitor.Summary{StuckFailed: 2, CreditsRefunded: 6, Processor: monitor.Processor{RestartPID: 1}})
	w.Totals.Add(monitor.Summary{StuckFailed: 9, DryRun: true})
	return w
}

func TestServe_Monitor(t *testing.T) {
	_, body := scrape(t, metrics.NewMonitor("1.2.3"), watched())
	for _, line := range []string{"imagetasks_monitor_passes_total 2", "imagetasks_monitor_stuck_tasks_failed_total 2", "imagetasks_monitor_refunded_credits_total 6",
		"imagetasks_monitor_processor_restarts_total 1", `imagetasks_monitor_check_ok{check="api"} 0`, `imagetasks_monitor_check_duration_seconds{check="api"} 1.5`,
		`imagetasks_monitor_check_ok{check="database"} 1`, "imagetasks_monitor_last_pass_timestamp_seconds 5000", "imagetasks_database_up 1", `imagetasks_queue_tasks{state="due"} 1`} {
		assert.Contains(t, body, "\n"+line+"\n")
	}
	_, body = scrape(t, metrics.NewMonitor("1.2.3"), metrics.Watch{})
	assert.NotContains(t, body, "imagetasks_database_up", "not known before the first pass")
}

// docs/metrics.md lists each metric with its type and labels.
func TestDocs_ListEachMetric(t *testing.T) {
	exported := map[string]string{} // name: type and labels
	_, processors := scrape(t, observed(), everything())
	_, monitors := scrape(t, metrics.NewMonitor("1.2.3"), watched())
	kind := map[string]string{}
	sample := regexp.MustCompile(`^(imagetasks_\w+)(?:\{(.*)\})? `)
	label := regexp.MustCompile(`(\w+)="`)
	lines := bufio.NewScanner(strings.NewReader(processors + monitors))
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) == 4 && fields[1] == "TYPE" {
			kind[fields[2]] = fields[3]
		}
		found := sample.FindStringSubmatch(lines.Text())
		if found == nil {
			continue
		}
		name := found[1]
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base := strings.TrimSuffix(name, suffix); kind[base] == "histogram" {
				name = base
			}
		}
		var labels []string
		for _, l := range label.FindAllStringSubmatch(found[2], -1) {
			if l[1] != "le" {
				labels = append(labels, l[1])
			}
		}
		slices.Sort(labels)
		exported[name] = kind[name] + " " + strings.Join(labels, ",")
	}
	text, err := os.ReadFile("../../docs/metrics.md")
	require.NoError(t, err)
	documented := map[string]string{}
	row := regexp.MustCompile("(?m)^\\| `(imagetasks_\\w+)` \\| (\\w+) \\|([^|]*)\\|")
	for _, found := range row.FindAllStringSubmatch(string(text), -1) {
		labels := regexp.MustCompile(`\w+`).FindAllString(found[3], -1)
		slices.Sort(labels)
		documented[found[1]] = found[2] + " " + strings.Join(labels, ",")
	}
	assert.Equal(t, documented, exported)
	assert.NotEmpty(t, slices.Sorted(maps.Keys(exported)))
}

func completion(m *metrics.Metrics) {
	m.Observe(processor.Event{Kind: processor.EventClaimed, Task: "t", Duration: 3 * time.Second})
	m.RequestEnded("relay-a", imageworker.RequestSucceeded, 18*time.Second)
	m.Received(32 << 10)
	m.Stored(1 << 20)
	m.Observe(processor.Event{Kind: processor.EventCompleted, Task: "t", Duration: 20 * time.Second, Write: 4 * time.Millisecond, Credits: 5})
	m.Observe(processor.Event{Kind: processor.EventFailed, Task: "t", Code: task.CodeModeration, Credits: 5})
}

func TestObserve_AllocatesNothing(t *testing.T) {
	m := newMetrics()
	completion(m)
	assert.Zero(t, testing.AllocsPerRun(1000, func() { completion(m) }))
}

// What the observations of one task cost.
func BenchmarkObserve(b *testing.B) {
	m := newMetrics()
	b.ReportAllocs()
	for b.Loop() {
		completion(m)
	}
}
