// Package monitor is the round that walks behind: it closes stuck tasks, looks after the queue, the processor and
// the way to the API, and brings back what is down. What was done is logged, and told in one line.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/health"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/repair"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// Store is what a round needs of the store.
type Store interface {
	repair.Store
	Ping(ctx context.Context) error
	QueueStats(ctx context.Context, stuckAfter time.Duration) (store.QueueStats, error)
	Processors(ctx context.Context) ([]store.Processor, error)
	Prune(ctx context.Context) error
}

// Supervisor is what a round needs to look after this host's processor.
type Supervisor interface {
	Inspect() (supervise.State, error)
	Revive(ctx context.Context, hung bool) (pid int, err error)
}

// The rhythm of the API's check.
const (
	APICheckInterval   = 30 * time.Minute // between two checks
	APICheckStuckCount = 10               // stuck tasks in one round that make it due at once
)

// Config says what to look after.
type Config struct {
	Store      Store
	Supervisor Supervisor
	Host       string                              // this one, as processors name it
	Probe      func(ctx context.Context) error     // asks the API for its health, through the proxy
	SilentFor  func(pid int) (time.Duration, bool) // what that processor says on its status address; false: nothing
	Dir        string                              // where the state between two rounds and the lock stand

	StuckAfter     time.Duration
	PendingTimeout time.Duration // a task due for longer fails; 0: never
	HungAfter      time.Duration
	NoRestart      bool // leave the processor alone
	DryRun         bool // change nothing

	Log    logrus.FieldLogger
	Redact func(string) string
}

// Monitor makes rounds. It is for one goroutine; Checks may be called from any.
type Monitor struct {
	conf   Config
	checks health.History
}

// New returns a monitor.
func New(conf Config) *Monitor { return &Monitor{conf: conf} }

// Checks returns the last health checks, the latest first.
func (m *Monitor) Checks() []health.Check { return m.checks.Recent() }

// Processor is what a round found of this host's processor, and did about it.
type Processor struct {
	Verdict supervise.Verdict   `json:"verdict"`
	PID     int                 `json:"pid,omitempty"`
	Silent  float64             `json:"silent_seconds,omitempty"` // since its last heartbeat
	Wanted  bool                `json:"wanted"`
	Stopped *supervise.StopMark `json:"stopped,omitempty"`
	Action  lang.Message        `json:"action,omitzero"`
}

// API is the last check of the API.
type API struct {
	At     time.Time `json:"at"`
	OK     bool      `json:"ok"`
	Millis int64     `json:"ms"`
	Error  string    `json:"error,omitempty"`
}

// Report is one round.
type Report struct {
	At        time.Time            `json:"at"`
	Repair    repair.Report        `json:"repair"`
	Overdue   repair.OverdueResult `json:"expired"` // due for longer than PENDING_TIMEOUT
	Queue     store.QueueStats     `json:"queue"`
	OldestDue float64              `json:"oldest_due_seconds"`
	Database  int64                `json:"database_ms"`
	Processor Processor            `json:"processor"`
	API       API                  `json:"api"` // of this round, or of an earlier one
	Checks    []health.Check       `json:"health_checks"`
	Problems  []lang.Message       `json:"problems"`
	Summary   lang.Message         `json:"summary"`
}

// PassTimeout is how long a round may take: a round that hangs would keep all later ones away.
const PassTimeout = 4 * time.Minute

// Pass makes one round. It returns an error where it could not do its work, the database being away, say. What is still
// wrong after it stands in Problems.
func (m *Monitor) Pass(ctx context.Context) (Report, error) {
	r := Report{At: time.Now(), Problems: []lang.Message{}}
	state := readState(m.conf.Dir)
	bounded, cancel := context.WithTimeout(ctx, PassTimeout)
	defer cancel()
	err := m.pass(bounded, &r, &state)
	r.Checks = m.checks.Recent()
	r.Summary = summary(r, err)
	if err != nil {
		m.conf.Log.WithError(err).Error(r.Summary.String())
		return r, err
	}
	if len(r.Problems) > 0 {
		m.conf.Log.Warn(r.Summary.String())
	} else {
		m.conf.Log.Info(r.Summary.String())
	}
	if m.conf.DryRun {
		return r, nil
	}
	state.LastPass, state.Summary, state.SummaryZH = r.At, r.Summary.String(), r.Summary.In(lang.ZH)
	return r, writeState(m.conf.Dir, state)
}

