package taskprocessor

import (
	"fmt"
	"strings"
	"time"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/render"
	"imagetasks/pkg/app/summary"
	"imagetasks/pkg/crontab"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/supervise"
	"imagetasks/pkg/task"
)

// Terminal colors.
const (
	red, green, reset = "\x1b[31m", "\x1b[32m", "\x1b[0m"
)

// screen prints a status report for people.
type screen struct {
	*app.App
	lang.Lang
	colors bool
}

func (s screen) color(color, text string) string {
	if !s.colors {
		return text
	}
	return color + text + reset
}

func (s screen) line(title lang.Text, text string) {
	s.Printf("%s%s\n", lang.Pad(title.In(s.Lang), titleWidth), text)
}

const titleWidth = 13

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

// print prints the report on one screen.
func (s screen) print(r statusReport, now time.Time) {
	s.Printf("imagetasks %s, %s, %s\n\n", r.Version, r.Host, render.DateTime(now))
	s.line(titleProcessor, s.localProcessor(r))
	for _, p := range r.Processors {
		if p.Host == r.Host && (p.PID == r.Local.PID || !p.Alive) {
			continue
		}
		s.line(titleNone, textOther.In(s.Lang, p.Host, p.PID, render.DateTime(p.StartedAt), seconds(p.SilentSeconds)))
	}
	var states []string
	for _, state := range task.States() {
		states = append(states, textCount.In(s.Lang, r.Tasks[state], stateNames[state].In(s.Lang)))
	}
	s.line(titleTasks, strings.Join(states, textComma.In(s.Lang)))
	s.line(titleQueue, s.queue(r))
	for _, state := range []task.State{task.Completed, task.Failed} {
		c, name := r.LastHour[string(state)], stateNames[state].In(s.Lang)
		if c.Count == 0 {
			s.line(titleLastHour, textCount.In(s.Lang, 0, name))
			continue
		}
		s.line(titleLastHour, textLastHour.In(s.Lang, c.Count, name, seconds(c.Median), seconds(c.P95)))
	}
	s.line(titleRefunds, textRefunds.In(s.Lang, r.Refunds.Count, lang.NewMessage(textCredits, r.Refunds.Credits)))
	for i, e := range r.Results {
		s.line(titleOf(titleResults, i), s.results(e))
	}
	if r.Bridge != nil {
		s.line(titleBridge, s.bridge(*r.Bridge))
	}
	if w := r.Webhooks; w != nil && w.Waiting+w.Held+w.Undelivered > 0 {
		s.line(titleWebhooks, s.webhooks(*w))
	}
	if len(r.Endpoints) > 1 {
		s.line(titleAPI, textEndpointCount.In(s.Lang, len(r.Endpoints))+s.apiState(r))
		s.endpoints(r)
	} else {
		s.line(titleAPI, r.Route.In(s.Lang)+s.apiState(r))
	}
	s.upstreams(r)
	if r.Monitor == nil {
		s.line(titleMonitor, textNoPass.In(s.Lang))
	} else {
		s.line(titleMonitor, render.DateTime(r.Monitor.At)+"  "+r.Monitor.Text.In(s.Lang))
	}
	s.line(titleCron, cronTexts[r.Crontab.Status].In(s.Lang))
	s.checks(r)
	s.problems(r)
}

// queue describes the queue; an empty one has no oldest task.
func (s screen) queue(r statusReport) string {
	stuck := lang.NewMessage(textStuckCount, r.Queue.Stuck)
	if r.Queue.Due == 0 {
		return textQueueEmpty.In(s.Lang, stuck)
	}
	return textQueue.In(s.Lang, r.Queue.Due, seconds(r.OldestDue), stuck)
}

// bridge describes the bridge to an application's tables.
func (s screen) bridge(b overview.Bridge) string {
	since := textBridgeInactive
	if b.Active {
		since = textBridgeActive
	}
	text := textBridge.In(s.Lang, lang.NewMessage(since, render.DateTime(b.AppliedAt)), b.Inbox, b.Owed, b.Failing+b.Failures)
	if b.Failing+b.Failures > 0 {
		return s.color(red, text)
	}
	return text
}

// webhooks describes the completion events that wait.
func (s screen) webhooks(w overview.Webhooks) string {
	text := textWebhooks.In(s.Lang, w.Waiting+w.Held, w.Failing, w.Undelivered)
	if w.Undelivered > 0 {
		return s.color(red, text)
	}
	return text
}

