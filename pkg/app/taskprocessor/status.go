package taskprocessor

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/alerts"
	"imagetasks/pkg/app/apiclient"
	"imagetasks/pkg/app/daemon"
	"imagetasks/pkg/app/summary"
	"imagetasks/pkg/crontab"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/health"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/monitor"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// statusReport is what `task-processor status` prints.
type statusReport struct {
	Version    string                  `json:"version"`
	Host       string                  `json:"host"`
	Local      overview.LocalProcessor `json:"processor"`
	Processors []overview.Processor    `json:"processors"` // on every host
	Tasks      map[task.State]int      `json:"tasks"`
	Queue      store.QueueStats        `json:"queue"`
	Control    store.Control           `json:"control"`
	SetAside   []store.AsideTask       `json:"set_aside"` // tasks that the database refuses to change
	unsettled  store.Unsettled
	Bridge     *overview.Bridge       `json:"bridge"`   // null: there is none
	Webhooks   *overview.Webhooks     `json:"webhooks"` // completion events
	OldestDue  float64                `json:"oldest_due_seconds"`
	LastHour   map[string]closedStats `json:"last_hour"` // completed and failed
	Failures   []store.FailureCount   `json:"last_hour_failures"`
	Refunds    refundStats            `json:"refunds_today"`
	Results    []endpointResults      `json:"last_day_results"` // by endpoint
	Checks     []health.Check         `json:"health_checks"`    // of this host's processor, the most recent first
	Route      lang.Message           `json:"api_route"`        // to the first endpoint
	Endpoints  []endpointRoute        `json:"api_endpoints"`    // as the settings have them; empty: they can't be used
	Monitor    *monitorPass           `json:"monitor"`          // null: the monitor has never run on this host
	Crontab    crontab.State          `json:"cron"`
	Problems   []finding.Document     `json:"problems"`
}

type closedStats struct {
	Count  int     `json:"count"`
	Median float64 `json:"median_seconds"`
	P95    float64 `json:"p95_seconds"`
}

type refundStats struct {
	Count   int   `json:"count"`
	Credits int64 `json:"credits"`
}

// endpointResults are results of the last 24 hours.
type endpointResults struct {
	store.EndpointResults
	Median float64 `json:"median_seconds"`
	P95    float64 `json:"p95_seconds"`
}

// monitorPass is the last pass of the monitor on this host.
type monitorPass struct {
	At      time.Time         `json:"at"`
	Text    lang.Message      `json:"summary"`
	Figures monitor.Summary   `json:"figures"`
	API     overview.APICheck `json:"api"`
}

func (a program) status(c *cli.Context) error {
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		r, err := a.collectStatus(ctx, c, s, st)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			err = a.PrintJSON(r)
		} else {
			screen{a.App, l, a.Colors(a.Stdout)}.print(r, time.Now())
		}
		if err == nil && len(r.Problems) > 0 {
			err = app.ErrUnhealthy
		}
		return err
	})
}

func (a program) collectStatus(ctx context.Context, c *cli.Context, s settings.Settings, st *store.Store) (statusReport, error) {
	r := statusReport{Version: app.BuildVersion(), Host: app.Hostname(), LastHour: map[string]closedStats{}, Checks: []health.Check{},
		Failures: []store.FailureCount{}, Results: []endpointResults{}}
	if err := r.readDatabase(ctx, s, st); err != nil {
		return r, err
	}
	if err := a.readProcessors(ctx, c, s, st, &r); err != nil {
		return r, err
	}
	r.Route, r.Endpoints = a.routes(s)
	a.readHost(ctx, s, &r)
	a.assess(ctx, c, s, &r)
	return r, nil
}

// readHost reads what this host's files say about the monitor.
func (a program) readHost(ctx context.Context, s settings.Settings, r *statusReport) {
	r.Crontab = crontab.State{Status: crontab.NotInstalled}
	if project, err := projectDir(); err == nil {
		r.Crontab = crontab.Read(ctx, project)
	}
	r.Monitor = nil
	if last, ok := monitor.ReadState(s.LogDir); ok {
		r.Monitor = &monitorPass{At: last.LastPass, Text: summary.Pass(last.Summary), Figures: last.Summary, API: last.API}
	}
}

