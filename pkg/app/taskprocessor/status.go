package taskprocessor

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/apiclient"
	"imagetasks/pkg/app/daemon"
	"imagetasks/pkg/health"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/monitor"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
	"imagetasks/pkg/task"
)

// overview is what `task-processor status` prints: one screen.
type overview struct {
	Version   string             `json:"version"`
	Host      string             `json:"host"`
	Here      monitor.Processor  `json:"processor"`
	Known     []known            `json:"processors"` // on every host, as the database knows them
	States    map[task.State]int `json:"tasks"`
	Queue     store.QueueStats   `json:"queue"`
	OldestDue float64            `json:"oldest_due_seconds"`
	LastHour  map[string]closed  `json:"last_hour"` // completed and failed
	Refunds   refunds            `json:"refunds_today"`
	Checks    []health.Check     `json:"health_checks"` // of this host's processor, the latest first
	Route     lang.Message       `json:"api_route"`
	Monitor   *monitor.State     `json:"monitor"` // null: no round was made here
	Cron      cron               `json:"cron"`
	Problems  []problem          `json:"problems"`
}

type known struct {
	store.Processor
	Alive  bool             `json:"alive"`
	Silent float64          `json:"silent_seconds"`
	Says   processor.Status `json:"report"`
}

type closed struct {
	Count  int     `json:"count"`
	Median float64 `json:"median_seconds"`
	P95    float64 `json:"p95_seconds"`
}

type refunds struct {
	Count   int `json:"count"`
	Credits int `json:"credits"`
}

// problem is what is wrong, and the next thing to do about it.
type problem struct {
	What lang.Message `json:"check"`
	Do   string       `json:"do"`
}

func (a program) status(c *cli.Context) error {
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		o, err := a.look(ctx, c, s, st)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			err = a.PrintJSON(o)
		} else {
			screen{a.App, l, a.Colors(a.Stdout)}.print(o, time.Now())
		}
		if err == nil && len(o.Problems) > 0 {
			err = app.ErrUnhealthy
		}
		return err
	})
}

func (a program) look(ctx context.Context, c *cli.Context, s settings.Settings, st *store.Store) (overview, error) {
	o := overview{Version: app.BuildVersion(), Host: app.Hostname(), Problems: []problem{}, Known: []known{},
		LastHour: map[string]closed{}, Checks: []health.Check{}}
	var err error
	if o.States, err = st.CountByState(ctx); err != nil {
		return o, err
	}
	if o.Queue, err = st.QueueStats(ctx, s.StuckAfter); err != nil {
		return o, err
	}
	o.OldestDue = o.Queue.OldestDue.Seconds()
	recent, err := st.ClosedWithin(ctx, time.Hour)
	if err != nil {
		return o, err
	}
	for _, state := range []task.State{task.Completed, task.Failed} {
		r := recent[state]
		o.LastHour[string(state)] = closed{r.Count, r.Median.Seconds(), r.P95.Seconds()}
	}
	if o.Refunds.Count, o.Refunds.Credits, err = st.RefundsToday(ctx); err != nil {
		return o, err
	}
	if err := a.lookHere(ctx, c, s, st, &o); err != nil {
		return o, err
	}
	_, transport, err := apiclient.New(s)
	if err == nil {
		o.Route = route(transport, s)
		transport.CloseIdleConnections()
	} else {
		o.Route = lang.NewMessage(textNotAtAll, a.Redact.String(err.Error()))
	}
	if last, ok := monitor.LastState(s.LogDir); ok {
		o.Monitor = &last
	}
	o.Cron = lookAtCron(ctx)
	o.Problems = problems(o)
	return o, nil
}

