package metrics

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/health"
	"imagetasks/pkg/monitor"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
)

// metric is a metric whose value is read at a scrape.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func gauge(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue}
}

func counter(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue}
}

var (
	tasksMetric     = counter("imagetasks_tasks_total", "Steps of tasks since the processor started.", "step")
	inFlightMetric  = gauge("imagetasks_tasks_in_flight", "Tasks being processed.")
	slotsMetric     = gauge("imagetasks_task_concurrency", "How many tasks may be processed at the same time (TASK_CONCURRENCY).")
	paidMetric      = gauge("imagetasks_paid_requests_in_flight", "Tasks that wait for the answer to a paid request.")
	leasesMetric    = gauge("imagetasks_leases_renewable", "1 while the leases can be renewed; otherwise nothing is started.")
	apiMetric       = gauge("imagetasks_api_up", "1 while the image API is reachable.")
	circuitMetric   = gauge("imagetasks_circuit_open", "0 closed, 1 open, 0.5 half-open: being tried. Of models only those of the settings; endpoint is set where there are several.", "endpoint", "name", "scope")
	modelsMetric    = gauge("imagetasks_models_refused", "Models that the image API makes no pictures with; their tasks wait.")
	unknownMetric   = counter("imagetasks_unknown_outcomes_total", "Paid requests without an answer of the API that was read whole, since the processor started.")
	proxyMetric     = gauge("imagetasks_proxy_up", "1 while the proxy is not ejected.", "proxy")
	responsesMetric = counter("imagetasks_proxy_responses_total", "Responses received through the proxy.", "proxy")
	endpointMetric  = gauge("imagetasks_endpoint_tasks_in_flight", "Tasks of this processor that the endpoint was chosen for.", "endpoint")
	limitedMetric   = gauge("imagetasks_endpoint_rate_limited", "1 while no request is sent to the endpoint because it asked to wait.", "endpoint")
	limitMetric     = gauge("imagetasks_api_rate_limit", "Numeric values of the last x-ratelimit-* headers of the API.", "endpoint", "header")
	dbMetric        = gauge("imagetasks_database_up", "1 while the database responds.")
	queueMetric     = gauge("imagetasks_queue_tasks", "Tasks that are not closed, each in one state: later (scheduled, or in backoff), due, processing, stuck.", "state")
	waitingMetric   = gauge("imagetasks_queue_waiting_tasks", "Due tasks that can't start yet: for others of their user (USER_CONCURRENCY), or for a model that is out of order.", "for")
	oldestMetric    = gauge("imagetasks_queue_oldest_due_seconds", "How long the oldest due task has been waiting.")
	unfetchedMetric = gauge("imagetasks_pictures_not_fetched", "Pictures that the API made more than a minute ago and that could not be fetched yet.")
	bridgeMetric    = gauge("imagetasks_bridge_active", "1 while the bridge to an application's tables is active; missing without a bridge, as the other metrics of it.")
	inboxMetric     = gauge("imagetasks_bridge_inbox", "Changes of the application that were not read yet.")
	inboxAgeMetric  = gauge("imagetasks_bridge_inbox_oldest_seconds", "How long the oldest of them has been waiting.")
	outboxMetric    = gauge("imagetasks_bridge_outbox", "Tasks whose end is still to be written to the application's tables.")
	outboxAgeMetric = gauge("imagetasks_bridge_outbox_oldest_seconds", "How long the oldest of them that does not fail has been waiting.")
	bridgeBadMetric = gauge("imagetasks_bridge_failures", "Rows of the application that can't be taken over or written; they are tried again.")
	lostMetric      = gauge("imagetasks_bridge_lost_updates", "Balances that the application may have overwritten within a week.")
	startedMetric   = gauge("imagetasks_start_time_seconds", "When the processor started, in Unix time.")
	problemMetric   = gauge("imagetasks_problems", "Problems, by code, as status and the monitor report them; a code without a problem is missing.", "code")
	passMetric      = gauge("imagetasks_monitor_last_pass_timestamp_seconds", "When the last pass of the monitor began, in Unix time; missing before the first one has ended.")
	passesMetric    = counter("imagetasks_monitor_passes_total", "Passes of the monitor.")
	repairedMetric  = counter("imagetasks_monitor_stuck_tasks_failed_total", "Stuck tasks that the monitor failed.")
	givenMetric     = counter("imagetasks_monitor_refunded_credits_total", "Credits that the monitor gave back for the tasks that it failed.")
	restartsMetric  = counter("imagetasks_monitor_processor_restarts_total", "Restarts of the processor by the monitor.")
	checkMetric     = gauge("imagetasks_monitor_check_ok", "1 if the last check of the monitor found no problem.", "check")
	checkTookMetric = gauge("imagetasks_monitor_check_duration_seconds", "Time of the last check of the monitor.", "check")
)

