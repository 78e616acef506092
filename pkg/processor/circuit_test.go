package processor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/task"
)

func TestCircuit_OpensForSharedCauses(t *testing.T) {
	t.Parallel()
	refusal := func(r simapi.Refusal) func(f *fixture) func() {
		return func(f *fixture) func() {
			f.api.Refuse(&r)
			return func() { f.api.Refuse(nil) }
		}
	}
	for name, breakAPI := range map[string]func(f *fixture) (repair func()){
		"key refused":                  refusal(simapi.Refusal{Status: 401, Code: "invalid_api_key"}),
		"no quota":                     refusal(simapi.Refusal{Status: 429, Code: "insufficient_quota"}),
		"the wrong country":            refusal(simapi.Refusal{Status: 403, Code: "unsupported_country_region_territory"}),
		"a gateway's page":             refusal(*simapi.Failure("nginx 502")),
		"a web page for every request": refusal(simapi.Refusal{Status: 200, WebPage: true}),
		"proxy down": func(f *fixture) func() {
			require.NoError(f.t, f.proxy.Close())
			return func() {
				again, err := simproxy.StartAt(simproxy.Config{User: "u", Password: "hunter2hunter2"}, f.proxy.Addr())
				require.NoError(f.t, err)
				f.proxy = again
			}
		},
		"proxy refuses": func(f *fixture) func() {
			f.proxy.SetMode(simproxy.Refuse)
			return func() { f.proxy.SetMode(simproxy.Serve) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			client := f.client()
			repair := breakAPI(f)
			ids := f.enqueue("a", "b", "c", "d", "e", "f")
			f.run(f.config(func(c *processor.Config) { c.Concurrency, c.PendingTimeout = 2, time.Hour }), client)
			f.circuitOpened()
			assert.LessOrEqual(t, f.count(processor.EventClaimed), 2)
			repair()
			f.seen(processor.EventCompleted, 6)
			assert.Equal(t, 1, f.count(processor.EventCircuitOpened))
			assert.Equal(t, 1, strings.Count(f.log.String(), "claiming is paused"), "logged once")
			for _, id := range ids {
				assert.Zero(t, f.row(id).Attempts)
			}
			assert.Zero(t, f.count(processor.EventFailed))
			f.requireAudit()
		})
	}
}

// A rate limit of the API pauses all claims of a processor.
func TestCircuit_APIRateLimitPausesClaims(t *testing.T) {
	f := newFixture(t)
	f.api.Refuse(&simapi.Refusal{Status: 429, Code: "rate_limit_exceeded", RetryAfter: "3600"})
	ids := f.enqueue("a", "b", "c", "d", "e", "f", "g", "h")
	client := f.client()
	p := f.processor(f.config(func(c *processor.Config) { c.Concurrency, c.Lease = 2, 300*time.Millisecond }), client)
	stop := f.start(p)
	f.seen(processor.EventReleased, 1)
	f.seen(processor.EventLeasesRenewed, f.count(processor.EventLeasesRenewed)+10)
	assert.LessOrEqual(t, f.count(processor.EventClaimed), 2, "only what was in flight already")
	assert.True(t, p.Status().RateLimited.After(time.Now()))
	limits := client.RateLimits()
	assert.Equal(t, "0", limits.Headers["remaining-requests"])
	assert.Equal(t, "limit-requests 60, remaining-requests 0, reset-requests 3600", limits.String())
	stop()
	for _, id := range ids {
		assert.Equal(t, task.Pending, f.row(id).State)
		assert.Zero(t, f.row(id).Attempts)
	}
	f.requireAudit()
}