// lookHere looks after the processors: this host's, by its lock and its own words, and the others.
func (a program) lookHere(ctx context.Context, c *cli.Context, s settings.Settings, st *store.Store, o *overview) error {
	d, err := daemon.New(a.App, c, s, st)
	if err != nil {
		return err
	}
	said := (*status.Report)(nil)
	if s.StatusAddr != "" {
		said = status.Fetch(ctx, s.StatusAddr)
	}
	m := monitor.New(monitor.Config{Store: st, Supervisor: d, Host: o.Host, HungAfter: s.HungAfter,
		SilentFor: func(pid int) (time.Duration, bool) { return said.SilentFor(pid) }})
	if o.Here, err = m.InspectProcessor(ctx); err != nil {
		return err
	}
	rows, err := st.Processors(ctx)
	if err != nil {
		return err
	}
	for _, row := range rows {
		k := known{Processor: row, Silent: row.SilentFor.Seconds(), Alive: row.SilentFor <= s.HungAfter}
		if row.Host == o.Host && !supervise.ProcessExists(row.PID) {
			k.Alive = false // it died since its last sign of life
		}
		if err := json.Unmarshal(row.Report, &k.Says); err != nil {
			return fmt.Errorf("what processor %s says of itself: %w", row.Worker, err)
		}
		if row.Host == o.Host && row.PID == o.Here.PID {
			if said != nil && said.Processor.Worker == row.Worker {
				k.Says = said.Processor // fresher
			}
			o.Checks = k.Says.Checks
		}
		o.Known = append(o.Known, k)
	}
	return nil
}

// route says which way the API is reached.
func route(t *proxy.Transport, s settings.Settings) lang.Message {
	u, err := url.Parse(s.BaseURL)
	if err != nil {
		return lang.NewMessage(textNotAtAll, "OPENAI_BASE_URL")
	}
	if via := t.Via(u); len(via) > 0 {
		return lang.NewMessage(textThrough, strings.Join(via, ", "))
	}
	return lang.NewMessage(textDirectly)
}

// proxyPatience is how long one proxy of several may be left out before that counts as a problem.
const proxyPatience = time.Minute

// problems says what is wrong, the worst first, each with the next thing to do.
func problems(o overview) []problem {
	out := []problem{}
	add := func(do string, what lang.Text, args ...any) {
		out = append(out, problem{lang.NewMessage(what, args...), do})
	}
	alive := 0
	for _, k := range o.Known {
		if !k.Alive {
			continue
		}
		alive++
		if !k.Says.APIUnreachableSince.IsZero() {
			add("simple-test", textProblemShut, k.Says.APIUnreachableSince.Local().Format(time.TimeOnly), k.Says.APIError)
			continue
		}
		for _, w := range k.Says.Upstreams {
			if w.Ejected && time.Since(w.Since) > proxyPatience {
				add("simple-test", textProblemProxy, w.Proxy, w.Since.Local().Format(time.DateTime), w.Reason)
			}
		}
	}
	switch o.Here.Verdict {
	case supervise.Dead:
		add("task-processor start", textProblemDead)
	case supervise.Hung:
		add("task-processor restart", textProblemHung, o.Here.PID, o.Here.Silent)
	case supervise.StoppedByOperator:
		if alive == 0 && o.Queue.Due > 0 {
			add("task-processor start", textProblemStopped, o.Queue.Due, o.Here.Stopped.By)
		}
	case supervise.NeverStarted:
		if alive == 0 && o.Queue.Due > 0 {
			add("task-processor start", textProblemNone, o.Queue.Due)
		}
	}
	if o.Queue.Stuck > 0 {
		add("fix-stuck-tasks", textProblemStuck, o.Queue.Stuck)
	}
	if o.Monitor != nil && !o.Monitor.API.OK && !o.Monitor.API.At.IsZero() {
		add("simple-test", textProblemAPI, o.Monitor.API.At.Local().Format(time.TimeOnly), o.Monitor.API.Error)
	}
	if o.Monitor != nil && o.Cron.Present && time.Since(o.Monitor.LastPass) > 3*cronInterval {
		add(textLookAtCron, textProblemRound, o.Monitor.LastPass.Local().Format(time.DateTime))
	}
	return out
}