// assess finds the problems.
func (a program) assess(ctx context.Context, c *cli.Context, s settings.Settings, r *statusReport) {
	snapshot := overview.Snapshot{Now: time.Now(), Host: r.Host, Local: r.Local, Processors: r.Processors, Queue: r.Queue, Control: r.Control, Unsettled: r.unsettled, SetAside: r.SetAside,
		Bridge: r.Bridge, Webhooks: r.Webhooks,
		Closed: r.LastHour[string(task.Completed)].Count + r.LastHour[string(task.Failed)].Count, Failures: r.Failures}
	if err := apiclient.Fault(s); err != nil {
		snapshot.EndpointsFault = a.Redact.String(err.Error())
	}
	snapshot.BacklogAfter = s.BacklogAfter
	snapshot.Disks, _ = alerts.Disks(s).Read(ctx)
	snapshot.Supervision = &overview.Supervision{Crontab: r.Crontab}
	if r.Monitor != nil {
		snapshot.APICheck, snapshot.Supervision.LastPass = r.Monitor.API, r.Monitor.At
	}
	r.Problems = finding.Documents(overview.Assess(snapshot), a.CommandLine(c))
}

// readDatabase reads the figures about tasks and refunds.
func (r *statusReport) readDatabase(ctx context.Context, s settings.Settings, st *store.Store) error {
	var err error
	if r.Tasks, err = st.CountByState(ctx); err != nil {
		return err
	}
	if err := r.readQueue(ctx, s, st); err != nil {
		return err
	}
	if err := r.readRecent(ctx, st); err != nil {
		return err
	}
	if r.Refunds.Count, r.Refunds.Credits, err = st.RefundsToday(ctx); err != nil {
		return err
	}
	results, err := st.ResultsWithin(ctx, 24*time.Hour)
	for _, e := range results {
		r.Results = append(r.Results, endpointResults{e, e.Median.Seconds(), e.P95.Seconds()})
	}
	return err
}

// readQueue reads the queue and whether it is paused: few rows, whatever the size of the tables.
func (r *statusReport) readQueue(ctx context.Context, s settings.Settings, st *store.Store) (err error) {
	if r.Queue, err = st.QueueStats(ctx, s.StuckAfter); err != nil {
		return err
	}
	r.OldestDue = r.Queue.OldestDue.Seconds()
	r.Control, err = st.Control(ctx)
	return err
}

// readRecent reads what happened in the last hour, and what is left over.
func (r *statusReport) readRecent(ctx context.Context, st *store.Store) error {
	setAside, err := st.TasksAside(ctx, overview.UnsettledLimit)
	if err != nil {
		return err
	}
	r.SetAside = append([]store.AsideTask{}, setAside...)
	if r.unsettled, err = st.Unsettled(ctx, overview.UnsettledWindow, overview.UnsettledLimit); err != nil {
		return err
	}
	if r.Bridge, err = overview.ReadBridge(ctx, st); err != nil {
		return err
	}
	if r.Webhooks, err = overview.ReadWebhooks(ctx, st); err != nil {
		return err
	}
	closed, err := st.ClosedWithin(ctx, time.Hour)
	if err != nil {
		return err
	}
	for _, state := range []task.State{task.Completed, task.Failed} {
		c := closed[state]
		r.LastHour[string(state)] = closedStats{c.Count, c.Median.Seconds(), c.P95.Seconds()}
	}
	failures, err := st.FailuresWithin(ctx, time.Hour)
	if err != nil {
		return err
	}
	r.Failures = append([]store.FailureCount{}, failures...)
	return nil
}

// readProcessors reads the state of the processors on all hosts, and the health checks of this host's.
func (a program) readProcessors(ctx context.Context, c *cli.Context, s settings.Settings, st *store.Store, r *statusReport) error {
	d, err := daemon.New(a.App, c, s, st)
	if err != nil {
		return err
	}
	r.Processors, r.Local, err = overview.Processors(ctx, overview.Config{Store: st, Inspector: d,
		Host: r.Host, HungAfter: s.HungAfter, Live: status.Live(ctx, s.StatusAddr, s.StatusToken)})
	if err != nil {
		return err
	}
	for _, p := range r.Processors {
		if p.Host == r.Host && p.PID == r.Local.PID {
			r.Checks = p.Report.Checks
		}
	}
	return nil
}

// endpointRoute is an endpoint of the settings.
type endpointRoute struct {
	Name    string       `json:"name"`
	Address string       `json:"address"`
	Route   lang.Message `json:"route"`
}

// routes describes the routes to the endpoints as the settings have them.
func (a program) routes(s settings.Settings) (first lang.Message, all []endpointRoute) {
	all = []endpointRoute{}
	endpoints, err := apiclient.New(s)
	if err != nil {
		return lang.NewMessage(textNoRoute, a.Redact.String(err.Error())), all
	}
	defer endpoints.CloseIdleConnections()
	for _, e := range endpoints {
		all = append(all, endpointRoute{e.Name, e.Address(), e.Route()})
	}
	return all[0].Route, all
}

// projectDir returns the project's directory: the programs are in its bin/.
func projectDir() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.Dir(filepath.Dir(self)), nil
}
