package status

import (
	"bytes"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"imagetasks/pkg/processor"
)

// metric is a metric of Prometheus's text format. A name that ends in _total is a counter, and any other a gauge.
type metric struct {
	name, help string
	labels     []string // sorted
}

var (
	tasksMetric     = metric{"imagetasks_tasks_total", "Steps of tasks since the processor started.", []string{"step"}}
	inFlightMetric  = metric{"imagetasks_tasks_in_flight", "Tasks being processed.", nil}
	paidMetric      = metric{"imagetasks_paid_requests_in_flight", "Tasks that wait for the answer to a paid request.", nil}
	leasesMetric    = metric{"imagetasks_leases_renewable", "1 while the leases can be renewed; otherwise nothing is started.", nil}
	apiMetric       = metric{"imagetasks_api_up", "1 while the image API is reachable.", nil}
	circuitMetric   = metric{"imagetasks_circuit_open", "0 closed, 1 open, 0.5 half-open: being tried. Of models only those that do not work, at most 20; endpoint is set where there are several.", []string{"endpoint", "name", "scope"}}
	modelsMetric    = metric{"imagetasks_models_refused", "Models that the image API makes no pictures with; their tasks wait.", nil}
	unknownMetric   = metric{"imagetasks_unknown_outcomes_total", "Paid requests without an answer of the API that was read whole, since the processor started.", nil}
	proxyMetric     = metric{"imagetasks_proxy_up", "1 while the proxy is not ejected.", []string{"proxy"}}
	responsesMetric = metric{"imagetasks_proxy_responses_total", "Responses received through the proxy.", []string{"proxy"}}
	endpointMetric  = metric{"imagetasks_endpoint_tasks_in_flight", "Tasks of this processor that the endpoint was chosen for.", []string{"endpoint"}}
	limitMetric     = metric{"imagetasks_api_rate_limit", "Numeric values of the last x-ratelimit-* headers of the API.", []string{"endpoint", "header"}}
	dbMetric        = metric{"imagetasks_database_up", "1 while the database responds.", nil}
	queueMetric     = metric{"imagetasks_queue_tasks", "Tasks in the queue.", []string{"state"}}
	oldestMetric    = metric{"imagetasks_queue_oldest_due_seconds", "How long the oldest due task has been waiting.", nil}
	bridgeMetric    = metric{"imagetasks_bridge_active", "1 while the bridge to an application's tables is active; missing without a bridge, as the other metrics of it.", nil}
	inboxMetric     = metric{"imagetasks_bridge_inbox", "Changes of the application that were not read yet.", nil}
	inboxAgeMetric  = metric{"imagetasks_bridge_inbox_oldest_seconds", "How long the oldest of them has been waiting.", nil}
	outboxMetric    = metric{"imagetasks_bridge_outbox", "Tasks whose end is still to be written to the application's tables.", nil}
	outboxAgeMetric = metric{"imagetasks_bridge_outbox_oldest_seconds", "How long the oldest of them that does not fail has been waiting.", nil}
	bridgeBadMetric = metric{"imagetasks_bridge_failures", "Rows of the application that can't be taken over or written; they are tried again.", nil}
	lostMetric      = metric{"imagetasks_bridge_lost_updates", "Balances that the application may have overwritten within a week.", nil}
	startedMetric   = metric{"imagetasks_start_time_seconds", "When the processor started, in Unix time.", nil}
)

// steps are exported even before they first happen, so that rates can be computed from the start.
var steps = []processor.EventKind{processor.EventClaimed, processor.EventCompleted, processor.EventRetried, processor.EventReleased,
	processor.EventFailed, processor.EventOutcomeUnknown, processor.EventLeaseLost, processor.EventAbandoned, processor.EventOverdue}

// serveMetrics serves the metrics in Prometheus's text format.
func (s Source) serveMetrics(w http.ResponseWriter, r *http.Request) {
	m := metrics{}
	m.addAll(s.report(r.Context()))
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(m.text())
}