// steps are exported even before they first happen, so that rates can be computed from the start.
var steps = []processor.EventKind{processor.EventClaimed, processor.EventCompleted, processor.EventRetried, processor.EventReleased,
	processor.EventFailed, processor.EventOutcomeUnknown, processor.EventLeaseLost, processor.EventAbandoned, processor.EventOverdue}

// limitHeaders are the headers that are exported, without x-ratelimit-: the API must not choose labels.
var limitHeaders = []string{"limit-requests", "remaining-requests", "limit-tokens", "remaining-tokens", "limit-images", "remaining-images", "limit", "remaining"}

// values collects the values of a scrape. It implements prometheus.Collector.
type values []prometheus.Metric

// Describe implements prometheus.Collector. Nothing is described: which values there are is known at a scrape.
func (v values) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (v values) Collect(out chan<- prometheus.Metric) {
	for _, each := range v {
		out <- each
	}
}

func (v *values) add(to metric, value float64, labels ...string) {
	for i := range labels {
		labels[i] = strings.ToValidUTF8(labels[i], "?")
	}
	*v = append(*v, prometheus.MustNewConstMetric(to.desc, to.kind, value, labels...))
}

// Processor is the state of a processor.
type Processor struct {
	Report   overview.ProcessorReport
	Queue    *store.QueueStats // nil: the database does not respond
	Bridge   *overview.Bridge  // nil: there is none, or it can't be read
	Problems []finding.Document
}

func (s Processor) values(m *Metrics) values {
	var v values
	v.addEngine(s.Report)
	v.addCircuits(s.Report, m.models)
	v.addRoutes(s.Report)
	v.add(dbMetric, boolValue(s.Queue != nil))
	if s.Queue != nil {
		v.addQueue(*s.Queue)
	}
	v.addProblems(s.Problems)
	if b := s.Bridge; b != nil {
		v.add(bridgeMetric, boolValue(b.Active))
		v.add(inboxMetric, float64(b.Inbox))
		v.add(inboxAgeMetric, b.InboxSeconds)
		v.add(outboxMetric, float64(b.Owed))
		v.add(outboxAgeMetric, b.OwedSeconds)
		v.add(bridgeBadMetric, float64(b.Failing+b.Failures))
		v.add(lostMetric, float64(b.LostUpdates))
	}
	return v
}

func (v *values) addEngine(p overview.ProcessorReport) {
	for _, step := range steps {
		v.add(tasksMetric, float64(p.Counts[step]), string(step))
	}
	v.add(inFlightMetric, float64(p.InFlight))
	v.add(slotsMetric, float64(p.Concurrency))
	v.add(paidMetric, float64(p.PaidRequests))
	v.add(leasesMetric, boolValue(p.LeasesFailingSince.IsZero()))
	v.add(apiMetric, boolValue(p.APIUnreachableSince.IsZero()))
	v.add(unknownMetric, float64(p.Counts[processor.EventOutcomeUnknown]))
	v.add(startedMetric, float64(p.StartedAt.Unix()))
}

