// Package monitor runs one supervision pass: it fails stuck tasks, checks database, queue, processor and API, and restarts
// a processor that is dead or hung.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/bridgesync"
	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/health"
	"imagetasks/pkg/inventory"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/repair"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
	"imagetasks/pkg/webhook"
)

// Store is what a pass needs of the store.
type Store interface {
	repair.Store
	overview.ProcessorLister
	Ping(ctx context.Context) error
	QueueStats(ctx context.Context, stuckAfter time.Duration) (store.QueueStats, error)
	Prune(ctx context.Context, c store.PruneConfig) (store.Pruned, error)
	Control(ctx context.Context) (store.Control, error)
	TasksAside(ctx context.Context, limit int) ([]store.AsideTask, error)
	Unsettled(ctx context.Context, window time.Duration, limit int) (store.Unsettled, error)
	bridgesync.Store
	overview.BridgeReader
	overview.WebhookReader
	dashboard.FigureStore
}

// Supervisor is what a pass needs to supervise this host's processor.
type Supervisor interface {
	overview.Inspector
	Revive(ctx context.Context, hung bool) (pid int, err error)
}

// PictureCleaner removes pictures that no task uses.
type PictureCleaner interface {
	Clean(ctx context.Context, p inventory.Progress) (inventory.Progress, inventory.Cleaned, error)
}

// When a pass checks the API.
const (
	APICheckInterval   = 30 * time.Minute // after the last answer
	APICheckStuckCount = 10               // or at once, after this many stuck tasks in one pass
)

// PassTimeout bounds a pass: a pass that hangs would block all later ones.
const PassTimeout = 4 * time.Minute

// repairTimeout bounds the steps before the processor's, and leaves time for it: when the database makes them wait, because of a lock for
// example, a dead processor is restarted nevertheless. A batch that was begun may take another minute.
const repairTimeout = PassTimeout / 3

// asideTime is how long a task is set aside at least before it fails. It is tried again each hour, so that a fault that passes refunds nothing.
const asideTime = 90 * time.Minute

// apiTimeout bounds the check of the API.
const apiTimeout = time.Minute

// Config configures a Monitor.
type Config struct {
	Store      Store
	Supervisor Supervisor
	Host       string // this host's name in the database
	// Check asks the endpoints for pictures, through their proxies, and returns at least one result.
	Check func(ctx context.Context) []EndpointResult
	// EndpointsFault says why this host's endpoints can't be used; empty: they can.
	EndpointsFault string
	Live           func() *overview.ProcessorReport // the report on this host's status address; nil: none responds
	Dir            string                           // directory of the state file and the lock
	Pictures       PictureCleaner                   // optional
	// Deliver delivers the completion events that are due, while no processor does; optional.
	Deliver func(ctx context.Context) (webhook.Report, error)

	BacklogAfter   time.Duration                                 // that a task may be due; 0: for any time
	Disks          func(context.Context) ([]overview.Disk, bool) // the free space of this host; optional
	StuckAfter     time.Duration
	Lease          time.Duration // after an outage of the database nothing is closed for so long, so that the owners of leases can come back
	PendingTimeout time.Duration // a task that is due for longer fails; 0: never
	HungAfter      time.Duration
	Retention      time.Duration // closed tasks older than this are deleted; 0: none
	RedriveWindow  time.Duration // input pictures of tasks that failed longer ago are deleted
	NoRestart      bool          // never restart the processor
	DryRun         bool          // change nothing

	Log    logrus.FieldLogger
	Redact func(string) string
}

// Questions are what a pass asks of the store in any case, so that it can be read ahead.
func (c Config) Questions() store.PassQuestions {
	return store.PassQuestions{Sweep: c.sweep(), PendingTimeout: c.PendingTimeout, UnsettledWindow: overview.UnsettledWindow, Limit: overview.UnsettledLimit,
		Prune: c.pruned()}
}

