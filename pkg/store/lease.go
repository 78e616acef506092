package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"imagetasks/pkg/task"
)

// ClaimRequest describes the tasks to claim.
type ClaimRequest struct {
	Worker      string        // the claiming processor, stored in leased_by
	Limit       int           // maximum number of tasks
	Lease       time.Duration // time until the leases expire unless renewed
	MaxAttempts int           // for tasks without their own
	// MaxLostClaims is how often in a row a task's claims may be lost; it is claimed once more, to look for what is paid for already,
	// and FailAbandoned fails it after that. 0: any number.
	MaxLostClaims int
	// Expired is how many of the tasks may have an expired lease. If the server was started within the time of AfterStart, none has, because
	// until then their owners may come back.
	Expired    int
	AfterStart time.Duration
	// Alone: the processor works on nothing else. Only then may the result be a task whose claims were lost twice in a row, and then it is the
	// only one.
	Alone bool
	// SkipModels are models whose tasks are not claimed, OnlyModels the only ones whose tasks are (nil: all). A task without a model has
	// the name "". Tasks with a Pending result need no model: both leave them out of account.
	SkipModels []string
	OnlyModels []string
	// PendingOnly: only tasks with a Pending result are claimed.
	PendingOnly bool
	// Endpoints are all endpoints that are configured. Task.Endpoint of the result is the name of the one that was chosen for a paid request; a task
	// whose model none of them has gets none. nil: none is chosen.
	Endpoints []ClaimEndpoint
	// Trial: tasks that can't be claimed because of their models stay where they are, for the next claim without it.
	Trial  bool
	CallID uuid.UUID // of this call, the same for its repeats; zero: a new one
}

// ClaimEndpoint is an endpoint that a claim may choose. Its rate and concurrency hold over all processors: the claim takes a permit for each task.
type ClaimEndpoint struct {
	Name       string   `json:"name"`
	Address    string   `json:"address,omitempty"` // under which requests may have been recorded, too
	Models     []string `json:"models,omitempty"`  // of tasks; nil: all
	Skip       []string `json:"skip,omitempty"`    // models that are not claimed for it now
	Default    string   `json:"default,omitempty"` // the model of tasks without one
	Max        *int     `json:"max,omitempty"`     // how many tasks the claim may choose it for; nil: any number
	Rate       int      `json:"rate,omitempty"`    // paid requests a minute; 0: no limit
	Concurrent int      `json:"concurrency,omitempty"`
	Preference int      `json:"preference"` // the lowest that has a free permit and the model is chosen
	Weight     int      `json:"weight,omitempty"`
}

// Suspect reports whether a task's processor may have ended because of the task, so that nothing else may be in flight with it.
func Suspect(t task.Task) bool { return t.LostClaims >= suspectClaims }

// suspectClaims is how many lost claims in a row make a task suspect. It stands in the function claim, too.
const suspectClaims = 2

// Claim claims up to r.Limit tasks and raises their lease_epoch: tasks with an expired lease first, then tasks that
// may start, by priority and turn. It returns no error when there are none, or while claiming is paused. A repeat with the same
// CallID returns the same leases, as far as they still hold. A task that makes the claim fail is set aside, and the others are claimed.
func (s *Store) Claim(ctx context.Context, r ClaimRequest) ([]task.Task, error) {
	tasks, err := s.claim(ctx, r, nil)
	if err == nil || !isRowError(err) {
		return tasks, err
	}
	candidates, listErr := s.queryTexts(ctx, s.sql.claimable, r.Limit+commonFault) // beyond bad rows that come first
	if listErr != nil {
		return nil, listErr
	}
	claimed := tasks[:0]
	err = s.eachByItself(ctx, "claim", candidates, err, func(id string) (bool, error) {
		if len(claimed) == r.Limit || len(claimed) > 0 && Suspect(claimed[0]) {
			return false, nil
		}
		one := r
		one.CallID, one.Limit, one.Alone = uuid.New(), 1, r.Alone && len(claimed) == 0
		got, err := s.claim(ctx, one, []string{id})
		if len(got) > 0 && got[0].LostClaims > 0 {
			r.Expired--
		}
		claimed = append(claimed, got...)
		return len(got) > 0, err
	})
	if len(claimed) > 0 {
		return claimed, nil
	}
	return nil, err
}