// addCircuits adds the circuits. A model that is not in the settings has its name from a task, and only counts.
func (v *values) addCircuits(p overview.ProcessorReport, models []string) {
	refused := p.MoreModels
	for _, c := range p.Circuits {
		isModel := c.Scope == processor.CircuitModel
		if isModel {
			refused++
		}
		if !isModel || slices.Contains(models, c.Name) {
			v.add(circuitMetric, circuitValue(c.State), c.Endpoint, c.Name, c.Scope)
		}
	}
	v.add(modelsMetric, float64(refused))
}

// addRoutes adds the state of endpoints and of the proxies to them.
func (v *values) addRoutes(p overview.ProcessorReport) {
	// One address may be listed several times, with different logins.
	up, responses := map[string]bool{}, map[string]int{}
	for _, w := range p.AllUpstreams() {
		if w.Proxy != "" {
			up[w.Proxy] = up[w.Proxy] || !w.Ejected
			responses[w.Proxy] += w.Served
		}
	}
	for proxy, served := range responses {
		v.add(proxyMetric, boolValue(up[proxy]), proxy)
		v.add(responsesMetric, float64(served), proxy)
	}
	for _, e := range p.Endpoints {
		v.add(endpointMetric, float64(e.InFlight), e.Name)
		v.add(limitedMetric, boolValue(e.RateLimited.After(time.Now())), e.Name)
	}
	for _, e := range p.Routes() {
		for _, header := range limitHeaders {
			if n, err := strconv.ParseFloat(e.APIRateLimits.Headers[header], 64); err == nil {
				v.add(limitMetric, n, e.Name, header)
			}
		}
	}
}

func (v *values) addQueue(q store.QueueStats) {
	v.add(queueMetric, float64(max(q.Pending-q.Due, 0)), "later")
	v.add(queueMetric, float64(q.Due), "due")
	v.add(queueMetric, float64(max(q.Processing-q.Stuck, 0)), "processing")
	v.add(queueMetric, float64(q.Stuck), "stuck")
	v.add(waitingMetric, float64(q.Held), "user")
	v.add(waitingMetric, float64(q.OutOfOrder), "model")
	v.add(oldestMetric, q.OldestDue.Seconds())
	v.add(unfetchedMetric, float64(q.Unfetched))
}

// addProblems counts problems by their codes.
func (v *values) addProblems(problems []finding.Document) {
	counts := map[finding.Code]int{}
	for _, p := range problems {
		counts[p.Finding.Code]++
	}
	for code, n := range counts {
		v.add(problemMetric, float64(n), string(code))
	}
}

// Watch is the state of a monitor.
type Watch struct {
	At       time.Time         // when the last pass began; zero: none has ended
	Queue    *store.QueueStats // nil: the database did not respond in it
	Problems []finding.Document
	Checks   []health.Check // the latest first
	Totals   WatchTotals
}

// WatchTotals is what a monitor has done since it started.
type WatchTotals struct {
	Passes, StuckFailed, Restarts int
	Refunded                      int64 // credits
}

// Add adds a pass.
func (t *WatchTotals) Add(s monitor.Summary) {
	t.Passes++
	if s.DryRun {
		return
	}
	t.StuckFailed += s.StuckFailed
	t.Refunded += s.CreditsRefunded
	if s.Processor.RestartPID != 0 {
		t.Restarts++
	}
}

func (w Watch) values(*Metrics) values {
	var v values
	v.add(passesMetric, float64(w.Totals.Passes))
	v.add(repairedMetric, float64(w.Totals.StuckFailed))
	v.add(givenMetric, float64(w.Totals.Refunded))
	v.add(restartsMetric, float64(w.Totals.Restarts))
	seen := map[string]bool{}
	for _, c := range w.Checks {
		if !seen[c.Name] {
			v.add(checkMetric, boolValue(c.OK), c.Name)
			v.add(checkTookMetric, float64(c.Millis)/1000, c.Name)
		}
		seen[c.Name] = true
	}
	if w.At.IsZero() {
		return v
	}
	v.add(passMetric, float64(w.At.UnixMilli())/1000)
	v.add(dbMetric, boolValue(w.Queue != nil))
	if w.Queue != nil {
		v.addQueue(*w.Queue)
	}
	v.addProblems(w.Problems)
	return v
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
