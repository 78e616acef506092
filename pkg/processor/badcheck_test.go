package processor_test

import (
	"strings"
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

// A task whose processor ended twice, and whose model is refused now, does not hold up the others: it can't be claimed.
func TestSuspect_OfRefusedModel(t *testing.T) {
	t.Parallel()
	const lease = 600 * time.Millisecond
	f := newFixture(t)
	api := newFakeAPI()
	api.took = 100 * time.Millisecond
	var n atomic.Int64
	api.set(func(r imageapi.Request) error {
		if r.Model == "bad" {
			return noModel
		}
		time.Sleep(time.Duration(n.Add(1)%3) * 400 * time.Millisecond) // they end at different times
		return nil
	}, noModel)
	bad := f.enqueueFor("bad", 2)
	f.start(f.processor(f.config(func(c *processor.Config) { c.ScaleCircuits(1); c.DefaultModel = "bad"; c.Lease = lease }), api))
	f.seen(processor.EventCircuitOpened, 1)
	f.seen(processor.EventReleased, 2)
	f.exec(`update imagetasks.tasks set status = 'processing', lost_claims = 1, lease_epoch = lease_epoch + 1, leased_by = 'gone',
		lease_expires_at = now() - interval '1 second', processing_started_at = now(), waits_for = null where task_id = $1`, bad[0])
	began := time.Now()
	f.enqueueFor("good", 60)
	f.seen(processor.EventCompleted, 60)
	waits := strings.Count(f.log.String(), "claiming waits for that")
	assert.LessOrEqual(t, waits, 2+int(time.Since(began)/(5*lease)), "it does not stop the others in each sweep")
}