func (s screen) checks(r statusReport) {
	if len(r.Checks) == 0 {
		s.line(titleChecks, textNoChecks.In(s.Lang))
	}
	for i, c := range r.Checks {
		title, mark := titleNone, s.color(green, "✓")
		if i == 0 {
			title = titleChecks
		}
		if !c.OK {
			mark = s.color(red, "✗")
		}
		action := ""
		if c.Action != "" {
			action = "; " + c.Action
		}
		s.line(title, fmt.Sprintf("%s %s %-9s %s (%d ms)%s", c.At.Local().Format(time.TimeOnly), mark, c.Name, c.Result, c.Millis, action))
	}
}

func (s screen) problems(r statusReport) {
	s.Printf("\n")
	if len(r.Problems) == 0 {
		s.Printf("%s\n", s.color(green, textHealthy.In(s.Lang)))
	}
	for _, p := range r.Problems {
		s.Printf("%s\n", s.color(red, "! "+p.Finding.Text(s.Lang)))
		if p.Next != "" {
			s.Printf("  %s\n", textNext.In(s.Lang, p.Next))
		}
	}
}

// local returns the report of this host's running processor, or nil.
func local(r statusReport) *overview.ProcessorReport {
	for _, p := range r.Processors {
		if p.Host == r.Host && p.Alive {
			return &p.Report
		}
	}
	return nil
}

// endpoints shows several endpoints: how they are reached, and what this host's processor reports about them.
func (s screen) endpoints(r statusReport) {
	report := local(r)
	for _, e := range r.Endpoints {
		mark, text := " ", e.Name+"  "+e.Route.In(s.Lang)
		if report != nil {
			mark = s.color(green, "✓")
			for _, of := range report.Endpoints {
				if of.Name != e.Name {
					continue
				}
				text += s.endpointFigures(of)
				if !of.FailingSince.IsZero() {
					mark = s.color(red, "✗")
				}
			}
		}
		s.line(titleNone, mark+" "+text)
	}
}

// endpointFigures describes what is in flight for an endpoint, and its limits.
func (s screen) endpointFigures(e processor.EndpointStatus) string {
	parts := []string{"", textEndpointInFlight.In(s.Lang, e.InFlight)}
	if e.Concurrency > 0 {
		parts = append(parts, textEndpointConcurrency.In(s.Lang, e.Concurrency))
	}
	if e.Rate > 0 {
		parts = append(parts, textEndpointRate.In(s.Lang, e.Rate))
	}
	if !e.RateLimited.IsZero() {
		parts = append(parts, s.color(red, textEndpointLimited.In(s.Lang, e.RateLimited.Local().Format(time.TimeOnly))))
	}
	return strings.Join(parts, textComma.In(s.Lang))
}

// upstreams shows the state of several proxies, and rate limits, as this host's processor reports them.
func (s screen) upstreams(r statusReport) {
	report := local(r)
	if report == nil {
		return
	}
	title := titleProxies
	for _, e := range report.Routes() {
		if len(e.Upstreams) < 2 {
			continue
		}
		for _, u := range e.Upstreams {
			text := s.upstream(u)
			if len(report.APIEndpoints) > 1 {
				text = e.Name + "  " + text
			}
			s.line(title, text)
			title = titleNone
		}
	}
	s.circuits(report)
	var parts, limits []string
	if len(report.Endpoints) == 1 && report.Endpoints[0].Rate > 0 {
		parts = append(parts, textOwnRate.In(s.Lang, report.Endpoints[0].Rate))
	}
	if !report.RateLimited.IsZero() {
		parts = append(parts, textRateLimited.In(s.Lang, report.RateLimited.Local().Format(time.TimeOnly)))
	}
	for _, e := range report.Routes() {
		if e.APIRateLimits.IsZero() {
			continue
		}
		text := textAPILimits.In(s.Lang, e.APIRateLimits.At.Local().Format(time.TimeOnly), e.APIRateLimits)
		if len(report.APIEndpoints) > 1 {
			limits = append(limits, e.Name+"  "+text) // a line for each: ten endpoints in one can't be read
			continue
		}
		parts = append(parts, text)
	}
	if len(parts) > 0 {
		limits = append([]string{strings.Join(parts, textSemicolon.In(s.Lang))}, limits...)
	}
	title = titleRate
	for _, text := range limits {
		s.line(title, text)
		title = titleNone
	}
}

// circuits shows what does not work, and how many paid requests were not answered.
func (s screen) circuits(report *overview.ProcessorReport) {
	title := titleCircuits
	for _, c := range report.Circuits {
		if c.State == processor.CircuitClosed {
			continue
		}
		s.line(title, s.color(red, "✗")+" "+s.circuit(c, report))
		title = titleNone
	}
	if report.MoreModels > 0 {
		s.line(title, textMoreModels.In(s.Lang, report.MoreModels))
		title = titleNone
	}
	if n := report.Counts[processor.EventOutcomeUnknown]; n > 0 {
		s.line(title, textUnknownOutcomes.In(s.Lang, n))
	}
}

