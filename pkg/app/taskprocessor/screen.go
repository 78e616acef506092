package taskprocessor

import (
	"fmt"
	"strings"
	"time"

	"imagetasks/pkg/app"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/status"
	"imagetasks/pkg/supervise"
	"imagetasks/pkg/task"
)

// The colours of a terminal.
const (
	red, green, plain = "\x1b[31m", "\x1b[32m", "\x1b[0m"
)

// local is a time as people read it.
func local(t time.Time) string { return t.Local().Format(time.DateTime) }

// short is a number of seconds as people read it.
func short(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	if d < 10*time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// screen prints an overview in a language.
type screen struct {
	*app.App
	lang.Lang
	colors bool
}

func (s screen) paint(color, text string) string {
	if !s.colors {
		return text
	}
	return color + text + plain
}

func (s screen) line(title lang.Text, text lang.Text, args ...any) {
	s.Printf("%s%s\n", lang.Pad(title.In(s.Lang), titleWidth), text.In(s.Lang, args...))
}

const titleWidth = 13

// print prints the one screen.
func (s screen) print(o overview, now time.Time) {
	s.Printf("imagetasks %s, %s, %s\n\n", o.Version, o.Host, local(now))
	s.line(titleProcessor, textPlain, s.here(o))
	for _, k := range o.Known {
		if k.Host == o.Host && (k.PID == o.Here.PID || !k.Alive) {
			continue
		}
		s.line(titleNone, textAlso, k.Host, k.PID, local(k.StartedAt), short(k.Silent))
	}
	var states []string
	for _, state := range task.States() {
		states = append(states, textCount.In(s.Lang, o.States[state], stateNames[state].In(s.Lang)))
	}
	s.line(titleTasks, textPlain, strings.Join(states, textComma.In(s.Lang)))
	s.line(titleQueue, textQueue, o.Queue.Due, short(o.OldestDue), o.Queue.Stuck)
	for _, state := range []task.State{task.Completed, task.Failed} {
		c, name := o.LastHour[string(state)], stateNames[state].In(s.Lang)
		if c.Count == 0 {
			s.line(titleLastHour, textCount, 0, name)
			continue
		}
		s.line(titleLastHour, textLastHour, c.Count, name, short(c.Median), short(c.P95))
	}
	s.line(titleRefunds, textRefunds, o.Refunds.Count, o.Refunds.Credits)
	s.line(titleAPI, textPlain, textReached.In(s.Lang, o.Route.In(s.Lang))+s.apiSeen(o))
	s.api(o)
	if o.Monitor == nil {
		s.line(titleMonitor, textNoRound)
	} else {
		s.line(titleMonitor, textPlain, local(o.Monitor.LastPass)+"  "+lang.Text{EN: o.Monitor.Summary, ZH: o.Monitor.SummaryZH}.In(s.Lang))
	}
	s.line(titleCron, textPlain, o.Cron.Detail.In(s.Lang))
	s.checks(o)
	s.problems(o)
}

func (s screen) checks(o overview) {
	if len(o.Checks) == 0 {
		s.line(titleChecks, textNoChecks)
	}
	for i, c := range o.Checks {
		title, mark := titleNone, s.paint(green, "✓")
		if i == 0 {
			title = titleChecks
		}
		if !c.OK {
			mark = s.paint(red, "✗")
		}
		action := ""
		if c.Action != "" {
			action = "; " + c.Action
		}
		s.line(title, textPlain, fmt.Sprintf("%s %s %-9s %s (%d ms)%s", c.At.Local().Format(time.TimeOnly), mark, c.Name, c.Result, c.Millis, action))
	}
}

func (s screen) problems(o overview) {
	s.Printf("\n")
	if len(o.Problems) == 0 {
		s.Printf("%s\n", s.paint(green, textAllWell.In(s.Lang)))
	}
	for _, p := range o.Problems {
		s.Printf("%s\n  %s\n", s.paint(red, "! "+p.What.In(s.Lang)), textNext.In(s.Lang, p.Do))
	}
}

// api tells of each proxy of several, and of rate limits, as this host's processor sees them.
func (s screen) api(o overview) {
	for _, k := range o.Known {
		if k.Host != o.Host || !k.Alive {
			continue
		}
		if len(k.Says.Upstreams) > 1 {
			s.proxies(k.Says.Upstreams)
		}
		s.rate(k.Says)
		return
	}
}

func (s screen) proxies(ways []proxy.UpstreamState) {
	title := titleProxies
	for _, w := range ways {
		text := s.paint(green, "✓") + " " + textServes.In(s.Lang, w.Proxy, w.Served)
		if w.Ejected {
			text = s.paint(red, "✗") + " " + textLeftOut.In(s.Lang, w.Proxy, local(w.Since), w.RetryAt.Local().Format(time.TimeOnly), w.Reason)
		}
		s.line(title, textPlain, text)
		title = titleNone
	}
}

func (s screen) rate(says status.Processor) {
	var parts []string
	if says.RateLimit > 0 {
		parts = append(parts, textOurRate.In(s.Lang, says.RateLimit))
	}
	if !says.RateLimited.IsZero() {
		parts = append(parts, textPaused.In(s.Lang, says.RateLimited.Local().Format(time.TimeOnly)))
	}
	if !says.APIRateLimits.IsZero() {
		parts = append(parts, textAPILimits.In(s.Lang, says.APIRateLimits.At.Local().Format(time.TimeOnly), says.APIRateLimits))
	}
	if len(parts) > 0 {
		s.line(titleRate, textPlain, strings.Join(parts, textSemicolon.In(s.Lang)))
	}
}

// apiSeen says when the API last answered, or since when it is out of reach, as this host's processor or else its
// monitor saw it.
func (s screen) apiSeen(o overview) string {
	for _, k := range o.Known {
		switch {
		case k.Host != o.Host || !k.Alive:
		case !k.Says.APIUnreachableSince.IsZero():
			return textShutSince.In(s.Lang, local(k.Says.APIUnreachableSince))
		case !k.Says.APIRespondedAt.IsZero():
			return textAnsweredAt.In(s.Lang, local(k.Says.APIRespondedAt))
		}
	}
	switch {
	case o.Monitor == nil || o.Monitor.API.At.IsZero():
		return ""
	case o.Monitor.API.OK:
		return textAnsweredAt.In(s.Lang, local(o.Monitor.API.At))
	}
	return textSilentAt.In(s.Lang, local(o.Monitor.API.At))
}

// here says how this host's processor stands.
func (s screen) here(o overview) string {
	switch o.Here.Verdict {
	case supervise.StoppedByOperator:
		return textOnPurpose.In(s.Lang, o.Here.Stopped.By, local(o.Here.Stopped.At))
	case supervise.NeverStarted:
		return textNever.In(s.Lang)
	case supervise.Dead:
		return s.paint(red, textDead.In(s.Lang))
	}
	verdict := s.paint(green, textRunning.In(s.Lang))
	if o.Here.Verdict == supervise.Hung {
		verdict = s.paint(red, textHung.In(s.Lang))
	}
	for _, k := range o.Known {
		if k.Host == o.Host && k.PID == o.Here.PID {
			return textHere.In(s.Lang, verdict, k.PID, local(k.StartedAt), k.Version, short(k.Silent), k.Says.InFlight, k.Says.Concurrency)
		}
	}
	return textNoBeat.In(s.Lang, verdict, o.Here.PID)
}