func (m *Monitor) pass(ctx context.Context, r *Report, state *State) error {
	began := time.Now()
	if err := m.conf.Store.Ping(ctx); err != nil {
		m.note("database", began, false, m.conf.Redact(err.Error()), "nothing can be repaired until it is back")
		return fmt.Errorf("the database does not answer: %w", err)
	}
	r.Database = time.Since(began).Milliseconds()
	m.note("database", began, true, "answers", "")

	if err := m.queue(ctx, r); err != nil {
		return err
	}
	if err := m.processor(ctx, r); err != nil {
		return err
	}
	m.api(ctx, r, state)
	if m.conf.DryRun {
		return nil
	}
	return m.conf.Store.Prune(ctx)
}

// queue closes stuck tasks and looks how many wait.
func (m *Monitor) queue(ctx context.Context, r *Report) error {
	began := time.Now()
	var err error
	r.Repair, err = repair.Sweep(ctx, m.conf.Store, repair.Options{
		Sweep: store.Sweep{OlderThan: m.conf.StuckAfter}, DryRun: m.conf.DryRun}, m.conf.Log)
	if err != nil {
		return err
	}
	if m.conf.PendingTimeout > 0 {
		if r.Overdue, err = repair.FailOverdue(ctx, m.conf.Store, m.conf.PendingTimeout, m.conf.DryRun, m.conf.Log); err != nil {
			return err
		}
	}
	if r.Queue, err = m.conf.Store.QueueStats(ctx, m.conf.StuckAfter); err != nil {
		return err
	}
	r.OldestDue = r.Queue.OldestDue.Seconds()
	action := ""
	if n := len(r.Repair.Tasks) + r.Overdue.Count; n > 0 && !m.conf.DryRun {
		action = fmt.Sprintf("%d failed, %d credits refunded", n, r.Repair.Credits+r.Overdue.Credits)
	}
	if r.Repair.Remaining > 0 {
		r.problem(textStuckStill, r.Repair.Remaining)
	}
	m.note("queue", began, r.Repair.Remaining == 0, fmt.Sprintf("%d pending, %d processing, %d stuck", r.Queue.Pending, r.Queue.Processing, r.Queue.Stuck), action)
	return nil
}

// processor looks after this host's processor and brings it back where it is down.
func (m *Monitor) processor(ctx context.Context, r *Report) error {
	began := time.Now()
	found, err := m.InspectProcessor(ctx)
	if err != nil {
		return err
	}
	r.Processor = found
	p := &r.Processor
	ok := p.Verdict != supervise.Dead && p.Verdict != supervise.Hung
	switch {
	case ok:
	case m.conf.NoRestart || m.conf.DryRun:
		p.Action = lang.NewMessage(textLeft)
		r.problem(textRestartIt, p.describe())
	case !p.Wanted:
		p.Action = lang.NewMessage(textLeft)
		r.problem(textHungForeground, p.PID)
	default:
		ok = m.revive(ctx, r)
	}
	m.note("processor", began, ok, p.describe().String(), p.Action.String())
	return nil
}

func (m *Monitor) revive(ctx context.Context, r *Report) bool {
	p := &r.Processor
	m.conf.Log.Warnf("the processor is %s; it is started again", p.describe())
	pid, err := m.conf.Supervisor.Revive(ctx, p.Verdict == supervise.Hung)
	switch {
	case errors.Is(err, supervise.ErrCrashLoop):
		p.Action = lang.NewMessage(textNoMore)
		r.problem(textAsIs, m.conf.Redact(err.Error()))
	case err != nil:
		p.Action = lang.NewMessage(textNotRestarted)
		r.problem(textAsIs, m.conf.Redact(err.Error()))
	case pid == 0:
		p.Action = lang.NewMessage(textSeenTo)
		return true
	default:
		p.Action = lang.NewMessage(textRestarted, pid)
		m.conf.Log.WithField("pid", pid).Info("the processor runs again")
		return true
	}
	m.conf.Log.Error(r.Problems[len(r.Problems)-1].String())
	return false
}

