package status

import (
	"context"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"imagetasks/pkg/processor"
)

var (
	tasksDesc   = prometheus.NewDesc("imagetasks_tasks_total", "Steps of tasks since the start.", []string{"step"}, nil)
	inHandDesc  = prometheus.NewDesc("imagetasks_tasks_in_flight", "Tasks being worked.", nil, nil)
	apiDesc     = prometheus.NewDesc("imagetasks_api_up", "1 while the way to the API is open.", nil, nil)
	proxyDesc   = prometheus.NewDesc("imagetasks_proxy_up", "1 while the proxy is not left out.", []string{"proxy"}, nil)
	answersDesc = prometheus.NewDesc("imagetasks_proxy_answers_total", "Answers that came through the proxy.", []string{"proxy"}, nil)
	limitDesc   = prometheus.NewDesc("imagetasks_api_rate_limit", "What the API last said in its x-ratelimit-* headers, where it is a number.", []string{"header"}, nil)
	dbDesc      = prometheus.NewDesc("imagetasks_database_up", "1 while the database answers.", nil, nil)
	queueDesc   = prometheus.NewDesc("imagetasks_queue_tasks", "Tasks in the queue.", []string{"state"}, nil)
	oldestDesc  = prometheus.NewDesc("imagetasks_queue_oldest_due_seconds", "How long the oldest due task has waited.", nil, nil)
	startedDesc = prometheus.NewDesc("imagetasks_start_time_seconds", "When the processor started, in Unix time.", nil, nil)
)

// steps are counted even before they were first taken, so that a rate can be drawn from them.
var steps = []processor.EventKind{processor.EventClaimed, processor.EventCompleted, processor.EventRetried, processor.EventReleased,
	processor.EventFailed, processor.EventLeaseLost, processor.EventAbandoned, processor.EventOverdue}

// collector asks the source at each scrape.
type collector struct{ s Source }

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{tasksDesc, inHandDesc, apiDesc, proxyDesc, answersDesc, limitDesc, dbDesc, queueDesc, oldestDesc, startedDesc} {
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
	gauge(inHandDesc, float64(r.Processor.InFlight))
	gauge(apiDesc, truth(r.Processor.APIUnreachableSince.IsZero()))
	// One address may stand in the list with several logins.
	up, answers := map[string]bool{}, map[string]int{}
	for _, w := range r.Processor.Upstreams {
		if w.Proxy != "" {
			up[w.Proxy] = up[w.Proxy] || !w.Ejected
			answers[w.Proxy] += w.Served
		}
	}
	for proxy, served := range answers {
		gauge(proxyDesc, truth(up[proxy]), proxy)
		ch <- prometheus.MustNewConstMetric(answersDesc, prometheus.CounterValue, float64(served), proxy)
	}
	for header, value := range r.Processor.APIRateLimits.Headers {
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			gauge(limitDesc, n, header)
		}
	}
	gauge(dbDesc, truth(r.Queue != nil))
	gauge(startedDesc, float64(r.Processor.StartedAt.Unix()))
	if r.Queue != nil {
		gauge(queueDesc, float64(r.Queue.Pending), "pending")
		gauge(queueDesc, float64(r.Queue.Due), "due")
		gauge(queueDesc, float64(r.Queue.Processing), "processing")
		gauge(queueDesc, float64(r.Queue.Stuck), "stuck")
		gauge(oldestDesc, r.OldestDue)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
