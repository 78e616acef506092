package processor_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/faultnet"
	"imagetasks/internal/simapi"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Over a network that delays, fragments, resets and drops connections, every task is completed, or fails with a cause and is
// refunded. Nothing hangs, and no prompt is logged or stored. Once with all requests on a few HTTP/2 connections through a
// proxy, once with HTTP/1.1 and without a proxy.
func TestRunOnce_ThousandTasksOverBadNetwork(t *testing.T) {
	for _, c := range []struct {
		name  string
		tasks int
		http2 bool
	}{{"HTTP/2 through a proxy", 1000, true}, {"HTTP/1.1", 1000, false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			overBadNetwork(t, c.tasks, c.http2)
		})
	}
}

func overBadNetwork(t *testing.T, tasks int, http2 bool) {
	f := newFixture(t)
	authority, err := simapi.NewAuthority()
	require.NoError(t, err)
	dot := simapi.Draw("a dot")
	conf := simapi.Config{Key: key, Delay: 20 * time.Millisecond, Picture: func(string) []byte { return dot }}
	env := proxy.Env{}
	if http2 {
		conf.TLS, env.OpenAI = authority, []string{f.proxy.URL()}
	}
	api, err := simapi.Start(conf)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, api.Close()) })
	base, err := url.Parse(api.URL())
	require.NoError(t, err)
	network, err := faultnet.Start(faultnet.Config{Target: base.Host, Seed: 7, Slice: 30, Reset: 20, Drop: 10, Within: 40_000, Delay: 3 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, network.Close()) })
	base.Host = network.Addr()
	transport, err := proxy.New(proxy.Config{Env: env, RootCAs: authority.Pool, DialTimeout: 2 * time.Second, ConnectTimeout: 2 * time.Second,
		TLSTimeout: 3 * time.Second, FirstByteTimeout: 4 * time.Second, PingAfter: 500 * time.Millisecond, PingTimeout: 3 * time.Second})
	require.NoError(t, err)
	t.Cleanup(transport.CloseIdleConnections)
	client, err := imageapi.New(imageapi.Config{BaseURL: base.String(), Key: key, Model: "m", Transport: transport, MaxBytes: 1 << 20})
	require.NoError(t, err)

	const prompt = "a prompt that must stay private"
	for i := range tasks {
		text := fmt.Sprintf("%s, number %d", prompt, i)
		_, err := f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: text, Cost: 1})
		require.NoError(t, err)
	}
	processorConf := f.config(func(c *processor.Config) {
		c.Concurrency, c.TaskTimeout, c.Lease, c.RetryUnknown = 50, 6*time.Second, time.Minute, 3
	})
	p := f.processor(processorConf, client)
	for { // a run that ends because the API is unreachable at the moment is repeated
		err := p.RunOnce(t.Context())
		if err == nil {
			break
		}
		require.ErrorIs(t, err, processor.ErrAPIUnavailable)
		p = f.processor(processorConf, client)
	}

	states, err := f.CountByState(t.Context())
	require.NoError(t, err)
	t.Logf("%v; faults: %v; retried %d, released %d, circuit opened %d, calls %d", states, network.Faults(), f.count(processor.EventRetried),
		f.count(processor.EventReleased), f.count(processor.EventCircuitOpened), len(api.Calls()))
	assert.Equal(t, tasks, states[task.Completed]+states[task.Failed])
	assert.Greater(t, states[task.Completed], tasks*9/10, "most are completed")
	assert.Len(t, f.files(), states[task.Completed])
	for _, fault := range []faultnet.Fault{faultnet.Slice, faultnet.Reset, faultnet.Drop} {
		assert.Positive(t, network.Faults()[fault], fault)
	}
	var uncaused, unknown int
	require.NoError(t, f.raw.QueryRow(`select count(*) filter (where error_code is null or error_message is null or credits_refunded <> 1),
		count(*) filter (where error_code in ('internal', 'stuck', 'lease_expired')) from imagetasks.tasks where status = 'failed'`).Scan(&uncaused, &unknown))
	assert.Zero(t, uncaused)
	assert.Zero(t, unknown)
	balance, err := f.Balance(t.Context(), f.user)
	require.NoError(t, err)
	assert.EqualValues(t, 10000-states[task.Completed], balance)
	for _, secret := range []string{prompt, "must stay private"} {
		assert.False(t, strings.Contains(f.log.String(), secret), "the prompt is in the log")
		var stored int
		require.NoError(t, f.raw.QueryRow(`select count(*) from imagetasks.tasks where strpos(error_message, $1) > 0`, secret).Scan(&stored))
		assert.Zero(t, stored)
	}
	f.requireAudit()
}