func (s *Store) claim(ctx context.Context, r ClaimRequest, only []string) ([]task.Task, error) {
	maxLost := r.MaxLostClaims
	if maxLost <= 0 {
		maxLost = math.MaxInt32
	}
	var endpoints any
	if r.Endpoints != nil {
		list, err := json.Marshal(r.Endpoints)
		if err != nil {
			return nil, fmt.Errorf("claim: %w", err)
		}
		endpoints = string(list)
	}
	var tasks []task.Task
	err := s.query(ctx, s.sql.claim, func(rows *sql.Rows) error {
		var t task.Task
		var p task.PendingResult
		var age, gone, waited int64
		var usage string
		err := rows.Scan(&t.ID, &t.Run, &t.UserID, &t.Prompt, &t.Options, &t.Model, &t.Inputs, &t.Attempt, &t.MaxAttempts, &t.Epoch,
			&t.RequestsSent, &t.UnknownOutcomes, &t.LostClaims, &p.Ref, &p.RequestID, &p.Endpoint, &age, &p.Gone, &gone,
			&usage, &t.Endpoint, &t.SentTo, &waited, &t.Charged)
		t.Waited = time.Duration(waited) * time.Millisecond
		if usage != "" && err == nil {
			err = json.Unmarshal([]byte(usage), &p.Usage)
		}
		if p.Ref != "" {
			p.Age, p.GoneFor = time.Duration(age)*time.Millisecond, time.Duration(gone)*time.Millisecond
			t.Pending = &p
		}
		tasks = append(tasks, t)
		return err
	}, callID(r.CallID), r.Worker, r.Limit, r.Lease.Milliseconds(), r.MaxAttempts, maxLost, r.Expired, r.AfterStart.Milliseconds(), r.Alone, pq.Array(only),
		pq.Array(r.SkipModels), pq.Array(r.OnlyModels), r.PendingOnly, endpoints, !r.Trial)
	return tasks, err
}

// HasSuspect reports whether a task waits for a processor that works on nothing else (ClaimRequest.Alone).
func (s *Store) HasSuspect(ctx context.Context, maxLostClaims int) (bool, error) {
	var found bool
	err := s.queryRow(ctx, s.sql.hasSuspect, []any{maxLostClaims}, &found)
	return found, err
}

// RequestStart is a paid request that is about to be sent under a lease.
type RequestStart struct {
	Lease    task.Lease
	Call     uuid.UUID // of this request: a repeat with the same id records nothing more
	Endpoint string
	Rate     int // paid requests a minute that the endpoint may get; 0: no limit
}

// RequestStarted is what became of a RequestStart.
type RequestStarted struct {
	Lease task.Lease
	// Key is the idempotency key of the request: that of the run's last request while its outcome is unknown, else a new one.
	Key string
	// Wait is positive if nothing was recorded: the permit of the claim is too old by the endpoint's rate, and the call is to be repeated after it.
	Wait time.Duration
}

// BeginRequests records that paid requests are about to be sent. Those whose lease is not held are missing in the result, which is in no particular
// order.
func (s *Store) BeginRequests(ctx context.Context, starts ...RequestStart) ([]RequestStarted, error) {
	ids, calls, endpoints := make([]string, len(starts)), make([]string, len(starts)), make([]string, len(starts))
	epochs, rates := make([]int64, len(starts)), make([]int64, len(starts))
	for i, r := range starts {
		ids[i], epochs[i], calls[i], endpoints[i], rates[i] = r.Lease.TaskID, r.Lease.Epoch, callID(r.Call), r.Endpoint, int64(r.Rate)
	}
	var started []RequestStarted
	err := s.query(ctx, s.sql.beginRequests, func(rows *sql.Rows) error {
		var r RequestStarted
		var ms int64
		err := rows.Scan(&r.Lease.TaskID, &r.Lease.Epoch, &r.Key, &ms)
		if r.Key == "" {
			r.Wait = max(time.Duration(ms)*time.Millisecond, time.Millisecond)
		}
		started = append(started, r)
		return err
	}, pq.Array(ids), pq.Array(epochs), pq.Array(calls), pq.Array(endpoints), pq.Array(rates))
	return started, err
}

// BeginRequest records one paid request, as BeginRequests does. It returns task.ErrLeaseLost if the lease is not held.
func (s *Store) BeginRequest(ctx context.Context, l task.Lease, call uuid.UUID, endpoint string, rate int) (key string, wait time.Duration, err error) {
	started, err := s.BeginRequests(ctx, RequestStart{Lease: l, Call: call, Endpoint: endpoint, Rate: rate})
	if err != nil {
		return "", 0, err
	}
	if len(started) == 0 {
		return "", 0, task.ErrLeaseLost
	}
	return started[0].Key, started[0].Wait, nil
}

// PermitWait returns the time until a claim may choose one of the endpoints by its rate; 0: now.
func (s *Store) PermitWait(ctx context.Context, names []string) (time.Duration, error) {
	var ms int64
	err := s.queryRow(ctx, s.sql.permitWait, []any{pq.Array(names)}, &ms)
	return time.Duration(ms) * time.Millisecond, err
}

