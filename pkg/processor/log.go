package processor

import (
	"github.com/sirupsen/logrus"

	"imagetasks/pkg/task"
)

// logs reports whether log writes lines of a level. Building the fields of a line costs more than the engine's own work on a task.
func logs(log logrus.FieldLogger, level logrus.Level) bool {
	switch l := log.(type) {
	case *logrus.Logger:
		return l.IsLevelEnabled(level)
	case *logrus.Entry:
		return l.Logger.IsLevelEnabled(level)
	}
	return true
}

// TaskFields returns the fields of a line of the log about a claimed task: each that is known.
func TaskFields(t task.Task) logrus.Fields {
	f := logrus.Fields{"task": t.ID, "user": t.UserID, "attempt": t.Attempt, "epoch": t.Epoch}
	if t.Endpoint != "" {
		f["endpoint"] = t.Endpoint
	}
	if t.Pending != nil {
		addPending(f, *t.Pending)
	}
	return f
}

// addPending adds what is known of the request whose result is still to be fetched.
func addPending(f logrus.Fields, p task.PendingResult) {
	if p.RequestID != "" {
		f["request_id"] = p.RequestID
	}
	if p.Endpoint != "" {
		f["endpoint"] = p.Endpoint
	}
}

// addCause adds what is known of the request that failed.
func addCause(f logrus.Fields, e *task.Error) logrus.Fields {
	f["code"] = string(e.Code)
	if e.RequestID != "" {
		f["request_id"] = e.RequestID
	}
	if e.Endpoint != "" {
		f["endpoint"] = e.Endpoint
	}
	return f
}
