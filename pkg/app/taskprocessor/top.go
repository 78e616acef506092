package taskprocessor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func topCommand(a program) *cli.Command {
	return &cli.Command{Name: "top", Usage: "show the state as it changes, on the terminal, until q is pressed", Action: a.top, Flags: append([]cli.Flag{
		&cli.DurationFlag{Name: "interval", Usage: "`TIME` between two updates", Value: 2 * time.Second}, app.JSONFlag()}, app.WorkerFlags()...)}
}

const (
	// slowTurns is after how many intervals top reads what is not about the queue as it is now.
	slowTurns = 5
	// topFailures is how many failed tasks top shows.
	topFailures = 10
	// topTimeout bounds one reading, so that a database that is silent is shown as that.
	topTimeout = 15 * time.Second
)

func (a program) top(c *cli.Context) error {
	interval := c.Duration("interval")
	switch {
	case c.Bool("json"):
		return app.Usagef("--json prints one document, and top never ends; use task-processor status --json instead")
	case interval < time.Second || interval > time.Hour:
		return app.Usagef("--interval must be from 1s to 1h")
	case !app.IsTerminal(a.Stdout):
		return app.Usagef("top draws on a terminal, and there is none; use task-processor status instead")
	}
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		t := &topView{program: a, c: c, settings: s, store: st, screen: screen{a.App, l, a.Colors(a.Stdout)}, interval: interval}
		err := a.ShowLive(ctx, app.LiveView{Interval: interval, Read: t.read, Draw: t.draw, Abort: st.Abort})
		if errors.Is(err, app.ErrNoTerminal) {
			return app.Usagef("top draws on a terminal, and there is none; use task-processor status instead")
		}
		return err
	})
}

// topView is what top shows.
type topView struct {
	screen
	program  program
	c        *cli.Context
	settings settings.Settings
	store    *store.Store
	interval time.Duration

	mu       sync.Mutex // guards what follows
	report   statusReport
	failures []store.TaskRow // the last, the newest first
	at       time.Time       // of report
	slowAt   time.Time       // when the rest of it was read
	err      error           // why it could not be read again
}

// read reads the figures. While the database does not respond, those of before stay.
func (t *topView) read(ctx context.Context) {
	t.mu.Lock()
	r, slowAt, failures := t.report, t.slowAt, t.failures
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, topTimeout)
	defer cancel()
	if r.Host == "" {
		r.Version, r.Host, r.LastHour = app.BuildVersion(), app.Hostname(), map[string]closedStats{}
	}
	err := r.readQueue(ctx, t.settings, t.store)
	if err == nil {
		r.Checks = nil
		err = t.program.readProcessors(ctx, t.c, t.settings, t.store, &r)
	}
	if err == nil && time.Since(slowAt) >= slowTurns*t.interval {
		r.LastHour = map[string]closedStats{}
		if err = r.readRecent(ctx, t.store); err == nil {
			failures, err = t.lastFailures(ctx, r)
		}
		t.program.readHost(ctx, t.settings, &r)
		slowAt = time.Now()
	}
	if err == nil {
		t.program.assess(ctx, t.c, t.settings, &r)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err = err; err == nil {
		t.report, t.failures, t.at, t.slowAt = r, failures, time.Now(), slowAt
	}
}

// lastFailures reads as many failed tasks as failed within the hour, so that not all tasks are searched for more.
func (t *topView) lastFailures(ctx context.Context, r statusReport) ([]store.TaskRow, error) {
	n := 0
	for _, f := range r.Failures {
		n += f.Count
	}
	if n == 0 {
		return nil, nil
	}
	return t.store.ListTasks(ctx, store.TaskFilter{States: []task.State{task.Failed}, Limit: min(n, topFailures)})
}

// draw returns the lines for a terminal of that size.
func (t *topView) draw(columns, rows int) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	head := fmt.Sprintf("imagetasks %s  %s", t.report.Version, t.report.Host)
	right := textTopKeys.In(t.Lang, t.at.Local().Format(time.TimeOnly), lang.Duration(t.interval, t.Lang))
	if gap := columns - lang.Width(head) - lang.Width(right); gap >= 2 {
		head += strings.Repeat(" ", gap) + right
	}
	sections := [][]string{{t.color(reverse, lang.Pad(head, columns))}}
	if t.err != nil {
		sections = append(sections, []string{t.color(red, "! "+t.Redact.String(t.Message(lang.ErrorIn(t.err, t.Lang))))})
	}
	if t.at.IsZero() {
		return flatten(append(sections, []string{textTopReading.In(t.Lang)}), rows, t.Lang)
	}
	return flatten(append(sections, t.queueLines(), t.problemLines(), t.processorLines(), t.circuitLines(), t.failureLines()), rows, t.Lang)
}

func (t *topView) titled(title lang.Text, lines []string) []string {
	for i, text := range lines {
		lines[i] = lang.Pad(titleOf(title, i).In(t.Lang), titleWidth) + text
	}
	return lines
}

