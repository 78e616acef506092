package dashboard

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

// dayStore counts which days are read.
type dayStore struct {
	Store
	read []string
	fail bool
}

func (s *dayStore) BookedBetween(_ context.Context, from, _ time.Time) (store.Booked, error) {
	if s.fail {
		return store.Booked{}, errors.New("too slow")
	}
	s.read = append(s.read, from.Format(time.DateOnly))
	return store.Booked{Charged: int64(from.Day())}, nil
}

func (s *dayStore) ClosedFiguresBetween(_ context.Context, from, _ time.Time) (store.ClosedFigures, error) {
	return store.ClosedFigures{From: from, To: from}, nil
}

func (s *dayStore) ClosedBetween(context.Context, time.Time, time.Time) (completed, failed, cancelled int, err error) {
	return 1, 2, 3, nil
}

// A day that has ended is read once; a clock that is put forward at midnight loses none.
func TestReadDays_OnceWhenEnded(t *testing.T) {
	zone, err := time.LoadLocation("America/Santiago")
	require.NoError(t, err)
	now := time.Date(2026, 9, 10, 0, 5, 0, 0, zone) // 5 days after a day that begins at 1:00
	st := &dayStore{}
	days := readDays(t.Context(), st, nil, now)
	require.Len(t, days, shownDays)
	assert.Equal(t, "2026-09-10", days[0].Day)
	assert.Equal(t, "2026-09-06", days[4].Day)
	assert.Equal(t, "2026-08-28", days[13].Day)
	assert.EqualValues(t, 28, days[13].Charged)
	assert.Len(t, st.read, shownDays)

	st.read = nil
	days = readDays(t.Context(), st, days, now.Add(time.Minute))
	assert.Equal(t, []string{"2026-09-10", "2026-09-09"}, st.read, "today, and the day that ended a moment ago")
	st.read = nil
	days = readDays(t.Context(), st, days, now.Add(time.Hour))
	assert.Equal(t, []string{"2026-09-10", "2026-09-09"}, st.read)
	st.read = nil
	days = readDays(t.Context(), st, days, now.Add(2*time.Hour))
	assert.Equal(t, []string{"2026-09-10"}, st.read)
	st.read = nil
	days = readDays(t.Context(), st, days, now.Add(24*time.Hour))
	assert.Equal(t, []string{"2026-09-11", "2026-09-10"}, st.read)
	require.Len(t, days, shownDays)
	assert.Equal(t, "2026-09-11", days[0].Day)

	st.fail = true
	assert.Equal(t, days[0].Charged, readDays(t.Context(), st, days, now.Add(24*time.Hour))[0].Charged, "what can't be read stays")
	assert.Empty(t, readDays(t.Context(), st, nil, now))
}

// Where recording a day takes too long, less is recorded; a minute is recorded soon after its end.
func TestRecordOnce_LessWhereTooSlow(t *testing.T) {
	var asked []time.Duration
	st := figureStore(func(back time.Duration) error {
		asked = append(asked, back)
		if back > 10*time.Minute {
			return errors.New("too slow")
		}
		return nil
	})
	require.NoError(t, RecordOnce(t.Context(), st))
	assert.Equal(t, catchUps[:], asked)
	for _, second := range []int{0, 11, 12, 30, 59} {
		now := time.Date(2026, 1, 1, 12, 0, second, 0, time.UTC)
		at := now.Add(untilNext(now))
		assert.True(t, at.After(now))
		assert.GreaterOrEqual(t, at.Second(), 12)
		assert.LessOrEqual(t, at.Second(), 32)
	}
}

type figureStore func(back time.Duration) error

func (s figureStore) RecordFigures(_ context.Context, back time.Duration) (time.Time, error) {
	return time.Time{}, s(back)
}
