// Package finding defines what can be wrong with an installation: one code for each problem, with its arguments, its text
// in English and Chinese, and the command to run next. Services return findings; they never format text for people.
package finding

import (
	"encoding/json"
	"time"

	"imagetasks/pkg/lang"
	"imagetasks/pkg/task"
)

// Code identifies a kind of problem. Codes are stable: scripts and alerts may depend on them.
type Code string

// The kinds of problems.
const (
	DatabaseUnavailable   Code = "database_unavailable"
	APIUnreachable        Code = "api_unreachable"         // or it refuses all requests
	PicturesUnstorable    Code = "pictures_not_storable"   // on a host: the disk is full, for example
	ModelsRefused         Code = "models_refused"          // the API makes no pictures with some models; the others go on
	PicturesNotFetched    Code = "pictures_not_fetched"    // they are paid for; new ones are still requested
	EndpointFailing       Code = "endpoint_failing"        // one endpoint of several is unreachable or refuses all requests
	EndpointRefusesModels Code = "endpoint_refuses_models" // one endpoint of several; others make pictures with them
	EndpointsInvalid      Code = "endpoints_invalid"       // imagetasks.toml has endpoints that can't be used; no processor would start
	EndpointsDiffer       Code = "endpoints_differ"        // processors of one database have different endpoints
	ProxyEjected          Code = "proxy_ejected"
	ProcessorNotRunning   Code = "processor_not_running" // it was started, and its process is gone
	ProcessorHung         Code = "processor_hung"
	ForegroundHung        Code = "foreground_processor_hung" // not started by the daemon commands, so the monitor can't restart it
	RestartFailed         Code = "restart_failed"
	RestartLimit          Code = "restart_limit_reached"
	StoppedWithDueTasks   Code = "stopped_with_due_tasks"
	NoProcessor           Code = "no_processor" // tasks are due and no processor runs on any host
	TasksStuck            Code = "tasks_stuck"
	MissingCharge         Code = "missing_charge"           // tasks say that they were charged, and the ledger has no charge
	RefundOwed            Code = "refund_owed"              // charged tasks failed or were cancelled, and were not refunded
	TasksSetAside         Code = "tasks_set_aside"          // the database refuses to change them
	LeasesFailing         Code = "leases_failing"           // a processor can't renew its leases, and starts nothing
	DatabaseCopied        Code = "database_copied"          // the database is a copy or a restored backup; nothing is claimed
	ClaimingPaused        Code = "claiming_paused"          // by an operator, for all processors: the queue, an endpoint or a model
	TasksFailing          Code = "tasks_failing"            // most tasks of the last hour failed for one cause
	PictureStoresDiffer   Code = "picture_stores_differ"    // processors keep their pictures in different stores
	PictureCleaningFailed Code = "picture_cleaning_failed"  // pictures that no task has could not be removed
	BridgeFailing         Code = "bridge_failing"           // rows of the application can't be taken over or written; they are tried again
	BridgeBehind          Code = "bridge_behind"            // what happened on one side of the bridge has not reached the other for long
	LostUpdates           Code = "lost_updates"             // the application may have overwritten refunds with balances that it had read before
	WebhooksUndelivered   Code = "webhooks_undelivered"     // completion events that were given up
	WebhookFailing        Code = "webhook_receiver_failing" // a receiver of completion events fails for long; they are tried again
	NotSupervised         Code = "not_supervised"
	MonitorOverdue        Code = "monitor_overdue" // the crontab entry is installed, and no pass happened in time
	MonitorPassIncomplete Code = "monitor_pass_incomplete"
	LogDirUnwritable      Code = "log_dir_unwritable" // LOG_DIR: the disk is full, for example
	BacklogOld            Code = "backlog_old"        // a task has been due for long
	DiskNearlyFull        Code = "disk_nearly_full"   // of a directory that the programs write to

	// What happened, and is over:
	TasksRepaired      Code = "stuck_tasks_repaired"
	ProcessorRestarted Code = "processor_restarted" // by the monitor
	AuditFault         Code = "audit_fault"         // fix-stuck-tasks audit found rows that break a rule
)

// Finding is one problem. Which fields are set depends on the code; its texts are redacted by the code that creates it.
type Finding struct {
	Code    Code      `json:"code"`
	Count   int       `json:"count,omitempty"`
	Total   int       `json:"total,omitempty"`
	PID     int       `json:"pid,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	Seconds float64   `json:"seconds,omitempty"`
	// Subject is what the problem is about: a proxy, a host, the operator who stopped the processor, or a file.
	Subject string `json:"subject,omitempty"`
	// Cause is the error code of the failing tasks, or of the API.
	Cause  task.Code `json:"cause,omitempty"`
	Reason string    `json:"reason,omitempty"`
	// Scope is what is paused, where it is not the whole queue: endpoint or model, and Name its name.
	Scope string `json:"scope,omitempty"`
	Name  string `json:"name,omitempty"`
}

// Duration returns Seconds as a time.Duration.
func (f Finding) Duration() time.Duration { return time.Duration(f.Seconds * float64(time.Second)) }

// Command is a command to run: one of the four programs, a script of the project, or a program of the system.
type Command struct {
	Program string
	Args    []string
}

// IsZero reports whether there is no command.
func (c Command) IsZero() bool { return c.Program == "" }

// Document is a finding as documents show it: with its text in English and the command to run next.
type Document struct {
	Finding Finding
	Next    string
}

// MarshalJSON adds "what" (the text in English) and "do" (the next command) to the finding's own fields.
func (d Document) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Finding
		What string `json:"what"`
		Do   string `json:"do,omitempty"`
	}{d.Finding, d.Finding.Text(lang.EN), d.Next})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (d *Document) UnmarshalJSON(text []byte) error {
	var next struct {
		Do string `json:"do"`
	}
	if err := json.Unmarshal(text, &next); err != nil {
		return err
	}
	d.Next = next.Do
	return json.Unmarshal(text, &d.Finding)
}

// Documents returns documents for findings; commandLine formats a command so that it can be typed as it is.
func Documents(findings []Finding, commandLine func(Command) string) []Document {
	documents := make([]Document, 0, len(findings))
	for _, f := range findings {
		d := Document{Finding: f}
		if next := f.Next(); !next.IsZero() {
			d.Next = commandLine(next)
		}
		documents = append(documents, d)
	}
	return documents
}
