package imageworker

import (
	"time"

	"imagetasks/pkg/task"
)

// Observer is told of paid requests and pictures, for metrics. Its methods are called from many goroutines, and must return soon.
type Observer interface {
	// RequestEnded is called after each paid request that was recorded. took is the time to the whole answer, or until it failed.
	RequestEnded(endpoint string, outcome RequestOutcome, took time.Duration)
	// Received is called for each part of a picture that arrives, with its size in bytes.
	Received(bytes int)
	// Stored is called for each picture that was published, with its size in bytes.
	Stored(bytes int64)
}

// RequestOutcome is what became of a paid request.
type RequestOutcome string

// The outcomes of paid requests.
const (
	RequestSucceeded RequestOutcome = "success"  // the API answered with a picture, or with the URL of one
	RequestFailed    RequestOutcome = "error"    // the API answered with something else
	RequestUnknown   RequestOutcome = "unknown"  // no answer of the API was read whole: it may have been billed
	RequestNotSent   RequestOutcome = "not_sent" // no connection could be made
)

// RequestOutcomes returns every RequestOutcome.
func RequestOutcomes() []RequestOutcome {
	return []RequestOutcome{RequestSucceeded, RequestFailed, RequestUnknown, RequestNotSent}
}

// outcomeOf returns the outcome of a request that ended with an error, or with nil.
func outcomeOf(err error) RequestOutcome {
	if err == nil {
		return RequestSucceeded
	}
	switch e := task.AsError(err); {
	case e.NotSent:
		return RequestNotSent
	case e.Unknown:
		return RequestUnknown
	}
	return RequestFailed
}

// WithObserver returns a worker that tells o of its requests and pictures.
func (w *Worker) WithObserver(o Observer) *Worker {
	other := *w
	other.observer = o
	return &other
}

// unobserved is the Observer of a worker that has none.
type unobserved struct{}

func (unobserved) RequestEnded(string, RequestOutcome, time.Duration) {}
func (unobserved) Received(int)                                       {}
func (unobserved) Stored(int64)                                       {}
