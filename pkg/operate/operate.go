// Package operate does what an operator asks for on the status page: it redrives and cancels tasks, fails those that are stuck, pauses and resumes
// claiming, and grants credits. Everything that is done is in the log of operations, with who did it.
package operate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"imagetasks/pkg/lang"
	"imagetasks/pkg/repair"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Store is what this package needs of the store.
type Store interface {
	repair.Store
	Task(ctx context.Context, id string) (store.TaskRow, error)
	CancelBy(ctx context.Context, o store.Operation, taskID, userID string) (store.Cancelled, error)
	RedriveBy(ctx context.Context, o store.Operation, taskID string, run int) (store.Redriven, error)
	GrantCreditsBy(ctx context.Context, o store.Operation, userID string, credits int64, reason, key string) (int64, error)
	PauseBy(ctx context.Context, o store.Operation, reason string) (store.Control, error)
	PauseScope(ctx context.Context, o store.Operation, scope store.Scope, name, reason string) (store.Control, error)
	ResumeBy(ctx context.Context, o store.Operation) error
	ResumeScope(ctx context.Context, o store.Operation, scope store.Scope, name string) (bool, error)
	Control(ctx context.Context) (store.Control, error)
	NoteOperation(ctx context.Context, o store.Operation, e store.OperationEntry) error
	Operations(ctx context.Context, limit int) ([]store.OperationEntry, error)
}

// Config configures an Operator.
type Config struct {
	Store      Store
	StuckAfter time.Duration
	Lease      time.Duration // time that processors get to come back after an outage of the database
	// Endpoints returns the names of the endpoints that processors use; an error or none: they are not known.
	Endpoints func(ctx context.Context) ([]string, error)
	Log       logrus.FieldLogger
	Redact    func(string) string
}

// Operator acts for people. It is safe for concurrent use.
type Operator struct {
	conf   Config
	fixing chan struct{} // holds one: FixStuck
}

// New returns an Operator.
func New(c Config) *Operator { return &Operator{conf: c, fixing: make(chan struct{}, 1)} }

// Result is what was done.
type Result struct {
	Message lang.Message
	Details map[string]any
}

// The bounds of texts that people enter.
const (
	maxReason = 500
	maxName   = 2000
)

// Operations returns up to limit entries of the log of operations, the newest first.
func (o *Operator) Operations(ctx context.Context, limit int) ([]store.OperationEntry, error) {
	entries, err := o.conf.Store.Operations(ctx, limit)
	return entries, o.explain(err)
}

// Redrive begins the next run of a failed task. run is the one that failed, 0: the current one. A repeat with the same run charges nothing more.
func (o *Operator) Redrive(ctx context.Context, who, taskID string, run int) (Result, error) {
	if !isID(taskID) || run < 0 {
		return Result{}, refusal(Invalid, textNoTask)
	}
	t, err := o.conf.Store.Task(ctx, taskID)
	if err != nil {
		return Result{}, o.explain(err)
	}
	if run == 0 || run == t.Run {
		if run = t.Run; t.State != task.Failed {
			return Result{}, refusal(Conflict, textNotFailed, taskID, string(t.State))
		}
	}
	done, err := o.conf.Store.RedriveBy(ctx, store.By(who), taskID, run)
	if err != nil {
		return Result{}, o.explain(err)
	}
	return Result{lang.NewMessage(textRedriven, taskID, done.Run, done.Balance),
		map[string]any{"task_id": taskID, "run": done.Run, "balance": done.Balance}}, nil
}

// Cancel cancels a task that is not closed, and refunds it. A repeat changes nothing.
func (o *Operator) Cancel(ctx context.Context, who, taskID string) (Result, error) {
	if !isID(taskID) {
		return Result{}, refusal(Invalid, textNoTask)
	}
	done, err := o.conf.Store.CancelBy(ctx, store.By(who), taskID, "")
	if err != nil {
		return Result{}, o.explain(err)
	}
	if done.State != task.Cancelled {
		return Result{}, refusal(Conflict, textClosed, taskID, string(done.State))
	}
	message := lang.NewMessage(textCancelled, taskID, done.Refunded, done.Balance)
	if done.MissingCharge {
		message = lang.NewMessage(textCancelledMissing, taskID)
	}
	return Result{message, map[string]any{"task_id": taskID, "refunded": done.Refunded, "balance": done.Balance, "missing_charge": done.MissingCharge}}, nil
}

// The bounds of FixStuck: more are left for the next one, or for the monitor.
const (
	maxStuck   = 2000
	fixingTime = 12 * time.Second
)

// FixStuck fails and refunds tasks that are stuck, as fix-stuck-tasks does.
func (o *Operator) FixStuck(ctx context.Context, who string) (Result, error) {
	select {
	case o.fixing <- struct{}{}:
	default:
		return Result{}, refusal(Conflict, textFixing)
	}
	defer func() { <-o.fixing }()
	note := func(ctx context.Context, result string) error {
		return NoteFix(ctx, o.conf.Store, who, o.conf.StuckAfter, result)
	}
	if err := note(ctx, "begun"); err != nil {
		return Result{}, o.explain(err)
	}
	bounded, cancel := context.WithTimeout(ctx, fixingTime)
	defer cancel()
	done, err := repair.Sweep(bounded, o.conf.Store, repair.Options{Sweep: store.Sweep{OlderThan: o.conf.StuckAfter, Limit: maxStuck, AfterStart: o.conf.Lease}}, o.conf.Log)
	if err != nil && len(done.Tasks) == 0 {
		_ = note(context.WithoutCancel(ctx), "failed") // an entry says that it was begun
		return Result{}, o.explain(err)
	}
	if err := note(context.WithoutCancel(ctx), FixResult(done)); err != nil {
		o.conf.Log.WithError(err).Warn("the result of fix-stuck is not in the log of operations")
	}
	details := map[string]any{"failed": len(done.Tasks), "credits_refunded": done.Credits, "remaining": done.Remaining}
	message := lang.NewMessage(textFixed, len(done.Tasks), done.Credits, done.Remaining)
	if len(done.Tasks) == 0 && done.Remaining > 0 {
		message = lang.NewMessage(textNotFixed, done.Remaining, o.conf.Lease)
		if control, err := o.conf.Store.Control(ctx); err == nil && control.Copied {
			message = lang.NewMessage(textCopied)
		}
	}
	return Result{message, details}, nil
}