func (c Config) sweep() store.Sweep {
	return store.Sweep{OlderThan: c.StuckAfter, AfterStart: c.Lease}
}

func (c Config) pruned() store.PruneConfig {
	return store.PruneConfig{Retention: c.Retention, RedriveWindow: c.RedriveWindow, Batch: pruneBatch}
}

// EndpointResult is the result of checking an endpoint.
type EndpointResult struct {
	Name string
	Err  error // as imageapi.Client.Check returns it
	Took time.Duration
}

// Monitor runs passes. Pass is for one goroutine; Checks may be called from any.
type Monitor struct {
	conf   Config
	checks health.History
}

// New returns a Monitor.
func New(conf Config) *Monitor { return &Monitor{conf: conf} }

// Checks returns the last health checks, the most recent first.
func (m *Monitor) Checks() []health.Check { return m.checks.Recent() }

// Action is what a pass did about the processor.
type Action string

// The actions. Empty: nothing had to be done.
const (
	ActionNone             Action = ""
	ActionUnchanged        Action = "unchanged" // a restart was needed, and was not allowed
	ActionRestarted        Action = "restarted"
	ActionRestartFailed    Action = "restart_failed"
	ActionRestartLimit     Action = "restart_limit_reached"
	ActionHandledElsewhere Action = "handled_elsewhere" // by another process, in the meantime
)

// Processor is the state of this host's processor, and what the pass did about it.
type Processor struct {
	overview.LocalProcessor
	Action     Action `json:"action,omitempty"`
	RestartPID int    `json:"restart_pid,omitempty"` // of the processor that the pass started
}

// Summary is the result of a pass in figures.
type Summary struct {
	DryRun           bool              `json:"dry_run,omitempty"`
	StuckFailed      int               `json:"stuck_failed"` // or would have, in a dry run
	OverdueFailed    int               `json:"overdue_failed"`
	SetAsideFailed   int               `json:"set_aside_failed"` // tasks that the database had refused to change
	CreditsRefunded  int64             `json:"credits_refunded"`
	StuckRemaining   int               `json:"stuck_remaining"`
	Pending          int               `json:"pending"`
	Due              int               `json:"due"`
	OldestDueSeconds float64           `json:"oldest_due_seconds"`
	Processing       int               `json:"processing"`
	Bridge           bridgesync.Report `json:"bridge"`   // what the pass did for the application's tables
	Webhooks         webhook.Report    `json:"webhooks"` // what the pass did, if no processor runs
	Pruned           store.Pruned      `json:"pruned"`
	Pictures         inventory.Cleaned `json:"pictures"`            // once a day
	PausedBy         string            `json:"paused_by,omitempty"` // claiming is paused
	PausedAt         time.Time         `json:"paused_at,omitzero"`
	Processor        Processor         `json:"processor"`
	API              overview.APICheck `json:"api"` // of this pass, or of an earlier one
	// APIUnreachableSince is set when a running processor reports that the API is unreachable.
	APIUnreachableSince time.Time `json:"api_unreachable_since,omitzero"`
}

// Report is the result of one pass.
type Report struct {
	At             time.Time
	Repair         repair.Report
	Overdue        repair.OverdueResult
	SetAside       repair.OverdueResult // tasks that the database had refused to change
	Queue          store.QueueStats
	DatabaseMillis int64
	Summary        Summary
	Checks         []health.Check
	Findings       []finding.Finding

	// Running is how many processors are alive, on all hosts.
	Running int

	// DisksRead says that the free space of this host's disks is known.
	DisksRead bool

	databaseResponds, queueRead bool
}

// QueueState returns the state of the queue, or nil if the pass could not read it.
func (r *Report) QueueState() *store.QueueStats {
	if !r.queueRead {
		return nil
	}
	return &r.Queue
}

// DatabaseResponds reports whether the database responded at the start of the pass.
func (r Report) DatabaseResponds() bool { return r.databaseResponds }

