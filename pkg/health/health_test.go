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
