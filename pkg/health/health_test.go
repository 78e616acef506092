package health_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/health"
)

func TestRecent_LastTenLatestFirst(t *testing.T) {
	var h health.History
	assert.Empty(t, h.Recent())
	for i := range 13 {
		h.Add(health.Check{Result: fmt.Sprint(i)})
	}
	last := h.Recent()
	assert.Len(t, last, health.Kept)
	assert.Equal(t, "12", last[0].Result)
	assert.Equal(t, "3", last[9].Result)
	h.Add(health.Check{Result: "13"})
	assert.Equal(t, "12", last[0].Result, "a result does not change afterwards")
}

// Ten endpoints are checked in a round: the check of the database is not lost among them.
func TestRecent_LastOfEachName(t *testing.T) {
	var h health.History
	const names = health.Kept + 3
	for round := range 3 {
		for i := range names {
			h.Add(health.Check{Name: fmt.Sprint(i), Millis: int64(round)})
		}
	}
	last := h.Recent()
	assert.Len(t, last, names)
	for i, c := range last {
		assert.Equal(t, health.Check{Name: fmt.Sprint(names - 1 - i), Millis: 2}, c)
	}
}

func TestHistory_ConcurrentUse(t *testing.T) {
	var h health.History
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				h.Add(health.Check{})
				assert.LessOrEqual(t, len(h.Recent()), health.Kept)
			}
		})
	}
	all.Wait()
}