// Pass runs one pass: each step, whatever became of the one before. It returns an error if it could not do its work, for example without
// a database. What is still wrong after the pass is in Findings.
func (m *Monitor) Pass(ctx context.Context) (Report, error) {
	r := Report{At: time.Now()}
	state := readState(m.conf.Dir)
	interrupted := ctx
	ctx, cancel := context.WithTimeout(ctx, PassTimeout)
	defer cancel()
	err := m.pass(ctx, &r, &state)
	m.cleanPictures(ctx, &r, &state)
	if err == nil && errors.Is(interrupted.Err(), context.Canceled) {
		err = interrupted.Err() // what was cut off is left to the next pass
	}
	r.Checks = m.checks.Recent()
	if err != nil {
		r.Findings = append(r.Findings, finding.Finding{Code: finding.MonitorPassIncomplete, Reason: m.conf.Redact(err.Error())})
	}
	if m.conf.DryRun {
		return r, err
	}
	if err == nil {
		state.LastPass, state.Summary = r.At, r.Summary
	}
	if err := writeState(m.conf.Dir, state); err != nil {
		r.Findings = append(r.Findings, finding.Finding{Code: finding.LogDirUnwritable, Subject: m.conf.Dir, Reason: m.conf.Redact(err.Error())})
	}
	return r, err
}

