package store_test

import (
	"context"
	"time"

	"imagetasks/pkg/store"
)

// figure is a recorded minute with two failed tasks.
func (b *faultBench) figure() {
	b.tb.Helper()
	b.exec(`insert into imagetasks.figures (minute, arrived, completed, failed, cancelled, charged, refunded, p50_ms, p95_ms, failures, due, processing, oldest_due_ms)
		values (date_bin('1 minute', now() - interval '5 minutes', 'epoch'), 4, 1, 2, 1, 8, 4, 30000, 31000,
			'{"api_server_error": {"count": 2, "tasks": ["one", "two"]}}', 7, 3, 9000)`)
}

func faultFigures() map[string]faultScenario {
	recorded := func(b *faultBench) { b.failed("a"); b.figure() }
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	hour := time.Hour
	return map[string]faultScenario{
		"figures_bounds": reading(recorded, func(ctx context.Context, s *store.Store) (any, error) { return s.RecordFigures(ctx, 0) }),
		"record_figures": reading(func(b *faultBench) {
			recorded(b)
			b.tasks("b")
			b.exec(`update imagetasks.tasks set created_at = created_at - interval '1 hour', completed_at = completed_at - interval '1 hour';
				update imagetasks.figures set minute = minute - interval '20 days'`)
		}, func(ctx context.Context, s *store.Store) (any, error) {
			begin := time.Now().Truncate(hour).Add(-2 * hour)
			return nil, s.RecordFiguresBetween(ctx, begin, begin.Add(3*time.Minute))
		}),
		"figures":         reading(recorded, func(ctx context.Context, s *store.Store) (any, error) { return s.Figures(ctx, hour, time.Minute) }),
		"closed_figures":  reading(recorded, func(ctx context.Context, s *store.Store) (any, error) { return s.ClosedFigures(ctx, hour, 3) }),
		"failure_figures": reading(recorded, func(ctx context.Context, s *store.Store) (any, error) { return s.FailureFigures(ctx, ago(hour)) }),
		"failed_ids": reading(recorded, func(ctx context.Context, s *store.Store) (any, error) {
			return s.FailedTasks(ctx, "api_server_error", 10)
		}),
		"closed_since": reading(recorded, func(ctx context.Context, s *store.Store) (any, error) { return s.ClosedSince(ctx, ago(hour)) }),
		"closed_between": reading(recorded, func(ctx context.Context, s *store.Store) (any, error) {
			completed, failed, cancelled, err := s.ClosedBetween(ctx, ago(hour), ago(-hour))
			return []int{completed, failed, cancelled}, err
		}),
		"booked_between": reading(recorded, func(ctx context.Context, s *store.Store) (any, error) {
			return s.BookedBetween(ctx, ago(hour), ago(-hour))
		}),
		"recent_closed": reading(recorded, func(ctx context.Context, s *store.Store) (any, error) {
			tasks, err := s.RecentlyClosed(ctx, ago(hour), 10)
			for i := range tasks {
				tasks[i].Took = 0
			}
			return tasks, err
		}),
		"find_ids": reading(recorded, func(ctx context.Context, s *store.Store) (any, error) {
			return s.FindTasks(ctx, []string{"one", "two"})
		}),
		"find_prefix": reading(recorded, func(ctx context.Context, s *store.Store) (any, error) {
			return s.FindTasksByPrefix(ctx, "0", 10)
		}),
		"find_user": reading(recorded, func(ctx context.Context, s *store.Store) (any, error) { return s.FindTasksByUser(ctx, faultUser, 10) }),
	}
}
