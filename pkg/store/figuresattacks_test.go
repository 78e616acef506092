package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The clock of the database was a year ahead for a while: minutes that were recorded then neither end the recording nor show in the charts.
func TestRecordFigures_ClockWasAhead(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.mixedLoad()
	b.exec(`insert into imagetasks.figures (minute, arrived, completed, failed, cancelled, charged, refunded)
		select date_bin('1 minute', now() + ahead, 'epoch'), 1000, 1000, 0, 0, 0, 0 from unnest(array[interval '3 minutes', interval '365 days']) ahead`)
	through, err := b.RecordFigures(b.ctx, 2*time.Hour)
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now(), through, 3*time.Minute)
	require.Zero(t, b.number(`select count(*) from imagetasks.figures where minute > now()`))
	assert.JSONEq(t, b.jsonOf(figuresByHand), b.jsonOf(recordedFigures))
	steps, err := b.Figures(b.ctx, 3*time.Hour, time.Minute)
	require.NoError(t, err)
	assert.True(t, steps[len(steps)-1].At.Before(time.Now()))
}
