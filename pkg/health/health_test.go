package health_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/health"
)

func TestTheLastTenAreKeptTheLatestFirst(t *testing.T) {
	var r health.History
	assert.Empty(t, r.Recent())
	for i := range 13 {
		r.Add(health.Check{Result: fmt.Sprint(i)})
	}
	last := r.Recent()
	assert.Len(t, last, health.Kept)
	assert.Equal(t, "12", last[0].Result)
	assert.Equal(t, "3", last[9].Result)
	r.Add(health.Check{Result: "13"})
	assert.Equal(t, "12", last[0].Result, "what was given out doesn't change")
}

func TestARecordIsSafeForConcurrentUse(t *testing.T) {
	var r health.History
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				r.Add(health.Check{})
				assert.LessOrEqual(t, len(r.Recent()), health.Kept)
			}
		})
	}
	all.Wait()
}
