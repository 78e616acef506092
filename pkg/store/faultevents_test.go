package store_test

import (
	"context"
	"time"

	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

// events is tasks that failed, with their events.
func (b *faultBench) events(prompts ...string) {
	b.tb.Helper()
	b.withEvents()
	b.failed(prompts...)
	b.exec("delete from imagetasks.calls")
}

func (b *faultBench) withEvents() {
	b.tb.Helper()
	require.NoError(b.tb, b.SetCompletionEvents(b.ctx, store.ReceiverWebhook, store.ReceiverNotify))
}

func claimEvents(ctx context.Context, s *store.Store) ([]store.Event, error) {
	return s.ClaimEvents(ctx, store.EventClaim{CallID: faultCallID, Limit: 10, PerHost: 10, Lease: time.Minute})
}

func faultEvents() map[string]faultScenario {
	some := func(b *faultBench) { b.events("a") }
	undelivered := func(b *faultBench) {
		b.events("a", "b")
		b.exec(`update imagetasks.events set state = 'undelivered', attempts = 3 where receiver = 'webhook'`)
	}
	return map[string]faultScenario{
		"set_completion_events": reading(nil, func(ctx context.Context, s *store.Store) (any, error) {
			return nil, s.SetCompletionEvents(ctx, store.ReceiverTask)
		}),
		"claim_events": reading(func(b *faultBench) { b.events("a", "b") }, func(ctx context.Context, s *store.Store) (any, error) {
			events, err := claimEvents(ctx, s)
			return len(events), err
		}),
		"record_events": func(b *faultBench) faultCall {
			b.events("a", "b")
			events, err := claimEvents(b.ctx, b.Store)
			require.NoError(b.tb, err)
			require.Len(b.tb, events, 2)
			return func(ctx context.Context, s *store.Store) (any, error) {
				return nil, s.RecordEvents(ctx, time.Hour, store.EventOutcome{Event: events[0], Result: store.ResultDelivered, Status: 200},
					store.EventOutcome{Event: events[1], Result: store.ResultRetry, Wait: time.Minute, Reason: "refused"})
			}
		},
		"notify_events": reading(some, func(ctx context.Context, s *store.Store) (any, error) { return s.NotifyEvents(ctx, 10, faultCallID) }),
		"event_counts": reading(some, func(ctx context.Context, s *store.Store) (any, error) {
			c, err := s.EventCounts(ctx)
			c.Oldest = 0
			return c, err
		}),
		"failing_receivers": reading(func(b *faultBench) {
			b.events("a")
			b.exec(`update imagetasks.events set attempts = 1, first_at = now()`)
		},
			func(ctx context.Context, s *store.Store) (any, error) { return s.FailingReceivers(ctx, 10) }),
		"list_events": reading(some, func(ctx context.Context, s *store.Store) (any, error) { return s.Events(ctx, "", 10) }),
		"set_events": reading(undelivered, func(ctx context.Context, s *store.Store) (any, error) {
			return s.RedeliverEvents(ctx, nil, faultCallID)
		}),
		"prune_events": pruning(func(b *faultBench) {
			b.events("a")
			b.exec("update imagetasks.events set created_at = created_at - interval '1 year'; delete from imagetasks.tasks; delete from imagetasks.keys")
		}),
	}
}
