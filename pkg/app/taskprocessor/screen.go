package taskprocessor

import (
	"fmt"
	"strings"
	"time"

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

// printOverview prints the one screen.
func (a program) printOverview(o overview, now time.Time) {
	paint := func(color, text string) string {
		if !a.Colors(a.Stdout) {
			return text
		}
		return color + text + plain
	}
	line := func(what, format string, args ...any) { a.Printf("%-12s %s\n", what, fmt.Sprintf(format, args...)) }

	a.Printf("imagetasks %s on %s, %s\n\n", o.Version, o.Host, local(now))
	line("processor", "%s", a.describeHere(o, paint))
	for _, k := range o.Known {
		if k.Host == o.Host && (k.PID == o.Here.PID || !k.Alive) {
			continue
		}
		line("", "also %s, pid %d, since %s, last heartbeat %s ago", k.Host, k.PID, local(k.Started), short(k.Silent))
	}
	var states []string
	for _, state := range task.States() {
		states = append(states, fmt.Sprintf("%d %s", o.States[state], state))
	}
	line("tasks", "%s", strings.Join(states, ", "))
	line("queue", "%d due, the oldest for %s; %d stuck", o.Queue.Due, short(o.OldestDue), o.Queue.Stuck)
	for _, state := range []task.State{task.Completed, task.Failed} {
		c := o.LastHour[string(state)]
		if c.Count == 0 {
			line("last hour", "0 %s", state)
			continue
		}
		line("last hour", "%d %s, median %s, p95 %s", c.Count, state, short(c.Median), short(c.P95))
	}
	line("refunds", "%d today, %d credits", o.Refunds.Count, o.Refunds.Credits)
	line("api", "reached %s%s", o.Route, o.apiSeen())
	if o.Monitor != nil {
		line("monitor", "%s  %s", local(o.Monitor.Round), o.Monitor.Summary)
	} else {
		line("monitor", "no round was made here")
	}
	line("cron", "%s", o.Cron.Detail)
	if len(o.Checks) == 0 {
		line("checks", "none: no processor here to tell of them")
	}
	for i, c := range o.Checks {
		what, mark := "", paint(green, "✓")
		if i == 0 {
			what = "checks"
		}
		if !c.OK {
			mark = paint(red, "✗")
		}
		action := ""
		if c.Action != "" {
			action = "; " + c.Action
		}
		line(what, "%s %s %-9s %s (%d ms)%s", c.At.Local().Format(time.TimeOnly), mark, c.What, c.Result, c.Millis, action)
	}
	a.Printf("\n")
	if len(o.Problems) == 0 {
		a.Printf("%s\n", paint(green, "All is well."))
	}
	for _, p := range o.Problems {
		a.Printf("%s\n  next: %s\n", paint(red, "! "+p.What), p.Do)
	}
}

// apiSeen says when the API last answered, or since when it is out of reach, as this host's processor or else its
// monitor saw it.
func (o overview) apiSeen() string {
	for _, k := range o.Known {
		switch {
		case k.Host != o.Host || !k.Alive:
		case !k.Says.APIShut.IsZero():
			return "; shut since " + local(k.Says.APIShut)
		case !k.Says.APIAnswered.IsZero():
			return "; answered at " + local(k.Says.APIAnswered)
		}
	}
	switch {
	case o.Monitor == nil || o.Monitor.API.At.IsZero():
		return ""
	case o.Monitor.API.OK:
		return "; answered at " + local(o.Monitor.API.At)
	}
	return "; did not answer at " + local(o.Monitor.API.At)
}

// describeHere says how this host's processor stands.
func (a program) describeHere(o overview, paint func(color, text string) string) string {
	switch o.Here.Verdict {
	case supervise.OnPurpose:
		return fmt.Sprintf("stopped by an operator (%s) at %s", o.Here.Stopped.By, local(o.Here.Stopped.At))
	case supervise.Never:
		return "never started in the background here"
	case supervise.Dead:
		return paint(red, "dead")
	}
	verdict := paint(green, "running")
	if o.Here.Verdict == supervise.Hung {
		verdict = paint(red, "hung")
	}
	for _, k := range o.Known {
		if k.Host == o.Host && k.PID == o.Here.PID {
			return fmt.Sprintf("%s, pid %d, since %s, version %s, last heartbeat %s ago; %d of %d in hand", verdict, k.PID,
				local(k.Started), k.Version, short(k.Silent), k.Says.InHand, k.Says.Concurrency)
		}
	}
	return fmt.Sprintf("%s, pid %d, no heartbeat yet", verdict, o.Here.PID)
}
