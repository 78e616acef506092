package status_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	answer, err := http.Get(url)
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, string(body)
}

func TestHandler_Pages(t *testing.T) {
	report := overview.ProcessorReport{Status: processor.Status{Worker: "<w>", StartedAt: time.Unix(1000, 0), Concurrency: 3, InFlight: 2,
		Counts: processor.Counts{processor.EventCompleted: 7, processor.EventOutcomeUnknown: 2},
		Circuits: []processor.Circuit{{Scope: processor.CircuitEndpoint, Name: "https://api.example/v1", State: processor.CircuitClosed},
			{Scope: processor.CircuitPictureStore, State: processor.CircuitClosed},
			{Scope: processor.CircuitModel, Name: "<m>", State: processor.CircuitOpen, Since: time.Unix(2500, 0), Reason: "no access", NextTrial: time.Unix(2600, 0)}},
		MoreModels: 3, Endpoints: []processor.EndpointStatus{{Name: "e", Rate: 60}}, RateLimited: time.Unix(3000, 0)},
		APIRateLimits: imageapi.RateLimits{At: time.Unix(3000, 0), Headers: map[string]string{"remaining-requests": "59", "reset-requests": "1s"}},
		Upstreams: []proxy.UpstreamState{{Proxy: "http://one:1", Served: 3}, {Proxy: "http://one:1", Served: 2, Ejected: true},
			{Proxy: "http://two:2", Ejected: true, Since: time.Unix(2500, 0), Reason: "<it is down>"}}}
	var away error
	access, err := status.NewAccess(status.AccessConfig{Addr: "127.0.0.1:0"})
	require.NoError(t, err)
	server, err := status.Start(status.Source{
		Version: "1.2.3", Redact: func(s string) string { return s },
		CommandLine: func(c finding.Command) string { return c.Program },
		Processor:   func() overview.ProcessorReport { return report },
		Queue: func(context.Context) (store.QueueStats, error) {
			return store.QueueStats{Pending: 5, Due: 4, Stuck: 1, OldestDue: 90 * time.Second}, away
		},
		Bridge: func(context.Context) (*overview.Bridge, error) {
			return &overview.Bridge{Active: true, AppliedAt: time.Unix(4000, 0), Inbox: 6, InboxSeconds: 2, Owed: 8, OwedSeconds: 3, Failing: 1, Failures: 1}, away
		},
	}, access)
	require.NoError(t, err)
	defer func() { assert.NoError(t, server.Close()) }()
	root := "http://" + server.Addr()

	code, body := get(t, root+"/healthz")
	assert.Equal(t, 200, code)
	assert.Equal(t, "ok\n", body)
	code, body = get(t, root+"/readyz")
	assert.Equal(t, 200, code, "neither stuck tasks nor a refused model make it unready")
	assert.Contains(t, body, "makes no pictures with 4 models (<m>)")
	_, body = get(t, root+"/metrics")
	for _, line := range []string{`imagetasks_tasks_total{step="completed"} 7`, `imagetasks_tasks_total{step="failed"} 0`,
		"imagetasks_tasks_in_flight 2", "imagetasks_api_up 1", "imagetasks_database_up 1",
		`imagetasks_circuit_open{endpoint="",name="https://api.example/v1",scope="endpoint"} 0`, `imagetasks_circuit_open{endpoint="",name="",scope="picture_store"} 0`,
		"imagetasks_models_refused 4", "imagetasks_unknown_outcomes_total 2",
		"imagetasks_bridge_active 1", "imagetasks_bridge_inbox 6", "imagetasks_bridge_inbox_oldest_seconds 2", "imagetasks_bridge_outbox 8",
		"imagetasks_bridge_outbox_oldest_seconds 3", "imagetasks_bridge_failures 2", "imagetasks_bridge_lost_updates 0",
		`imagetasks_queue_tasks{state="stuck"} 1`, "imagetasks_queue_oldest_due_seconds 90", "imagetasks_start_time_seconds 1000",
		`imagetasks_proxy_up{proxy="http://one:1"} 1`, `imagetasks_proxy_up{proxy="http://two:2"} 0`,
		`imagetasks_proxy_responses_total{proxy="http://one:1"} 5`, `imagetasks_api_rate_limit{endpoint="",header="remaining-requests"} 59`,
		`imagetasks_endpoint_tasks_in_flight{endpoint="e"} 0`} {
		assert.Contains(t, body, line)
	}
	assert.NotContains(t, body, "<m>", "a task names its model as it likes")
	code, _ = get(t, root+"/nothing")
	assert.Equal(t, 404, code)

	report.LeasesFailingSince = time.Unix(2000, 0)
	code, body = get(t, root+"/readyz")
	assert.Equal(t, 503, code)
	assert.Contains(t, body, "has not been able to renew its leases")
	_, body = get(t, root+"/metrics")
	assert.Contains(t, body, "imagetasks_leases_renewable 0")
	report.LeasesFailingSince = time.Time{}
	report.PicturesFailingSince, report.PicturesError = time.Unix(2000, 0), "no space left"
	code, body = get(t, root+"/readyz")
	assert.Equal(t, 503, code)
	assert.Contains(t, body, "no space left")
	_, body = get(t, root+"/metrics")
	assert.Contains(t, body, "imagetasks_api_up 1")
	report.PicturesFailingSince = time.Time{}
	report.APIUnreachableSince, report.APIErrorCode, report.APIError = time.Unix(2000, 0), task.CodeProxyRefused, "proxy down"
	away = errors.New("away")
	code, body = get(t, root+"/readyz")
	assert.Equal(t, 503, code)
	assert.Contains(t, body, "proxy down")
	assert.Contains(t, body, "database is unavailable: away")
	_, body = get(t, root+"/status.json")
	var document status.Report
	require.NoError(t, json.Unmarshal([]byte(body), &document))
	assert.False(t, document.Ready)
	assert.Nil(t, document.Queue)
	assert.Nil(t, document.Bridge)
	assert.Equal(t, task.CodeProxyRefused, document.Processor.APIErrorCode)
	assert.Equal(t, 7, document.Processor.Counts[processor.EventCompleted])

	access, err = status.NewAccess(status.AccessConfig{Addr: server.Addr()})
	require.NoError(t, err)
	_, err = status.Start(status.Source{}, access)
	assert.ErrorContains(t, err, "address already in use")
	assert.ErrorContains(t, err, "STATUS_ADDR")
}

