package dashboard

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/sirupsen/logrus"
)

// FigureStore is what figures are recorded in.
type FigureStore interface {
	RecordFigures(ctx context.Context, back time.Duration) (through time.Time, err error)
}

const (
	// recordAfter is how long after the end of a minute it is recorded at the soonest, and recordSpread how much later at most, so that mostly one of
	// several programs does it and the others find it done.
	recordAfter  = 12 * time.Second
	recordSpread = 20 * time.Second
	// recordTimeout bounds the recording of one minute, and catchUpTimeout that of a day.
	recordTimeout  = 10 * time.Second
	catchUpTimeout = time.Minute
)

// catchUps are how far back it is recorded: a day, or less where that takes too long.
var catchUps = [...]time.Duration{24 * time.Hour, time.Hour, 3 * time.Minute}

// RecordOnce records the minutes that have ended and are not recorded yet, at most of the last 24 hours.
func RecordOnce(ctx context.Context, st FigureStore) error {
	var err error
	limit := catchUpTimeout
	for _, back := range catchUps {
		if err = record(ctx, st, back, limit); err == nil || ctx.Err() != nil {
			return err
		}
		limit = recordTimeout
	}
	return err
}

func record(ctx context.Context, st FigureStore, back, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, err := st.RecordFigures(ctx, back)
	return err
}

// Record records the figures of each minute until ctx ends. A failure is logged once until recording works again; the next attempt continues where
// the last one stopped.
func Record(ctx context.Context, st FigureStore, log logrus.FieldLogger) {
	failing := false
	for {
		err := RecordOnce(ctx, st)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			log.WithError(err).Warn("the figures of the last minute could not be recorded for the charts of the status page; it is tried again each minute")
		case err == nil && failing:
			log.Info("figures are recorded again")
		}
		failing = err != nil
		timer := time.NewTimer(untilNext(time.Now()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// untilNext returns the time until a minute is recorded next.
func untilNext(now time.Time) time.Duration {
	next := now.Truncate(time.Minute).Add(recordAfter + rand.N(recordSpread))
	for !next.After(now.Add(time.Second)) {
		next = next.Add(time.Minute)
	}
	return next.Sub(now)
}
