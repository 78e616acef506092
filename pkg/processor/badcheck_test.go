package processor_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
)

// Where checks are refused although requests succeed, a failure of one task stops the others once: the trial that succeeds shows that checks say
// nothing.
func TestCheck_RefusedWhileRequestsWork(t *testing.T) {
	for name, worked := range map[string]bool{"always": false, "since a while": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			api := newFakeAPI()
			var n atomic.Int64
			api.set(func(imageapi.Request) error {
				if n.Add(1)%10 == 5 {
					return failing
				}
				return nil
			}, nil)
			if !worked {
				api.checks = unauthorized
			}
			p := f.processor(f.config(func(c *processor.Config) { c.ScaleCircuits(60) }), api)
			f.start(p)
			if worked {
				f.seen(processor.EventHealthChecked, 2)
				api.mu.Lock()
				api.checks = unauthorized
				api.mu.Unlock()
			}
			_, err := f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "x", Cost: 1, Count: 100})
			require.NoError(t, err)
			f.seen(processor.EventCompleted, 100)
			assert.LessOrEqual(t, f.count(processor.EventCircuitOpened), 2)
			assert.Less(t, time.Since(p.Status().StartedAt), 50*time.Second)
		})
	}
}
