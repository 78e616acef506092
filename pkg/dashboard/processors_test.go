package dashboard_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// What processors of several hosts report is shown once, in the worst state, with the hosts that report it. Those that are silent count for nothing.
func TestReader_CircuitsOfSeveralHosts(t *testing.T) {
	t.Parallel()
	early, late := time.Now().Add(-time.Hour).Truncate(time.Second), time.Now().Add(-time.Minute).Truncate(time.Second)
	endpoints := []overview.EndpointReport{{Name: "openai", Address: "https://api.example/v1", Models: []string{"good", "bad"}, Upstreams: []proxy.UpstreamState{{Proxy: "http://p:1", Served: 5}}},
		{Name: "relay", Address: "https://relay.example/v1", Upstreams: []proxy.UpstreamState{{Proxy: "http://p:2", Ejected: true, Since: early, Code: task.CodeProxyRefused, Reason: "refused"}}}}
	report := func(worker string, relay processor.EndpointStatus, circuits ...processor.Circuit) []byte {
		text, err := json.Marshal(overview.ProcessorReport{APIEndpoints: endpoints, Status: processor.Status{Worker: worker, InFlight: 2, Concurrency: 5, StartedAt: early,
			Counts:    processor.Counts{processor.EventCompleted: 3},
			Endpoints: []processor.EndpointStatus{{Name: "openai", InFlight: 2, RateLimited: late}, relay}, Circuits: circuits}})
		require.NoError(t, err)
		return text
	}
	failing := processor.EndpointStatus{Name: "relay", FailingSince: late, ErrorCode: task.CodeProxyRefused, Error: "refused"}
	badModel := processor.Circuit{Scope: processor.CircuitModel, Name: "bad", Endpoint: "openai", State: processor.CircuitOpen, Since: early, Code: task.CodeModelRefused, Reason: "403"}
	full := processor.Circuit{Scope: processor.CircuitPictureStore, State: processor.CircuitOpen, Since: late, Code: task.CodePictureStore, Reason: "no space left"}
	f := newFixture(t, func(c *dashboard.Config) {
		c.Processors = dashboard.Own("here", hungAfter, func() overview.ProcessorReport { return overview.ProcessorReport{} })
	})
	for _, p := range []store.Processor{
		{Worker: "a:1:x", Host: "a", PID: 1, Version: "2", Report: report("a:1:x", failing, badModel)},
		{Worker: "b:1:x", Host: "b", PID: 1, Version: "2", Report: report("b:1:x", processor.EndpointStatus{Name: "relay", InFlight: 1}, full)},
		{Worker: "silent:1:x", Host: "silent", PID: 1, Report: report("silent:1:x", processor.EndpointStatus{Name: "relay", FailingSince: early}, badModel)},
		{Worker: "other version", Host: "c", PID: 1, Report: []byte(`{"circuits": "changed"}`)},
	} {
		require.NoError(t, f.store.RecordHeartbeat(t.Context(), p))
	}
	f.exec(`update imagetasks.processors set beat_at = now() - interval '2 hours' where host = 'silent'`)
	d := f.until("processors", func(d dashboard.Document) bool { return len(d.Processors) == 5 })

	last := d.Processors[len(d.Processors)-1]
	assert.Equal(t, "silent", last.Host, "those that are silent come last")
	assert.False(t, last.Alive)
	assert.Zero(t, last.InFlight)
	assert.InDelta(t, 7200, last.SilentSeconds, 60)
	require.Len(t, d.Endpoints, 2)
	assert.Equal(t, dashboard.StateClosed, d.Endpoints[0].State)
	assert.Equal(t, 4, d.Endpoints[0].InFlight)
	assert.ElementsMatch(t, []string{"a", "b"}, d.Endpoints[0].Hosts)
	assert.True(t, late.Equal(d.Endpoints[0].RateLimitedUntil))
	relay := d.Endpoints[1]
	assert.Equal(t, "https://relay.example/v1", relay.Address)
	assert.Equal(t, dashboard.StateOpen, relay.State)
	assert.True(t, late.Equal(relay.Since))
	assert.Equal(t, []string{"a"}, relay.Hosts)
	assert.Equal(t, 1, relay.InFlight)
	require.NotNil(t, relay.Hint)
	assert.Contains(t, relay.Hint.EN, "Start the proxy")

	states := map[string]dashboard.State{}
	for _, m := range d.Models {
		states[m.Endpoint+" "+m.Name] = m.State
	}
	assert.Equal(t, map[string]dashboard.State{"openai good": dashboard.StateClosed, "openai bad": dashboard.StateOpen}, states)
	require.Len(t, d.Proxies, 2)
	assert.Equal(t, 10, d.Proxies[0].Served)
	assert.Equal(t, dashboard.StateOpen, d.Proxies[1].State)
	assert.True(t, early.Equal(d.Proxies[1].Since))
	stores := map[string]dashboard.State{}
	for _, s := range d.PictureStores {
		stores[s.Host] = s.State
	}
	assert.Equal(t, map[string]dashboard.State{"a": dashboard.StateClosed, "b": dashboard.StateOpen}, stores)
	found := map[string]dashboard.Severity{}
	for _, p := range d.Problems {
		found[p.Code] = p.Severity
		assert.NotEmpty(t, p.What.EN)
		assert.NotEqual(t, p.What.EN, p.What.ZH)
	}
	assert.Equal(t, dashboard.SeverityWarning, found[string(finding.EndpointFailing)])
	assert.Equal(t, dashboard.SeverityWarning, found[string(finding.ProxyEjected)])
}
