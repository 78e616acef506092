package alert

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/store"
)

// The times of deliveries.
const (
	// SendTimeout bounds the sending of one message.
	SendTimeout = 10 * time.Second
	// leaseTime is for how long a receiver is leased: sending and recording end before.
	leaseTime = SendTimeout + 20*time.Second
	// recordTimeout bounds a call of the database.
	recordTimeout = 8 * time.Second
	// messageGap is the time between two messages to a receiver, far below the limits of all services: DingTalk and WeCom accept 20 a minute.
	messageGap = 10 * time.Second
	// Waits after a failure: the first one, and the longest.
	firstRetry, longestRetry = 15 * time.Second, 10 * time.Minute
)

// maxItems bounds the items of one message; more follow in the next one.
const maxItems = 15

// Store is what is told, and to whom.
type Store interface {
	Observer
	TakeAlertTurn(ctx context.Context, process uuid.UUID, d time.Duration) (bool, error)
	ClaimAlerts(ctx context.Context, c store.AlertClaim) (store.ClaimedAlerts, error)
	RecordAlerts(ctx context.Context, c store.ClaimedAlerts, o store.AlertOutcome) error
}

// Receiver is who is told.
type Receiver struct {
	Name       string
	Codes      []finding.Code     // none: all
	Severities []finding.Severity // none: all
	Repeat     time.Duration      // after which an open problem is told again
	// Send sends one message. Its error has no secrets, and may be a *RetryError.
	Send func(ctx context.Context, m Message) error
}

// wants reports whether the receiver is told about a code.
func (r Receiver) wants(code finding.Code) bool {
	if len(r.Severities) > 0 && !contains(r.Severities, code.Severity()) {
		return false
	}
	return len(r.Codes) == 0 || contains(r.Codes, code)
}

func contains[T comparable](all []T, one T) bool {
	for _, x := range all {
		if x == one {
			return true
		}
	}
	return false
}

// RetryError is an error of a receiver that asks for a wait.
type RetryError struct {
	Err  error
	Wait time.Duration
}

func (e *RetryError) Error() string { return e.Err.Error() }
func (e *RetryError) Unwrap() error { return e.Err }

// Config says how receivers are told.
type Config struct {
	Store        Store
	Receivers    []Receiver
	Host         string
	Name         string        // of the installation
	Wait         time.Duration // that a new problem waits for others
	Quiet        time.Duration // that a problem must be gone before it is over
	Command      func(finding.Command) string
	Redact       func(string) string
	Log          logrus.FieldLogger
	LostDatabase *LostDatabase // tells that the database is unavailable
}

// deliver tells a receiver what it has to be told. What the receiver does is logged and recorded; an error is the database's.
func (c Config) deliver(ctx context.Context, r Receiver, wait time.Duration) error {
	claim := store.AlertClaim{CallID: uuid.New(), Receiver: r.Name, Lease: leaseTime, GroupWait: wait, Repeat: r.Repeat, Quiet: c.Quiet, Limit: maxItems}
	for _, code := range r.Codes {
		claim.Codes = append(claim.Codes, string(code))
	}
	for _, severity := range r.Severities {
		claim.Severities = append(claim.Severities, store.AlertSeverity(severity))
	}
	claimed, err := bounded(ctx, func(ctx context.Context) (store.ClaimedAlerts, error) { return c.Store.ClaimAlerts(ctx, claim) })
	if err != nil || len(claimed.Alerts) == 0 {
		return err
	}
	m := Message{Name: c.Name, Host: c.Host, At: time.Now(), Command: c.Command}
	for _, d := range claimed.Alerts {
		if item, ok := newItem(d); ok {
			m.Items = append(m.Items, item)
		}
	}
	if len(m.Items) > 0 {
		err = c.send(ctx, r, m)
	}
	outcome := store.AlertOutcome{Sent: err == nil, Wait: messageGap}
	if err != nil {
		outcome.Wait, outcome.Error = retryWait(err, claimed.Failures), c.Redact(err.Error())
	}
	// The message has left: that is recorded at a stop, too.
	_, err = bounded(context.WithoutCancel(ctx), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, c.Store.RecordAlerts(ctx, claimed, outcome)
	})
	return err
}

// send sends a message within its time.
func (c Config) send(ctx context.Context, r Receiver, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, SendTimeout)
	defer cancel()
	log := c.Log.WithField("receiver", r.Name)
	if err := r.Send(ctx, m); err != nil {
		log.Warnf("the alert was not sent: %s; it is tried again", c.Redact(err.Error()))
		return err
	}
	open, resolved, happened := m.Counts()
	log.WithFields(logrus.Fields{"open": open, "resolved": resolved, "notices": happened}).Info("alert sent")
	return nil
}

// retryWait returns the wait after a failure.
func retryWait(err error, failures int) time.Duration {
	wait := min(firstRetry<<min(failures, 10), longestRetry)
	if asked, ok := errors.AsType[*RetryError](err); ok {
		wait = max(wait, min(asked.Wait, time.Hour))
	}
	return wait
}

// bounded calls the database within its time.
func bounded[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	return call(ctx)
}