// A scrape while the database is silent is answered within its bound, with what the processor knows.
func TestMetrics_SilentDatabase(t *testing.T) {
	t.Parallel()
	access, err := status.NewAccess(status.AccessConfig{Addr: "127.0.0.1:0"})
	require.NoError(t, err)
	server, err := status.Start(status.Source{
		Version: "1.2.3", Redact: func(s string) string { return s },
		CommandLine: func(c finding.Command) string { return c.Program },
		Processor: func() overview.ProcessorReport {
			return overview.ProcessorReport{Status: processor.Status{InFlight: 2}}
		},
		Queue: func(ctx context.Context) (store.QueueStats, error) {
			<-ctx.Done()
			return store.QueueStats{}, ctx.Err()
		},
	}, access)
	require.NoError(t, err)
	defer func() { assert.NoError(t, server.Close()) }()
	began := time.Now()
	code, body := get(t, "http://"+server.Addr()+"/metrics")
	assert.Equal(t, 200, code)
	assert.Less(t, time.Since(began), 8*time.Second)
	assert.Contains(t, body, "\nimagetasks_database_up 0\n")
	assert.Contains(t, body, "\nimagetasks_tasks_in_flight 2\n")
	assert.Contains(t, body, `imagetasks_problems{code="database_unavailable"} 1`)
	assert.NotContains(t, body, "imagetasks_queue_tasks")
}
