package overview

import (
	"context"
	"time"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/store"
)

// Webhooks says how many completion events wait, as documents show it.
type Webhooks struct {
	Waiting     int                     `json:"waiting"`     // to be delivered now or later
	Held        int                     `json:"held"`        // until the bridge has written the end of their task
	Failing     int                     `json:"failing"`     // of Waiting: an attempt has failed
	Undelivered int                     `json:"undelivered"` // given up
	Oldest      float64                 `json:"oldest_waiting_seconds"`
	Receivers   []store.FailingReceiver `json:"failing_receivers"` // those that have failed for longest

	undeliveredReason string // of the latest one that was given up
}

// WebhookReader is what the state of completion events is read from.
type WebhookReader interface {
	EventCounts(ctx context.Context) (store.EventCounts, error)
	FailingReceivers(ctx context.Context, limit int) ([]store.FailingReceiver, error)
	Events(ctx context.Context, state store.EventState, limit int) ([]store.EventRow, error)
}

// failingReceivers is how many receivers ReadWebhooks returns.
const failingReceivers = 20

// ReadWebhooks returns the state of completion events.
func ReadWebhooks(ctx context.Context, st WebhookReader) (*Webhooks, error) {
	c, err := st.EventCounts(ctx)
	if err != nil {
		return nil, err
	}
	w := &Webhooks{Waiting: c.Waiting, Held: c.Held, Failing: c.Failing, Undelivered: c.Undelivered, Oldest: c.Oldest.Seconds(),
		Receivers: []store.FailingReceiver{}}
	if c.Failing > 0 {
		receivers, err := st.FailingReceivers(ctx, failingReceivers)
		if err != nil {
			return nil, err
		}
		w.Receivers = append(w.Receivers, receivers...)
	}
	if c.Undelivered > 0 {
		latest, err := st.Events(ctx, store.EventUndelivered, 1)
		if err != nil {
			return nil, err
		}
		for _, e := range latest {
			w.undeliveredReason = e.Reason
		}
	}
	return w, nil
}

// webhookGrace is how long a receiver may fail before that is reported: it may be updated or restarted meanwhile.
const webhookGrace = 10 * time.Minute

// webhooks reports events that were given up, and receivers that have failed for long.
func (s Snapshot) webhooks() []finding.Finding {
	w := s.Webhooks
	if w == nil {
		return nil
	}
	var out []finding.Finding
	if w.Undelivered > 0 {
		out = append(out, finding.Finding{Code: finding.WebhooksUndelivered, Count: w.Undelivered, Reason: w.undeliveredReason})
	}
	for _, r := range w.Receivers {
		if s.Now.Sub(r.Since) <= webhookGrace {
			continue
		}
		host := r.Host
		if host == "" {
			host = "COMPLETION_WEBHOOK_URL"
		}
		out = append(out, finding.Finding{Code: finding.WebhookFailing, Subject: host, Since: r.Since, Count: r.Events, Reason: r.Reason})
	}
	return out
}
