// Package dashboard collects everything that the page at the status address shows at once, and records the figures of each minute that its charts
// are made of. All browsers together cost the database as much as one: what is read is kept for a while.
package dashboard

import (
	"time"

	"imagetasks/pkg/health"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Text is a text for people in both languages.
type Text struct {
	EN string `json:"en"`
	ZH string `json:"zh"`
}

// NewText renders a text.
func NewText(t lang.Text, args ...any) Text {
	return Text{t.In(lang.EN, args...), t.In(lang.ZH, args...)}
}

// Document is the document at /api/overview.
type Document struct {
	AsOf     time.Time `json:"as_of,omitzero"` // by the database's clock, when the live part was read; it stays while the database does not respond. Missing: it never has
	TimeZone TimeZone  `json:"time_zone"`
	Version  string    `json:"version"`
	Host     string    `json:"host"`
	ServedBy Program   `json:"served_by"`

	Well     bool      `json:"well"` // the database responds, and there are no problems
	Database Database  `json:"database"`
	Problems []Problem `json:"problems"` // the most urgent first

	Tasks     Tasks   `json:"tasks"`
	OldestDue float64 `json:"oldest_due_seconds"`
	Paused    []Pause `json:"paused"`

	Processors    []Processor    `json:"processors"`
	Endpoints     []Endpoint     `json:"endpoints"`
	Models        []Model        `json:"models"` // that endpoints list, and those that are paused or out of order
	Proxies       []Proxy        `json:"proxies"`
	PictureStores []PictureStore `json:"picture_stores"`
	HealthChecks  []health.Check `json:"health_checks"` // the latest first

	Failures []Failure `json:"failures"` // of the last 24 hours, by cause, the most frequent first
	Recent   []Recent  `json:"recent"`   // tasks that were closed, the latest first
	Days     []Day     `json:"days"`     // the latest first; those that were not read yet are missing

	Bridge   *overview.Bridge   `json:"bridge"`   // null: there is none
	Webhooks *overview.Webhooks `json:"webhooks"` // null: not read yet
}

// Program is a program that serves the page.
type Program string

// The programs that serve the page.
const (
	TaskProcessor Program = "task-processor"
	MonitorTasks  Program = "monitor-tasks"
)

// TimeZone is the server's, in which days are counted.
type TimeZone struct {
	Name          string `json:"name"`
	OffsetMinutes int    `json:"offset_minutes"` // east of UTC
}

// Database says whether the database responds.
type Database struct {
	OK    bool      `json:"ok"`
	Since time.Time `json:"since,omitzero"` // it has not responded since then
	Error string    `json:"error"`
}

// Severity says how urgent a problem is.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error"   // tasks fail, wait, or may be lost
	SeverityWarning Severity = "warning" // tasks are made nevertheless
)

// Problem is something that is wrong.
type Problem struct {
	Code     string    `json:"code"`
	Severity Severity  `json:"severity"`
	Subject  string    `json:"subject"` // what it is about: an endpoint, a proxy, a host
	Since    time.Time `json:"since,omitzero"`
	What     Text      `json:"what"`
	Hint     *Text     `json:"hint"` // null: there is none
	Do       string    `json:"do"`   // the command to run next; empty: there is none
}

// Tasks are the numbers of tasks; none is counted twice.
type Tasks struct {
	Due        int `json:"due"`
	Later      int `json:"later"`      // their time has not come, or they wait for a retry
	Processing int `json:"processing"` // and not stuck
	Stuck      int `json:"stuck"`

	// Closed within ClosedWindow.
	Completed    int    `json:"completed"`
	Failed       int    `json:"failed"`
	Cancelled    int    `json:"cancelled"`
	ClosedWindow string `json:"closed_window"` // 24h
}