func (m metrics) addAll(r Report) {
	for _, step := range steps {
		m.add(tasksMetric, float64(r.Processor.Counts[step]), string(step))
	}
	m.add(inFlightMetric, float64(r.Processor.InFlight))
	m.add(paidMetric, float64(r.Processor.PaidRequests))
	m.add(leasesMetric, boolValue(r.Processor.LeasesFailingSince.IsZero()))
	m.add(apiMetric, boolValue(r.Processor.APIUnreachableSince.IsZero()))
	refused := r.Processor.MoreModels
	for _, c := range r.Processor.Circuits {
		m.add(circuitMetric, circuitValue(c.State), c.Endpoint, c.Name, c.Scope)
		if c.Scope == processor.CircuitModel {
			refused++
		}
	}
	m.add(modelsMetric, float64(refused))
	m.add(unknownMetric, float64(r.Processor.Counts[processor.EventOutcomeUnknown]))
	// One address may be listed several times, with different logins.
	up, responses := map[string]bool{}, map[string]int{}
	for _, w := range r.Processor.AllUpstreams() {
		if w.Proxy != "" {
			up[w.Proxy] = up[w.Proxy] || !w.Ejected
			responses[w.Proxy] += w.Served
		}
	}
	for proxy, served := range responses {
		m.add(proxyMetric, boolValue(up[proxy]), proxy)
		m.add(responsesMetric, float64(served), proxy)
	}
	for _, e := range r.Processor.Endpoints {
		m.add(endpointMetric, float64(e.InFlight), e.Name)
	}
	for _, e := range r.Processor.Routes() {
		for header, value := range e.APIRateLimits.Headers {
			if n, err := strconv.ParseFloat(value, 64); err == nil {
				m.add(limitMetric, n, e.Name, header)
			}
		}
	}
	m.add(dbMetric, boolValue(r.Queue != nil))
	m.add(startedMetric, float64(r.Processor.StartedAt.Unix()))
	if r.Queue != nil {
		m.add(queueMetric, float64(r.Queue.Pending), "pending")
		m.add(queueMetric, float64(r.Queue.Due), "due")
		m.add(queueMetric, float64(r.Queue.Processing), "processing")
		m.add(queueMetric, float64(r.Queue.Stuck), "stuck")
		m.add(oldestMetric, r.OldestDue)
	}
	if b := r.Bridge; b != nil {
		m.add(bridgeMetric, boolValue(b.Active))
		m.add(inboxMetric, float64(b.Inbox))
		m.add(inboxAgeMetric, b.InboxSeconds)
		m.add(outboxMetric, float64(b.Owed))
		m.add(outboxAgeMetric, b.OwedSeconds)
		m.add(bridgeBadMetric, float64(b.Failing+b.Failures))
		m.add(lostMetric, float64(b.LostUpdates))
	}
}

// metrics are the lines of each metric, by its name.
type metrics map[string][]string

// add adds a value, with the values of the labels in their order.
func (m metrics) add(to metric, value float64, labels ...string) {
	var line strings.Builder
	line.WriteString(to.name)
	for i, label := range to.labels {
		line.WriteString(map[bool]string{true: "{", false: ","}[i == 0] + label + `="` + labelEscapes.Replace(strings.ToValidUTF8(labels[i], "?")) + `"`)
	}
	if len(to.labels) > 0 {
		line.WriteByte('}')
	}
	line.WriteString(" " + strconv.FormatFloat(value, 'g', -1, 64) + "\n")
	if m[to.name] == nil {
		m[to.name] = []string{"# HELP " + to.name + " " + to.help + "\n# TYPE " + to.name + " " + to.kind() + "\n"}
	}
	m[to.name] = append(m[to.name], line.String())
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (m metric) kind() string {
	if strings.HasSuffix(m.name, "_total") {
		return "counter"
	}
	return "gauge"
}

// text returns the metrics in the order of their names.
func (m metrics) text() []byte {
	var out bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(m)) {
		slices.Sort(m[name][1:])
		for _, line := range m[name] {
			out.WriteString(line)
		}
	}
	return out.Bytes()
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func circuitValue(s processor.CircuitState) float64 {
	switch s {
	case processor.CircuitOpen:
		return 1
	case processor.CircuitHalfOpen:
		return 0.5
	}
	return 0
}
