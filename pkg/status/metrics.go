package status

import (
	"context"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"imagetasks/pkg/processor"
)

var (
	tasksDesc     = prometheus.NewDesc("imagetasks_tasks_total", "Steps of tasks since the processor started.", []string{"step"}, nil)
	inFlightDesc  = prometheus.NewDesc("imagetasks_tasks_in_flight", "Tasks being processed.", nil, nil)
	paidDesc      = prometheus.NewDesc("imagetasks_paid_requests_in_flight", "Tasks that wait for the answer to a paid request.", nil, nil)
	leasesDesc    = prometheus.NewDesc("imagetasks_leases_renewable", "1 while the leases can be renewed; otherwise nothing is started.", nil, nil)
	apiDesc       = prometheus.NewDesc("imagetasks_api_up", "1 while the image API is reachable.", nil, nil)
	circuitDesc   = prometheus.NewDesc("imagetasks_circuit_open", "0 closed, 1 open, 0.5 half-open: being tried. Of models only those that do not work, at most 20; endpoint is set where there are several.", []string{"scope", "name", "endpoint"}, nil)
	modelsDesc    = prometheus.NewDesc("imagetasks_models_refused", "Models that the image API makes no pictures with; their tasks wait.", nil, nil)
	unknownDesc   = prometheus.NewDesc("imagetasks_unknown_outcomes_total", "Paid requests without an answer of the API that was read whole, since the processor started.", nil, nil)
	proxyDesc     = prometheus.NewDesc("imagetasks_proxy_up", "1 while the proxy is not ejected.", []string{"proxy"}, nil)
	responsesDesc = prometheus.NewDesc("imagetasks_proxy_responses_total", "Responses received through the proxy.", []string{"proxy"}, nil)
	endpointDesc  = prometheus.NewDesc("imagetasks_endpoint_tasks_in_flight", "Tasks of this processor that the endpoint was chosen for.", []string{"endpoint"}, nil)
	limitDesc     = prometheus.NewDesc("imagetasks_api_rate_limit", "Numeric values of the last x-ratelimit-* headers of the API.", []string{"endpoint", "header"}, nil)
	dbDesc        = prometheus.NewDesc("imagetasks_database_up", "1 while the database responds.", nil, nil)
	queueDesc     = prometheus.NewDesc("imagetasks_queue_tasks", "Tasks in the queue.", []string{"state"}, nil)
	oldestDesc    = prometheus.NewDesc("imagetasks_queue_oldest_due_seconds", "How long the oldest due task has been waiting.", nil, nil)
	bridgeDesc    = prometheus.NewDesc("imagetasks_bridge_active", "1 while the bridge to an application's tables is active; missing without a bridge, as the other metrics of it.", nil, nil)
	inboxDesc     = prometheus.NewDesc("imagetasks_bridge_inbox", "Changes of the application that were not read yet.", nil, nil)
	inboxAgeDesc  = prometheus.NewDesc("imagetasks_bridge_inbox_oldest_seconds", "How long the oldest of them has been waiting.", nil, nil)
	outboxDesc    = prometheus.NewDesc("imagetasks_bridge_outbox", "Tasks whose end is still to be written to the application's tables.", nil, nil)
	outboxAgeDesc = prometheus.NewDesc("imagetasks_bridge_outbox_oldest_seconds", "How long the oldest of them that does not fail has been waiting.", nil, nil)
	bridgeBadDesc = prometheus.NewDesc("imagetasks_bridge_failures", "Rows of the application that can't be taken over or written; they are tried again.", nil, nil)
	lostDesc      = prometheus.NewDesc("imagetasks_bridge_lost_updates", "Balances that the application may have overwritten within a week.", nil, nil)
	startedDesc   = prometheus.NewDesc("imagetasks_start_time_seconds", "When the processor started, in Unix time.", nil, nil)
)

// steps are exported even before they first happen, so that rates can be computed from the start.
var steps = []processor.EventKind{processor.EventClaimed, processor.EventCompleted, processor.EventRetried, processor.EventReleased,
	processor.EventFailed, processor.EventOutcomeUnknown, processor.EventLeaseLost, processor.EventAbandoned, processor.EventOverdue}

// collector reads the source at each scrape.
type collector struct{ s Source }

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{tasksDesc, inFlightDesc, paidDesc, leasesDesc, apiDesc, circuitDesc, modelsDesc, unknownDesc, proxyDesc, responsesDesc, endpointDesc, limitDesc, dbDesc, queueDesc, oldestDesc, startedDesc,
		bridgeDesc, inboxDesc, inboxAgeDesc, outboxDesc, outboxAgeDesc, bridgeBadDesc, lostDesc} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	r := c.s.report(context.Background())
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, step := range steps {
		ch <- prometheus.MustNewConstMetric(tasksDesc, prometheus.CounterValue, float64(r.Processor.Counts[step]), string(step))
	}
	gauge(inFlightDesc, float64(r.Processor.InFlight))
	gauge(paidDesc, float64(r.Processor.PaidRequests))
	gauge(leasesDesc, boolValue(r.Processor.LeasesFailingSince.IsZero()))
	gauge(apiDesc, boolValue(r.Processor.APIUnreachableSince.IsZero()))
	refused := r.Processor.MoreModels
	for _, c := range r.Processor.Circuits {
		gauge(circuitDesc, circuitValue(c.State), c.Scope, c.Name, c.Endpoint)
		if c.Scope == processor.CircuitModel {
			refused++
		}
	}
	gauge(modelsDesc, float64(refused))
	ch <- prometheus.MustNewConstMetric(unknownDesc, prometheus.CounterValue, float64(r.Processor.Counts[processor.EventOutcomeUnknown]))
	// One address may be listed several times, with different logins.
	up, responses := map[string]bool{}, map[string]int{}
	for _, w := range r.Processor.AllUpstreams() {
		if w.Proxy != "" {
			up[w.Proxy] = up[w.Proxy] || !w.Ejected
			responses[w.Proxy] += w.Served
		}
	}
	for proxy, served := range responses {
		gauge(proxyDesc, boolValue(up[proxy]), proxy)
		ch <- prometheus.MustNewConstMetric(responsesDesc, prometheus.CounterValue, float64(served), proxy)
	}
	for _, e := range r.Processor.Endpoints {
		gauge(endpointDesc, float64(e.InFlight), e.Name)
	}
	for _, e := range r.Processor.Routes() {
		for header, value := range e.APIRateLimits.Headers {
			if n, err := strconv.ParseFloat(value, 64); err == nil {
				gauge(limitDesc, n, e.Name, header)
			}
		}
	}
	gauge(dbDesc, boolValue(r.Queue != nil))
	gauge(startedDesc, float64(r.Processor.StartedAt.Unix()))
	if r.Queue != nil {
		gauge(queueDesc, float64(r.Queue.Pending), "pending")
		gauge(queueDesc, float64(r.Queue.Due), "due")
		gauge(queueDesc, float64(r.Queue.Processing), "processing")
		gauge(queueDesc, float64(r.Queue.Stuck), "stuck")
		gauge(oldestDesc, r.OldestDue)
	}
	if b := r.Bridge; b != nil {
		gauge(bridgeDesc, boolValue(b.Active))
		gauge(inboxDesc, float64(b.Inbox))
		gauge(inboxAgeDesc, b.InboxSeconds)
		gauge(outboxDesc, float64(b.Owed))
		gauge(outboxAgeDesc, b.OwedSeconds)
		gauge(bridgeBadDesc, float64(b.Failing+b.Failures))
		gauge(lostDesc, float64(b.LostUpdates))
	}
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