// Pause is something that is paused by an operator, or because the database is a copy.
type Pause struct {
	Scope  string    `json:"scope"` // queue, endpoint or model
	Name   string    `json:"name"`  // of the endpoint or model
	Since  time.Time `json:"since,omitzero"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
}

// Processor is a processor on any host.
type Processor struct {
	Worker        string    `json:"worker"`
	Host          string    `json:"host"`
	PID           int       `json:"pid"`
	Version       string    `json:"version"`
	Alive         bool      `json:"alive"`
	Started       time.Time `json:"started"`
	SilentSeconds float64   `json:"silent_seconds"` // since its last heartbeat
	InFlight      int       `json:"in_flight"`
	Concurrency   int       `json:"concurrency"`
	PaidRequests  int       `json:"paid_requests"` // of the tasks in flight, those that wait for the answer to one
	Completed     int       `json:"completed"`     // since it started
	Failed        int       `json:"failed"`
	LeasesFailing time.Time `json:"leases_failing_since,omitzero"`
}

// State is that of a circuit.
type State string

// The states: closed works, open does not, half_open is being tried.
const (
	StateClosed   State = "closed"
	StateOpen     State = "open"
	StateHalfOpen State = "half_open"
)

// Circuit is the state of something that may be out of order: the worst that a running processor reports.
type Circuit struct {
	State     State     `json:"state"`
	Since     time.Time `json:"since,omitzero"` // it is not closed since then
	Code      task.Code `json:"code,omitempty"`
	Reason    string    `json:"reason"`
	Hint      *Text     `json:"hint"` // null: there is none
	NextTrial time.Time `json:"next_trial,omitzero"`
	Hosts     []string  `json:"hosts"` // whose processors report this state
}

// Endpoint is an endpoint of the image API.
type Endpoint struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Circuit
	InFlight         int       `json:"in_flight"`   // tasks of all processors
	Concurrency      int       `json:"concurrency"` // tasks at a time, over all processors; 0: no limit
	Rate             int       `json:"rate"`        // paid requests a minute, over all processors; 0: no limit
	RateLimitedUntil time.Time `json:"rate_limited_until,omitzero"`
	Paused           bool      `json:"paused"`
}

// Model is a model at an endpoint.
type Model struct {
	Name     string `json:"name"`
	Endpoint string `json:"endpoint"` // empty: there is one endpoint only
	Circuit
	Paused bool `json:"paused"`
}

// Proxy is a proxy on the route to an endpoint.
type Proxy struct {
	Address  string `json:"address"`  // without its password; empty: no proxy
	Endpoint string `json:"endpoint"` // empty: there is one endpoint only
	Circuit
	Served int `json:"served"` // responses that came through it, since the processors started
}

// PictureStore is where a host keeps its pictures.
type PictureStore struct {
	Host string `json:"host"`
	Circuit
}

// Failure is what tasks failed for.
type Failure struct {
	Code     string    `json:"code"`
	Count    int       `json:"count"`
	What     *Text     `json:"what"` // null: the code is not known
	Hint     *Text     `json:"hint"`
	Do       string    `json:"do"`
	Examples []Example `json:"examples"` // the latest first
}

// Example is a task that failed.
type Example struct {
	TaskID  string    `json:"task_id"`
	At      time.Time `json:"at"`
	Message string    `json:"message"`
}

// Recent is a task that was closed.
type Recent struct {
	TaskID     string     `json:"task_id"`
	UserID     string     `json:"user_id"`
	Status     task.State `json:"status"`
	Model      string     `json:"model"`
	ErrorCode  string     `json:"error_code"`
	Seconds    float64    `json:"seconds"` // since its last claim; 0: it was not claimed
	At         time.Time  `json:"at"`
	HasPicture bool       `json:"has_picture"`
}

// Day is what happened on a day of the server's time zone.
type Day struct {
	Day       string       `json:"day"` // 2006-01-02
	Completed int          `json:"completed"`
	Failed    int          `json:"failed"`
	Charged   int64        `json:"charged"` // credits
	Refunded  int64        `json:"refunded"`
	Costs     []store.Cost `json:"costs"` // of the API

	final bool // it was read after it had ended
}

// Series is the document at /api/series: columns of figures, one value for each of Minutes. null: it is not known, because nothing ran.
type Series struct {
	StepSeconds int        `json:"step_seconds"` // that one value stands for
	Minutes     []int64    `json:"minutes"`      // when the steps began, in Unix time
	Arrived     []*int64   `json:"arrived"`
	Completed   []*int64   `json:"completed"`
	Failed      []*int64   `json:"failed"`
	Cancelled   []*int64   `json:"cancelled"`
	Charged     []*int64   `json:"charged"`  // credits
	Refunded    []*int64   `json:"refunded"` // credits
	P50         []*float64 `json:"p50"`      // seconds from the last claim of a task to its completion; null: none completed
	P95         []*float64 `json:"p95"`
	Depth       []*int64   `json:"depth"` // tasks that are due, at the end of the step
	Processing  []*int64   `json:"processing"`
	Oldest      []*float64 `json:"oldest"` // seconds that the oldest of them has been due, at the end of the step
}

// Found is the document at /api/tasks.
type Found struct {
	Tasks []FoundTask `json:"tasks"`
	More  bool        `json:"more"`
}

// FoundTask is a task that was searched for.
type FoundTask struct {
	TaskID    string     `json:"task_id"`
	UserID    string     `json:"user_id"`
	Status    task.State `json:"status"`
	Run       int        `json:"run"`
	Model     string     `json:"model"`
	Endpoint  string     `json:"endpoint"`
	Created   time.Time  `json:"created"`
	Closed    time.Time  `json:"closed,omitzero"`
	ErrorCode string     `json:"error_code"`
	Error     string     `json:"error"`
	Cost      int64      `json:"credits_cost"`
	Refunded  int64      `json:"refunded"`
}
