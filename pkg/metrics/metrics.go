// Package metrics exports what a processor or a monitor knows as metrics for Prometheus (docs/metrics.md lists them). It is the only package that
// uses Prometheus's library: the engine and the worker report what they do through functions and an interface of their own. No value of a label comes
// from a task: endpoints, proxies and models are those of the settings, and error codes those of pkg/task.
package metrics

import (
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"imagetasks/pkg/imageworker"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
	"imagetasks/pkg/webhook"
)

// other is the value of a label for what is in no list.
const other = "other"

// The bounds of the histograms, in seconds.
var (
	waitBuckets    = []float64{.05, .25, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200}
	pictureBuckets = []float64{.25, 1, 2.5, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600}
	callBuckets    = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	webhookBuckets = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15}
)

// The bounds of a scrape.
const (
	maxScrapes    = 4                // at a time; others are refused with 503
	scrapeTimeout = 10 * time.Second // of one, after its state was read
)

// Metrics observes a processor. It is safe for concurrent use, and observations allocate nothing.
type Metrics struct {
	registry *prometheus.Registry
	models   []string
	scrapes  chan struct{}

	wait, took, claim, completion prometheus.Histogram
	refunds                       prometheus.Counter
	charged, refunded             prometheus.Counter // credits
	received, stored              prometheus.Counter // bytes
	requests                      map[requestKey]requestMetrics
	deliveries                    map[store.EventResult]prometheus.Observer

	codes    map[task.Code]string
	outcomes *prometheus.CounterVec
	mu       sync.RWMutex
	counted  map[outcomeKey]prometheus.Counter // of outcomes, as far as they have happened
}

// Config is what the metrics are of. Endpoints and models are the names in the settings.
type Config struct {
	Version           string
	Endpoints, Models []string
}

type requestKey struct {
	endpoint string
	outcome  imageworker.RequestOutcome
}

type requestMetrics struct {
	took  prometheus.Observer
	count prometheus.Counter
}

type outcomeKey struct {
	outcome processor.EventKind
	code    task.Code
}

// New returns the metrics of a processor.
func New(c Config) *Metrics {
	m := NewMonitor(c.Version)
	m.models = slices.Clone(c.Models)
	m.wait = m.histogram("imagetasks_queue_wait_seconds", "How long claimed tasks had been due; without claims after a lost one.", waitBuckets)
	m.took = m.histogram("imagetasks_task_duration_seconds", "Time from the claim of a task to its completion.", pictureBuckets)
	m.claim = m.histogram("imagetasks_claim_duration_seconds", "Time of the calls of the database that claim tasks, empty ones included.", callBuckets)
	m.completion = m.histogram("imagetasks_completion_duration_seconds", "Time until a completed task was recorded in the database, repeats included.", callBuckets)
	m.refunds = m.counter("imagetasks_refunds_total", "Refunds of tasks that this processor failed.")
	m.charged = m.counter("imagetasks_completed_credits_total", "Credits that were charged for the tasks that this processor completed.")
	m.refunded = m.counter("imagetasks_refunded_credits_total", "Credits that were given back for the tasks that this processor failed.")
	m.received = m.counter("imagetasks_received_picture_bytes_total", "Bytes of pictures that arrived from the API or from the URLs that it answered with.")
	m.stored = m.counter("imagetasks_stored_picture_bytes_total", "Bytes of pictures that were stored.")

	latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "imagetasks_api_request_duration_seconds", Buckets: pictureBuckets,
		Help: "Time of paid requests, to the whole answer or the failure, by endpoint and outcome: success, error (the API answered with an error), unknown (it may have been billed), not_sent."},
		[]string{"endpoint", "outcome"})
	count := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "imagetasks_paid_requests_total",
		Help: "Paid requests that were recorded, by endpoint and outcome, as in imagetasks_api_request_duration_seconds."}, []string{"endpoint", "outcome"})
	m.registry.MustRegister(latency, count)
	m.requests = map[requestKey]requestMetrics{}
	for _, endpoint := range append(slices.Clone(c.Endpoints), other) {
		for _, outcome := range imageworker.RequestOutcomes() {
			label := strings.ToValidUTF8(endpoint, "?")
			m.requests[requestKey{endpoint, outcome}] = requestMetrics{latency.WithLabelValues(label, string(outcome)), count.WithLabelValues(label, string(outcome))}
		}
	}
	delivery := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "imagetasks_webhook_delivery_duration_seconds", Buckets: webhookBuckets,
		Help: "Time of the attempts to deliver completion events, by result: delivered, retry (another attempt follows), undelivered (given up)."}, []string{"result"})
	m.registry.MustRegister(delivery)
	m.deliveries = map[store.EventResult]prometheus.Observer{}
	for _, result := range []store.EventResult{store.ResultDelivered, store.ResultRetry, store.ResultUndelivered} {
		m.deliveries[result] = delivery.WithLabelValues(string(result))
	}

	m.codes = map[task.Code]string{"": ""}
	for _, code := range task.Codes() {
		m.codes[code] = string(code)
	}
	m.outcomes = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "imagetasks_task_outcomes_total",
		Help: "Claims and tasks that ended, by outcome and error code: completed, retried, released, failed, lease_lost, abandoned (after MAX_LOST_CLAIMS), overdue (after PENDING_TIMEOUT)."},
		[]string{"outcome", "code"})
	m.registry.MustRegister(m.outcomes)
	m.counted = map[outcomeKey]prometheus.Counter{}
	for _, outcome := range []processor.EventKind{processor.EventCompleted, processor.EventLeaseLost} {
		m.outcome(outcomeKey{outcome, ""}) // rates can be computed from the start
	}
	return m
}

