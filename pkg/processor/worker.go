package processor

import (
	"context"

	"imagetasks/pkg/task"
)

// Worker does the paid work of one task. It is called from many goroutines at once.
//
// ctx ends with the attempt's timeout, when the lease is lost, and when the grace of a stop is over. An error that is not a
// *task.Error is retried (task.AsError). What was paid for may be left behind for the next claim of the same run, which must use it and send no
// request. A panic counts as a lost claim.
type Worker interface {
	Work(ctx context.Context, t task.Task, c Call) (Result, error)
}

// Call is what the engine offers a Worker for one claim. It is valid until Work returns, and safe for concurrent use.
type Call interface {
	// Progress records how far the work is. It reaches the database soon after a change of the stage, and else with the next renewal
	// of the lease.
	Progress(percent int, stage string)
	// Inputs returns the task's inputs. The error is the one that Work returns.
	Inputs(ctx context.Context) ([]task.Input, error)
	// BeforeRequest records that a paid request is about to be sent to the endpoint of the task, and returns the idempotency key to send with it. A Worker
	// calls it right before each such request. Without a nil error no request may be sent, and the error is the one that Work returns.
	BeforeRequest(ctx context.Context) (idempotencyKey string, err error)
	// SavePending records what the API has answered with and what is still to be fetched (its Age, Gone and GoneFor are not used). From then
	// on no paid request is made for the run. It is repeated while the database is unavailable, until ctx ends; the Worker may go on
	// after an error, and must not send another request. If Work ends with an error that is Paid and does not fail the task, it is recorded after
	// that, as soon as the database is available.
	SavePending(ctx context.Context, p task.PendingResult) error
	// Pending returns what SavePending recorded, in this claim or an earlier one of the run.
	Pending() (task.PendingResult, bool)
}

// Result is what a Worker made of a task.
type Result struct {
	URL       string
	RequestID string         // the API's id of the request; may be empty
	Endpoint  string         // the API that made it; may be empty
	Usage     task.Usage     // of the request that made it
	Fields    map[string]any // for the log line "completed"
	Note      string         // for the task's record: what differs from what was asked for; may be empty
	// Recovered means that an earlier claim made it, and nothing was requested: it is no sign that the API works.
	Recovered bool
}