func (m *Monitor) pass(wholePass context.Context, r *Report, state *State) error {
	ctx, cancel := context.WithTimeout(wholePass, repairTimeout)
	defer cancel()
	snapshot := overview.Snapshot{Now: r.At, Host: m.conf.Host, EndpointsFault: m.conf.EndpointsFault}
	var errs []error
	step := func(name string, do func() error) {
		if err := do(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	began := time.Now()
	if err := m.conf.Store.Ping(ctx); err != nil {
		m.record("database", began, false, m.conf.Redact(err.Error()), "no repair is possible until it responds")
		state.DatabaseLost, state.DatabaseBack = r.At, time.Time{}
		m.checkLockOnly(ctx, r)
		return fmt.Errorf("the database does not respond: %w", err)
	}
	r.databaseResponds, r.DatabaseMillis = true, time.Since(began).Milliseconds()
	m.record("database", began, true, "responds", "")

	if state.settled(r.At, m.conf.Lease) {
		step("stuck tasks", func() (err error) {
			r.Repair, err = repair.Sweep(ctx, m.conf.Store, repair.Options{Sweep: m.conf.sweep(), DryRun: m.conf.DryRun}, m.conf.Log)
			return err
		})
		if m.conf.PendingTimeout > 0 {
			step("overdue tasks", func() (err error) {
				r.Overdue, err = repair.FailOverdue(ctx, m.conf.Store, m.conf.PendingTimeout, m.conf.DryRun, m.conf.Log)
				return err
			})
		}
		if !m.conf.DryRun {
			step("tasks that were set aside", func() (err error) {
				aside, err := m.conf.Store.TasksAside(ctx, overview.UnsettledLimit)
				if err == nil && len(aside) == 0 {
					return nil
				}
				r.SetAside, err = repair.FailSetAside(ctx, m.conf.Store, max(m.conf.StuckAfter, asideTime), m.conf.Log)
				return err
			})
		}
	} else {
		m.conf.Log.Infof("the database is back after an outage; nothing is closed for %s, so that processors can finish what they have", m.conf.Lease)
	}
	step("queue", func() error { return m.readQueue(ctx, r, began) })
	snapshot.Queue = r.Queue
	step("charges and refunds", func() (err error) {
		snapshot.Unsettled, err = m.conf.Store.Unsettled(ctx, overview.UnsettledWindow, overview.UnsettledLimit)
		return err
	})
	step("tasks set aside", func() (err error) {
		snapshot.SetAside, err = m.conf.Store.TasksAside(ctx, overview.UnsettledLimit)
		return err
	})
	step("pause", func() (err error) {
		snapshot.Control, err = m.conf.Store.Control(ctx)
		return err
	})
	if !m.conf.DryRun {
		step("the bridge to the application's tables", func() error { return m.workBridge(ctx, r) })
	}
	step("the state of the bridge", func() (err error) {
		snapshot.Bridge, err = overview.ReadBridge(ctx, m.conf.Store)
		return err
	})
	r.Summary.PausedBy, r.Summary.PausedAt = snapshot.Control.PausedBy, snapshot.Control.PausedAt
	ctx = wholePass
	step("processor", func() error { return m.checkProcessor(ctx, r, &snapshot) })
	if !m.conf.DryRun && m.conf.Deliver != nil && snapshot.Running() == 0 {
		step("completion events", func() error { return m.deliver(ctx, r) })
	}
	step("the state of completion events", func() (err error) {
		snapshot.Webhooks, err = overview.ReadWebhooks(ctx, m.conf.Store)
		return err
	})
	m.checkAPI(ctx, r, state, &snapshot)
	r.Running = snapshot.Running()
	snapshot.BacklogAfter = m.conf.BacklogAfter
	if m.conf.Disks != nil {
		snapshot.Disks, r.DisksRead = m.conf.Disks(ctx)
	}
	for _, f := range overview.Assess(snapshot) {
		// An operator who stopped the processor or paused claiming knows that tasks wait; cron would mail it with every pass.
		if f.Code != finding.StoppedWithDueTasks && f.Code != finding.ClaimingPaused {
			r.Findings = append(r.Findings, f)
		}
		if f.Code == finding.APIUnreachable {
			r.Summary.APIUnreachableSince = f.Since
		}
	}
	if !m.conf.DryRun {
		step("old rows", func() error { return m.prune(ctx, r) })
		if err := dashboard.RecordOnce(ctx, m.conf.Store); err != nil {
			m.conf.Log.WithError(err).Warn("the figures for the charts of the status page could not be recorded; the next pass tries again")
		}
	}
	return errors.Join(errs...)
}

// workBridge does once what processors do all the time, so that what is owed to the application's users reaches them while none runs.
func (m *Monitor) workBridge(ctx context.Context, r *Report) error {
	began := time.Now()
	done, err := bridgesync.Pass(ctx, m.conf.Store, m.conf.Log)
	r.Summary.Bridge = done
	if err == nil && !done.Active {
		return nil
	}
	result := fmt.Sprintf("%d taken over, the ends of %d written, of %d still to be written", done.Taken, done.Applied, done.Owed)
	if err != nil {
		result = m.conf.Redact(err.Error())
	}
	action := ""
	if done.Refunded > 0 {
		action = fmt.Sprintf("refunded %d credits in the application's table", done.Refunded)
	}
	m.record("bridge", began, err == nil, result, action)
	return err
}

// deliver does once what processors do all the time, so that completion events leave while none runs.
func (m *Monitor) deliver(ctx context.Context, r *Report) error {
	began := time.Now()
	done, err := m.conf.Deliver(ctx)
	r.Summary.Webhooks = done
	if err == nil && done == (webhook.Report{}) {
		return nil
	}
	result := fmt.Sprintf("%d delivered, %d attempts failed, %d given up", done.Delivered, done.Failed, done.Undelivered)
	if err != nil {
		result = m.conf.Redact(err.Error())
	}
	m.record("webhooks", began, err == nil, result, "")
	return err
}

// checkLockOnly reports on the processor without the database: whether its process runs.
func (m *Monitor) checkLockOnly(ctx context.Context, r *Report) {
	began := time.Now()
	state, err := m.conf.Supervisor.Inspect(ctx)
	if err != nil {
		m.record("processor", began, false, m.conf.Redact(err.Error()), "")
		return
	}
	p := &r.Summary.Processor
	p.PID, p.Wanted, p.Stopped = state.PID, state.Wanted, state.Stopped
	switch {
	case state.Running:
		p.Verdict = supervise.Running
	case state.Wanted:
		p.Verdict = supervise.Dead // a start needs the database
		p.Action = ActionUnchanged
	case state.Stopped != nil:
		p.Verdict = supervise.StoppedByOperator
	default:
		p.Verdict = supervise.NeverStarted
	}
	m.record("processor", began, p.Verdict != supervise.Dead, string(p.Verdict), string(p.Action))
}

const (
	// pruneBatch is how many rows one statement deletes, so that no lock is held for long.
	pruneBatch = 1000
	// pruneTime bounds the pruning of one pass; the next one goes on.
	pruneTime = 30 * time.Second
)

// prune deletes rows that are not needed any more.
func (m *Monitor) prune(ctx context.Context, r *Report) error {
	for began := time.Now(); ; {
		pruned, err := m.conf.Store.Prune(ctx, m.conf.pruned())
		r.Summary.Pruned.Add(pruned)
		if err != nil || !pruned.More(pruneBatch) || time.Since(began) > pruneTime {
			return err
		}
	}
}

// cleanPictures removes pictures that no task uses, once a day. What is wrong with the pictures delays nothing else.
func (m *Monitor) cleanPictures(ctx context.Context, r *Report, state *State) {
	if m.conf.Pictures == nil || m.conf.DryRun || !r.databaseResponds || !state.Pictures.Due(r.At) {
		return
	}
	began := time.Now()
	progress, cleaned, err := m.conf.Pictures.Clean(ctx, state.Pictures)
	state.Pictures, r.Summary.Pictures = progress, cleaned
	result := fmt.Sprintf("%d checked", cleaned.Checked)
	if err != nil {
		result = m.conf.Redact(err.Error())
		r.Findings = append(r.Findings, finding.Finding{Code: finding.PictureCleaningFailed, Reason: result})
	}
	action := ""
	if cleaned.Removed > 0 {
		action = fmt.Sprintf("removed %d that no task uses", cleaned.Removed)
		m.conf.Log.WithField("bytes", cleaned.Bytes).Infof("pictures that no task uses: %d removed", cleaned.Removed)
	}
	m.record("pictures", began, err == nil, result, action)
}

// readQueue reads the state of the queue, and sums up what was repaired.
func (m *Monitor) readQueue(ctx context.Context, r *Report, began time.Time) error {
	var err error
	r.Queue, err = m.conf.Store.QueueStats(ctx, m.conf.StuckAfter)
	s := &r.Summary
	s.DryRun, s.StuckFailed, s.StuckRemaining, s.OverdueFailed = m.conf.DryRun, len(r.Repair.Tasks), r.Repair.Remaining, r.Overdue.Count
	s.SetAsideFailed = r.SetAside.Count
	s.CreditsRefunded = r.Repair.Credits + r.Overdue.Credits + r.SetAside.Credits
	s.Pending, s.Due, s.OldestDueSeconds, s.Processing = r.Queue.Pending, r.Queue.Due, r.Queue.OldestDue.Seconds(), r.Queue.Processing
	if err != nil {
		m.record("queue", began, false, m.conf.Redact(err.Error()), "")
		return err
	}
	r.queueRead = true
	action := ""
	if n := s.StuckFailed + s.OverdueFailed + s.SetAsideFailed; n > 0 && !m.conf.DryRun {
		action = fmt.Sprintf("failed %d and refunded %d credits", n, s.CreditsRefunded)
	}
	m.record("queue", began, r.Repair.Remaining == 0,
		fmt.Sprintf("%d pending, %d processing, %d stuck", r.Queue.Pending, r.Queue.Processing, r.Queue.Stuck), action)
	return nil
}

func (m *Monitor) record(name string, began time.Time, ok bool, result, action string) {
	m.checks.Add(health.Check{At: began, Name: name, OK: ok, Millis: time.Since(began).Milliseconds(), Result: result, Action: action})
	m.conf.Log.WithFields(logrus.Fields{"check": name, "ok": ok, "action": action}).Debug(result)
}