// noteTimeout bounds the entry about an act that is over.
const noteTimeout = 10 * time.Second

// Log is the log of operations.
type Log interface {
	NoteOperation(ctx context.Context, o store.Operation, e store.OperationEntry) error
}

// NoteFix adds an entry about a repair of stuck tasks, which is many transactions: one before it begins, and one after it.
func NoteFix(ctx context.Context, st Log, who string, stuckAfter time.Duration, result string) error {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	return st.NoteOperation(ctx, store.By(who), store.OperationEntry{What: "fix-stuck", Detail: "processing for longer than " + stuckAfter.String(), Result: result})
}

// FixResult describes a repair for the log of operations.
func FixResult(done repair.Report) string {
	what := "failed"
	if done.Requeued {
		what = "requeued"
	}
	return fmt.Sprintf("%d %s, %d credits refunded, %d left", len(done.Tasks), what, done.Credits, done.Remaining)
}

// Pause pauses claiming for the queue, an endpoint or a model, over all processors.
func (o *Operator) Pause(ctx context.Context, who string, scope store.Scope, name, reason string) (Result, error) {
	if reason = strings.TrimSpace(reason); reason == "" {
		reason = "no reason given"
	}
	if !isText(reason, maxReason) {
		return Result{}, refusal(Invalid, textNoReason, maxReason)
	}
	if why := o.checkScope(ctx, scope, name, true); why != nil {
		return Result{}, why
	}
	reason = o.conf.Redact(reason)
	var control store.Control
	var err error
	if scope == store.ScopeQueue {
		control, err = o.conf.Store.PauseBy(ctx, store.By(who), reason)
	} else {
		control, err = o.conf.Store.PauseScope(ctx, store.By(who), scope, name, reason)
	}
	if err != nil {
		return Result{}, o.explain(err)
	}
	return Result{lang.NewMessage(textPaused, scopeName(scope, name)), map[string]any{"pauses": control.Pauses()}}, nil
}

// Resume ends the pause of the queue, an endpoint or a model.
func (o *Operator) Resume(ctx context.Context, who string, scope store.Scope, name string) (Result, error) {
	if why := o.checkScope(ctx, scope, name, false); why != nil {
		return Result{}, why
	}
	var err error
	paused := true
	if scope == store.ScopeQueue {
		err = o.conf.Store.ResumeBy(ctx, store.By(who))
	} else {
		paused, err = o.conf.Store.ResumeScope(ctx, store.By(who), scope, name)
	}
	if err != nil {
		return Result{}, o.explain(err)
	}
	text := textResumed
	if !paused {
		text = textNotPaused
	}
	return Result{lang.NewMessage(text, scopeName(scope, name)), map[string]any{"scope": scope, "name": name}}, nil
}

// checkScope returns why something can't be paused or resumed.
func (o *Operator) checkScope(ctx context.Context, scope store.Scope, name string, pause bool) error {
	switch scope {
	case store.ScopeQueue:
		if name != "" {
			return refusal(Invalid, textNoScope)
		}
		return nil
	case store.ScopeEndpoint, store.ScopeModel:
		if !isText(name, maxName) || strings.TrimSpace(name) != name {
			return refusal(Invalid, textNoScope)
		}
	default:
		return refusal(Invalid, textNoScope)
	}
	if scope == store.ScopeEndpoint && pause && o.conf.Endpoints != nil {
		if known, err := o.conf.Endpoints(ctx); err == nil && len(known) > 0 && !slices.Contains(known, name) {
			return refusal(NotFound, textUnknownEndpoint, name, strings.Join(known, ", "))
		}
	}
	return nil
}

// Grant adds credits to a user's balance. A repeat with the same key adds nothing.
func (o *Operator) Grant(ctx context.Context, who, user string, credits int64, reason, key string) (Result, error) {
	switch {
	case !isID(user):
		return Result{}, refusal(Invalid, textNoUser)
	case credits < 1 || credits > store.MaxCost:
		return Result{}, refusal(Invalid, textNoCredits, int64(store.MaxCost))
	case key == "" || !isID(key):
		return Result{}, refusal(Invalid, textNoKey)
	}
	if reason = strings.TrimSpace(reason); reason == "" || !isText(reason, maxReason) {
		return Result{}, refusal(Invalid, textNoReason, maxReason)
	}
	id := uuid.NewSHA1(uuid.NameSpaceOID, []byte("grant "+key)) // a second click is the same operation
	balance, err := o.conf.Store.GrantCreditsBy(ctx, store.Operation{ID: id, Who: who}, user, credits, reason, key)
	if err != nil {
		return Result{}, o.explain(err)
	}
	return Result{lang.NewMessage(textGranted, credits, user, balance), map[string]any{"user_id": user, "granted": credits, "balance": balance}}, nil
}