// SaveProgress records how far leased tasks are. Leases that are lost, and rows that somebody else has locked, are left out.
func (s *Store) SaveProgress(ctx context.Context, progress []LeaseRenewal) error {
	ids, epochs, percents, stages := renewalColumns(progress)
	_, err := s.queryTextsOn(ctx, s.heartbeats, s.sql.saveProgress, ids, epochs, percents, stages)
	return err
}

// callID returns the id of a call.
func callID(given uuid.UUID) string {
	if given == uuid.Nil {
		given = uuid.New()
	}
	return given.String()
}

// Admit lets the next tasks of a user start, as far as USER_CONCURRENCY allows. It is called after a task of the
// user left the state processing. It waits a second at most for a transaction that has locked the user.
func (s *Store) Admit(ctx context.Context, user string) error {
	_, err := s.admit(ctx, []string{user}, true)
	return err
}

func (s *Store) admit(ctx context.Context, users []string, wait bool) (int, error) {
	var n int
	err := s.queryRow(ctx, s.sql.admit, []any{pq.Array(users), wait}, &n)
	return n, err
}

// The sizes of AdmitAll's calls.
const (
	admitUsers = 200
	admitTasks = 1000 // the function returns this many or more when it may find more
)

// AdmitAll is Admit for all users: it makes up for calls of Admit that were missed, and admits
// all tasks after USER_CONCURRENCY was switched off. Users that are locked are left out.
func (s *Store) AdmitAll(ctx context.Context) error {
	after := ""
	for {
		users, err := s.queryTexts(ctx, s.sql.heldUsers, after, admitUsers)
		if err != nil || len(users) == 0 {
			return err
		}
		for n := admitTasks; n >= admitTasks; {
			if n, err = s.admit(ctx, users, false); err != nil {
				return err
			}
		}
		after = users[len(users)-1]
	}
}

// Inputs returns the input pictures of a leased task, the mask included. It returns task.ErrLeaseLost if the lease is not held, and a
// *task.Error if the task has lost its pictures.
func (s *Store) Inputs(ctx context.Context, l task.Lease) ([]task.Input, error) {
	var out []task.Input
	held := false
	err := s.query(ctx, s.sql.inputs, func(rows *sql.Rows) error {
		var in task.Input
		var stored bool
		err := rows.Scan(&in.Mask, &in.Content, &in.URL, &stored)
		held = true
		if stored {
			out = append(out, in)
		}
		return err
	}, l.TaskID, l.Epoch)
	switch {
	case err != nil:
		return nil, err
	case !held:
		return nil, task.ErrLeaseLost
	case len(out) == 0:
		return nil, &task.Error{Code: task.CodeInputUnavailable, Disposition: task.Fail, NotSent: true, Message: "the input pictures of the task were deleted"}
	}
	return out, nil
}

// LeaseRenewal renews the lease of one task and reports its progress.
type LeaseRenewal struct {
	Lease    task.Lease
	Progress int // percent; values outside 0 to 100 are clamped
	Stage    string
}

// RenewLeases extends the leases by the given time from now, in one statement, and returns those that are still held, and how many of
// them were not extended because somebody else has locked their rows: call it again soon. A lease missing from the result is lost: the
// task was claimed again, released or closed.
func (s *Store) RenewLeases(ctx context.Context, lease time.Duration, renewals []LeaseRenewal) (held []task.Lease, locked int, err error) {
	if len(renewals) == 0 {
		return nil, 0, nil
	}
	held, locked, err = s.renewLeases(ctx, lease, renewals)
	if err == nil || !isRowError(err) {
		return held, locked, err
	}
	// One row that can't be changed must not let the leases of the others expire.
	held, locked = nil, 0
	failed := 0
	for _, r := range renewals {
		one, n, err := s.renewLeases(ctx, lease, []LeaseRenewal{r})
		switch {
		case err == nil:
			held, locked = append(held, one...), locked+n
		case isRowError(err):
			held = append(held, r.Lease)
			failed++
		default:
			return held, locked, err
		}
	}
	if failed == len(renewals) && failed > 1 { // not the fault of the rows
		return nil, 0, err
	}
	return held, locked, nil
}

func (s *Store) renewLeases(ctx context.Context, lease time.Duration, renewals []LeaseRenewal) (held []task.Lease, locked int, err error) {
	ids, epochs, progress, stages := renewalColumns(renewals)
	err = s.queryOn(ctx, s.heartbeats, s.sql.renewLeases, func(rows *sql.Rows) error {
		var l task.Lease
		var renewed bool
		err := rows.Scan(&l.TaskID, &l.Epoch, &renewed)
		held = append(held, l)
		if !renewed {
			locked++
		}
		return err
	}, ids, epochs, progress, stages, lease.Milliseconds())
	return held, locked, err
}