// InspectProcessor says how this host's processor stands, and changes nothing.
func (m *Monitor) InspectProcessor(ctx context.Context) (Processor, error) {
	state, err := m.conf.Supervisor.Inspect()
	if err != nil {
		return Processor{}, err
	}
	p := Processor{PID: state.PID, Wanted: state.Wanted, Stopped: state.Stopped}
	if !state.Running {
		switch {
		case state.Stopped != nil:
			p.Verdict = supervise.StoppedByOperator
		case state.Wanted:
			p.Verdict = supervise.Dead
		default:
			p.Verdict = supervise.NeverStarted
		}
		return p, nil
	}
	known, err := m.conf.Store.Processors(ctx)
	if err != nil {
		return p, err
	}
	// Silent until it is heard of: a process that took the lock and never gave a sign of life hangs too.
	silent := time.Since(state.Since)
	for _, k := range known {
		if k.Host == m.conf.Host && k.PID == state.PID {
			silent = min(silent, k.HeartbeatAge)
		}
	}
	if silent > m.conf.HungAfter {
		if said, ok := m.conf.SilentFor(state.PID); ok {
			silent = min(silent, said)
		}
	}
	p.Silent, p.Verdict = silent.Seconds(), supervise.Running
	if silent > m.conf.HungAfter {
		p.Verdict = supervise.Hung
	}
	return p, nil
}

func (p Processor) describe() lang.Message {
	switch p.Verdict {
	case supervise.StoppedByOperator:
		return lang.NewMessage(textOnPurpose, p.Stopped.By, p.Stopped.At.Local().Format(time.DateTime))
	case supervise.Running:
		return lang.NewMessage(textRunning, p.PID)
	case supervise.Hung:
		return lang.NewMessage(textHung, p.PID, time.Duration(p.Silent*float64(time.Second)).Round(time.Second))
	case supervise.NeverStarted:
		return lang.NewMessage(textNever)
	}
	return lang.NewMessage(textDead)
}

// api asks the API for its health, through the proxy: seldom, and at once where many tasks got stuck.
func (m *Monitor) api(ctx context.Context, r *Report, state *State) {
	r.API = state.API
	age := r.At.Sub(state.API.At)
	due := age < 0 || age >= APICheckInterval || len(r.Repair.Tasks) >= APICheckStuckCount
	if !due || m.conf.DryRun {
		if !r.API.OK && !r.API.At.IsZero() {
			r.problem(textAPISilent, r.API.At.Local().Format(time.TimeOnly), r.API.Error)
		}
		return
	}
	began := time.Now()
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := m.conf.Probe(bounded)
	r.API = API{At: began, OK: err == nil, Millis: time.Since(began).Milliseconds()}
	result := "answers"
	if err != nil {
		r.API.Error = m.conf.Redact(err.Error())
		result = r.API.Error
		r.problem(textAPIUnusable, r.API.Error)
	}
	state.API = r.API
	m.note("api", began, err == nil, result, "")
}

func (r *Report) problem(text lang.Text, args ...any) {
	r.Problems = append(r.Problems, lang.NewMessage(text, args...))
}

func (m *Monitor) note(what string, began time.Time, ok bool, result, action string) {
	m.checks.Add(health.Check{At: began, Name: what, OK: ok, Millis: time.Since(began).Milliseconds(), Result: result, Action: action})
	m.conf.Log.WithFields(logrus.Fields{"check": what, "ok": ok, "action": action}).Debug(result)
}

// summary is the round in one line.
func summary(r Report, err error) lang.Message {
	if err != nil {
		return lang.NewMessage(textBroken, err.Error())
	}
	repaired := lang.NewMessage(textRound, len(r.Repair.Tasks), r.Repair.Credits, r.Repair.Remaining)
	if r.Repair.DryRun {
		repaired = lang.NewMessage(textDryRun, len(r.Repair.Tasks), r.Repair.Credits)
	}
	switch {
	case r.Overdue.Count > 0 && r.Repair.DryRun:
		repaired = lang.NewMessage(textAndAction, repaired, lang.NewMessage(textWouldExpire, r.Overdue.Count))
	case r.Overdue.Count > 0:
		repaired = lang.NewMessage(textAndAction, repaired, lang.NewMessage(textExpired, r.Overdue.Count, r.Overdue.Credits))
	}
	pending := lang.NewMessage(textPending, r.Queue.Pending)
	if r.Queue.Due > 0 {
		pending = lang.NewMessage(textPendingDue, r.Queue.Pending, r.Queue.OldestDue.Round(time.Second))
	}
	processor := r.Processor.describe()
	if !r.Processor.Action.IsZero() {
		processor = lang.NewMessage(textAndAction, processor, r.Processor.Action)
	}
	return lang.NewMessage(textSummary, repaired, pending, r.Queue.Processing, processor, r.API.seen())
}

func (a API) seen() lang.Message {
	at := a.At.Local().Format(time.TimeOnly)
	switch {
	case a.At.IsZero():
		return lang.NewMessage(textAPIUnchecked)
	case a.OK:
		return lang.NewMessage(textAPIAnswered, at)
	}
	return lang.NewMessage(textAPIFailed, at)
}