// NewMonitor returns the metrics of a monitor: those of the program alone. What it knows is given at each scrape.
func NewMonitor(version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), scrapes: make(chan struct{}, maxScrapes)}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "imagetasks_build_info", Help: "1, with the version of the program and of Go."}, []string{"version", "goversion"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	m.registry.MustRegister(build)
	return m
}

func (m *Metrics) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	m.registry.MustRegister(h)
	return h
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

// Observe observes a step of the engine.
func (m *Metrics) Observe(e processor.Event) {
	switch e.Kind {
	case processor.EventClaimCall:
		m.claim.Observe(e.Duration.Seconds())
	case processor.EventClaimed:
		if e.Duration > 0 {
			m.wait.Observe(e.Duration.Seconds())
		}
	case processor.EventCompleted:
		m.took.Observe(e.Duration.Seconds())
		m.completion.Observe(e.Write.Seconds())
		m.charged.Add(float64(e.Credits))
		m.outcome(outcomeKey{e.Kind, ""}).Inc()
	case processor.EventFailed, processor.EventAbandoned, processor.EventOverdue:
		if e.Credits > 0 {
			m.refunds.Inc()
			m.refunded.Add(float64(e.Credits))
		}
		m.outcome(outcomeKey{e.Kind, e.Code}).Inc()
	case processor.EventRetried, processor.EventReleased, processor.EventLeaseLost:
		m.outcome(outcomeKey{e.Kind, e.Code}).Inc()
	}
}

// outcome returns the counter of an outcome. A code that is in no list counts as other.
func (m *Metrics) outcome(k outcomeKey) prometheus.Counter {
	m.mu.RLock()
	c, ok := m.counted[k]
	m.mu.RUnlock()
	if ok {
		return c
	}
	code, known := m.codes[k.code]
	if !known {
		code = other
	}
	c = m.outcomes.WithLabelValues(string(k.outcome), code)
	if known {
		m.mu.Lock()
		m.counted[k] = c
		m.mu.Unlock()
	}
	return c
}

// ObserveDelivery observes an attempt to deliver a completion event.
func (m *Metrics) ObserveDelivery(d webhook.Delivery) {
	if h, ok := m.deliveries[d.Outcome.Result]; ok {
		h.Observe(d.Took.Seconds())
	}
}

// RequestEnded implements imageworker.Observer.
func (m *Metrics) RequestEnded(endpoint string, outcome imageworker.RequestOutcome, took time.Duration) {
	r, ok := m.requests[requestKey{endpoint, outcome}]
	if !ok {
		r = m.requests[requestKey{other, outcome}]
	}
	r.took.Observe(took.Seconds())
	r.count.Inc()
}

// Received implements imageworker.Observer.
func (m *Metrics) Received(bytes int) { m.received.Add(float64(bytes)) }

// Stored implements imageworker.Observer.
func (m *Metrics) Stored(bytes int64) { m.stored.Add(float64(max(bytes, 0))) }

// State is what is exported besides what was observed: a Processor or a Watch.
type State interface {
	values(m *Metrics) values
}

// Serve answers a scrape with what was observed, and with the state that read returns. More than maxScrapes at a time are refused, so that a database
// that does not respond can't collect them.
func (m *Metrics) Serve(w http.ResponseWriter, r *http.Request, read func() State) {
	select {
	case m.scrapes <- struct{}{}:
		defer func() { <-m.scrapes }()
	default:
		http.Error(w, "too many scrapes at the same time", http.StatusServiceUnavailable)
		return
	}
	state := prometheus.NewRegistry()
	state.MustRegister(read().values(m))
	promhttp.HandlerFor(prometheus.Gatherers{m.registry, state}, promhttp.HandlerOpts{EnableOpenMetrics: true, Timeout: scrapeTimeout}).ServeHTTP(w, r)
}