func (t *topView) queueLines() []string {
	r := t.report
	lines := t.titled(titleQueue, []string{t.queue(r), textTopQueue.In(t.Lang, r.Queue.Pending-r.Queue.Due, r.Queue.Processing)})
	if !r.Control.PausedAt.IsZero() {
		lines = append(lines, t.color(red, textTopPaused.In(t.Lang, r.Control.PausedAt.Local().Format(time.DateTime), r.Control.PausedBy, r.Control.PausedReason)))
	}
	var hour []string
	for _, state := range []task.State{task.Completed, task.Failed} {
		c, name := r.LastHour[string(state)], stateNames[state].In(t.Lang)
		text := textCount.In(t.Lang, c.Count, name)
		if c.Count > 0 {
			text = textLastHour.In(t.Lang, c.Count, name, seconds(c.Median), seconds(c.P95))
		}
		hour = append(hour, text)
	}
	return append(lines, t.titled(titleLastHour, hour)...)
}

func (t *topView) problemLines() (lines []string) {
	for _, p := range t.report.Problems {
		text := t.color(red, "! "+p.Finding.Text(t.Lang))
		if p.Next != "" {
			text += "  " + textNext.In(t.Lang, p.Next)
		}
		lines = append(lines, text)
	}
	if len(lines) == 0 {
		lines = []string{t.color(green, textHealthy.In(t.Lang))}
	}
	return lines
}

func (t *topView) processorLines() []string {
	lines := []string{t.localProcessor(t.report)}
	for _, p := range t.report.Processors {
		if p.Host == t.report.Host && (p.PID == t.report.Local.PID || !p.Alive) {
			continue
		}
		text := textOther.In(t.Lang, p.Host, p.PID, p.StartedAt.Local().Format(time.DateTime), seconds(p.SilentSeconds))
		lines = append(lines, text+textComma.In(t.Lang)+textInFlight.In(t.Lang, p.Report.InFlight, p.Report.Concurrency))
	}
	return t.titled(titleProcessor, lines)
}

// circuitLines shows each endpoint as the processors report it: what is open comes first.
func (t *topView) circuitLines() []string {
	var open, works []string
	for _, p := range t.report.Processors {
		if !p.Alive {
			continue
		}
		at := ""
		if len(t.report.Processors) > 1 {
			at = p.Host + "  "
		}
		for _, c := range p.Report.Circuits {
			if c.State != processor.CircuitClosed {
				open = append(open, t.color(red, "✗")+" "+at+t.circuit(c, &p.Report))
			}
		}
		for _, e := range p.Report.Routes() {
			for _, u := range e.Upstreams {
				if u.Ejected {
					open = append(open, at+t.upstream(u))
				}
			}
		}
		for _, e := range p.Report.Endpoints {
			if e.FailingSince.IsZero() {
				works = append(works, t.color(green, "✓")+" "+at+e.Name+t.endpointFigures(e))
			}
		}
	}
	return t.titled(titleCircuits, append(open, works...))
}

func (t *topView) failureLines() (lines []string) {
	for _, f := range t.failures {
		lines = append(lines, fmt.Sprintf("%s  %s  %s  %s", f.ClosedAt.Local().Format(time.TimeOnly), f.ErrorCode, f.ID, t.Redact.String(f.Error)))
	}
	return t.titled(titleFailures, lines)
}

// flatten joins sections to at most so many lines: the longest lose their last lines, and say how many.
func flatten(sections [][]string, rows int, l lang.Lang) (lines []string) {
	total := 0
	left := make([]int, len(sections))
	for i, s := range sections {
		left[i] = len(s)
		total += len(s)
	}
	for ; total > rows; total-- {
		longest := 0
		for i := range left {
			if left[i] >= left[longest] {
				longest = i
			}
		}
		if left[longest] <= 1 {
			break
		}
		left[longest]--
	}
	for i, s := range sections {
		shown := s[:left[i]]
		if hidden := len(s) - left[i]; hidden > 0 && left[i] > 1 {
			shown = append(append([]string{}, shown[:left[i]-1]...), textTopMore.In(l, hidden+1))
		}
		lines = append(lines, shown...)
	}
	return lines[:min(len(lines), rows)]
}

const reverse = "\x1b[7m"

var (
	titleFailures  = lang.Text{EN: "failures", ZH: "失败"}
	textTopKeys    = lang.Text{EN: "%s, every %s, q: quit", ZH: "%s，每 %s 刷新，q 退出"}
	textTopReading = lang.Text{EN: "reading …", ZH: "正在读取…"}
	textTopQueue   = lang.Text{EN: "%d later or held, %d processing", ZH: "%d 个未到时间，%d 个处理中"}
	textTopPaused  = lang.Text{EN: "claiming is paused since %s by %s: %s", ZH: "自 %s 起由 %s 暂停领取任务：%s"}
	textTopMore    = lang.Text{EN: "… %d more", ZH: "… 另有 %d 项"}
)