// renewalColumns returns renewals as four array parameters.
func renewalColumns(renewals []LeaseRenewal) (ids, epochs, percents, stages any) {
	leases := make([]task.Lease, len(renewals))
	percent, stage := make([]int64, len(renewals)), make([]string, len(renewals))
	for i, r := range renewals {
		leases[i], percent[i], stage[i] = r.Lease, int64(min(max(r.Progress, 0), 100)), r.Stage
	}
	ids, epochs = leaseColumns(leases)
	return ids, epochs, pq.Array(percent), pq.Array(stage)
}

// Retry returns a task to the queue, due after wait. The attempt is used. It returns task.ErrLeaseLost if the lease is
// not held. A repeat after a lost answer returns nil as the first call did.
func (s *Store) Retry(ctx context.Context, l task.Lease, wait time.Duration, cause *task.Error) error {
	ids, err := s.queryTexts(ctx, s.sql.retry, l.TaskID, l.Epoch, wait.Milliseconds(),
		string(cause.Code), cause.Error(), cause.RequestID, cause.Endpoint, answer(cause))
	if err != nil || len(ids) > 0 {
		return err
	}
	ids2, epochs := leaseColumns([]task.Lease{l})
	recorded, err := s.queryLeases(ctx, s.sql.recordedOutcomes, ids2, epochs, "retry")
	if err == nil && len(recorded) == 0 {
		return task.ErrLeaseLost
	}
	return err
}

// answer is what is recorded of the request that is open (requestAnswered in statements.go).
func answer(cause *task.Error) string {
	switch {
	case cause != nil && cause.InProgress && !cause.Unknown:
		return "in progress"
	case cause == nil || cause.Unknown:
		return "unknown"
	case cause.NotSent:
		return "unsent"
	}
	return "answered"
}

// ReleaseRequest describes one task to release.
type ReleaseRequest struct {
	Lease task.Lease
	Wait  time.Duration // time until the task may be claimed again
	Cause *task.Error   // optional
	// Lost: the claim counts as lost, as if the processor had ended.
	Lost bool
	// Unstarted: nothing was begun, so that nothing is known that the claims before did not show: as many as were lost in a row still are.
	Unstarted bool
}

// Release returns tasks to the queue without using an attempt, and returns the leases that were released, by this call or by an earlier
// one whose answer was lost.
func (s *Store) Release(ctx context.Context, requests ...ReleaseRequest) ([]task.Lease, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	n := len(requests)
	leases, waits := make([]task.Lease, n), make([]int64, n)
	codes, messages, answers := make([]string, n), make([]string, n), make([]string, n)
	requestIDs, endpoints, lost, gone := make([]string, n), make([]string, n), make([]sql.NullBool, n), make([]bool, n)
	for i, r := range requests {
		leases[i], waits[i], answers[i], lost[i] = r.Lease, r.Wait.Milliseconds(), answer(r.Cause), sql.NullBool{Bool: r.Lost, Valid: !r.Unstarted}
		if r.Cause != nil {
			codes[i], messages[i] = string(r.Cause.Code), r.Cause.Error()
			requestIDs[i], endpoints[i], gone[i] = r.Cause.RequestID, r.Cause.Endpoint, r.Cause.Gone
		}
	}
	ids, epochs := leaseColumns(leases)
	released, err := s.queryLeases(ctx, s.sql.release, ids, epochs, pq.Array(waits), pq.Array(codes), pq.Array(messages),
		pq.Array(requestIDs), pq.Array(endpoints), pq.Array(answers), pq.Array(lost), pq.Array(gone))
	if err != nil || len(released) == n {
		return released, err
	}
	// The result includes the tasks just released, because the first statement has committed.
	return s.queryLeases(ctx, s.sql.recordedOutcomes, ids, epochs, "release")
}

// leaseColumns returns the leases as two array parameters.
func leaseColumns(leases []task.Lease) (ids, epochs any) {
	id, epoch := make([]string, len(leases)), make([]int64, len(leases))
	for i, l := range leases {
		id[i], epoch[i] = l.TaskID, l.Epoch
	}
	return pq.Array(id), pq.Array(epoch)
}

// queryLeases runs a statement that returns task ids and epochs. The epoch is part of the result because a call may
// name several leases on the same task, of which at most one is held.
func (s *Store) queryLeases(ctx context.Context, st statement, args ...any) ([]task.Lease, error) {
	var out []task.Lease
	err := s.query(ctx, st, func(rows *sql.Rows) error {
		var l task.Lease
		err := rows.Scan(&l.TaskID, &l.Epoch)
		out = append(out, l)
		return err
	}, args...)
	return out, err
}