// circuit describes a circuit that is not closed.
func (s screen) circuit(c processor.Circuit, report *overview.ProcessorReport) string {
	name := circuitNames[c.Scope].In(s.Lang)
	if c.Scope == processor.CircuitModel {
		name += " " + c.Name
	}
	if c.Endpoint != "" {
		name = textAtEndpoint.In(s.Lang, name, c.Endpoint)
	} else if c.Scope == processor.CircuitEndpoint && len(report.Endpoints) > 1 {
		name += " " + c.Name
	}
	state := textCircuitOpen
	if c.State == processor.CircuitHalfOpen {
		state = textCircuitHalfOpen
	}
	text := state.In(s.Lang, name, render.DateTime(c.Since), c.Reason)
	if !c.NextTrial.IsZero() {
		text += textNextTrial.In(s.Lang, c.NextTrial.Local().Format(time.TimeOnly))
	}
	return text
}

func (s screen) upstream(u proxy.UpstreamState) string {
	if u.Ejected {
		return s.color(red, "✗") + " " + textEjected.In(s.Lang, u.Proxy, render.DateTime(u.Since), u.RetryAt.Local().Format(time.TimeOnly), u.Reason)
	}
	return s.color(green, "✓") + " " + textServing.In(s.Lang, u.Proxy, u.Served)
}

// apiState says when the API last responded, or since when it is unreachable: as this host's processor reports it, else as
// the monitor saw it.
func (s screen) apiState(r statusReport) string {
	if report := local(r); report != nil {
		switch {
		case !report.APIUnreachableSince.IsZero():
			return textUnreachableSince.In(s.Lang, render.DateTime(report.APIUnreachableSince))
		case !report.APIRespondedAt.IsZero():
			return textRespondedAt.In(s.Lang, render.DateTime(report.APIRespondedAt))
		}
	}
	switch {
	case r.Monitor == nil || r.Monitor.API.At.IsZero():
		return ""
	case r.Monitor.API.OK:
		return textRespondedAt.In(s.Lang, render.DateTime(r.Monitor.API.At))
	}
	return textCheckFailedAt.In(s.Lang, render.DateTime(r.Monitor.API.At))
}

// localProcessor describes this host's processor.
func (s screen) localProcessor(r statusReport) string {
	color := green
	switch r.Local.Verdict {
	case supervise.StoppedByOperator, supervise.NeverStarted:
		return summary.LocalProcessor(r.Local).In(s.Lang)
	case supervise.Dead, supervise.Hung:
		color = red
	}
	state := s.color(color, summary.LocalProcessor(r.Local).In(s.Lang))
	if r.Local.Verdict == supervise.Dead {
		return state
	}
	for _, p := range r.Processors {
		if p.Host == r.Host && p.PID == r.Local.PID {
			return textLocal.In(s.Lang, state, lang.NewMessage(textInFlight, p.Report.InFlight, p.Report.Concurrency),
				seconds(p.SilentSeconds), render.DateTime(p.StartedAt), p.Version)
		}
	}
	return textNoHeartbeat.In(s.Lang, state)
}

var cronTexts = map[crontab.Status]lang.Text{
	crontab.Installed:     {EN: "installed", ZH: "已安装"},
	crontab.CronIsMissing: {EN: "cron is not installed", ZH: "未安装 cron"},
	crontab.NoCrontab:     {EN: "not installed; install with scripts/monitoring-setup.sh", ZH: "未安装；请用 scripts/monitoring-setup.sh 安装"},
	crontab.NotInstalled:  {EN: "not in this user's crontab; install with scripts/monitoring-setup.sh", ZH: "不在当前用户的 crontab 中；请用 scripts/monitoring-setup.sh 安装"},
}

// results describes what an endpoint made.
func (s screen) results(e endpointResults) string {
	text := textResults.In(s.Lang, nameOr(e.Endpoint, textUnknownName.In(s.Lang)), lang.NewMessage(textPictures, e.Pictures), seconds(e.Median), seconds(e.P95))
	if e.Lost > 0 {
		text += textComma.In(s.Lang) + textLost.In(s.Lang, e.Lost)
	}
	for _, c := range e.Costs {
		text += textComma.In(s.Lang) + c.String()
	}
	return text
}

// titleOf returns the title for the first line of several, and none for the others.
func titleOf(title lang.Text, i int) lang.Text {
	if i > 0 {
		return titleNone
	}
	return title
}
