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

// Over a line that delays, slices, resets at random bytes and falls silent, every task is completed, or fails with a
// cause and is refunded; nothing hangs, and nothing secret is told. Once with all requests on a few HTTP/2 connections through
// a proxy's tunnel, once with HTTP/1.1 and without a proxy.
func TestAThousandTasksOverABadLine(t *testing.T) {
	for _, c := range []struct {
		name  string
		tasks int
		http2 bool
	}{{"HTTP/2 through a proxy", 1000, true}, {"HTTP/1.1", 1000, false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			overABadLine(t, c.tasks, c.http2)
		})
	}
}

func overABadLine(t *testing.T, tasks int, http2 bool) {
	b := newBench(t)
	authority, err := simapi.NewAuthority()
	require.NoError(t, err)
	dot := simapi.Draw("a dot")
	conf := simapi.Config{Key: key, Delay: 20 * time.Millisecond, Picture: func(string) []byte { return dot }}
	env := proxy.Env{}
	if http2 {
		conf.TLS, env.OpenAI = authority, []string{b.proxy.URL()}
	}
	api, err := simapi.Start(conf)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, api.Close()) })
	base, err := url.Parse(api.URL())
	require.NoError(t, err)
	line, err := faultnet.Start(faultnet.Config{Target: base.Host, Seed: 7, Slice: 30, Reset: 20, Drop: 10, Within: 40_000, Delay: 3 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, line.Close()) })
	base.Host = line.Addr()
	transport, err := proxy.New(proxy.Config{Env: env, RootCAs: authority.Pool, DialTimeout: 2 * time.Second, ConnectTimeout: 2 * time.Second,
		TLSTimeout: 3 * time.Second, FirstByteTimeout: 4 * time.Second, PingAfter: 500 * time.Millisecond, PingTimeout: 3 * time.Second})
	require.NoError(t, err)
	t.Cleanup(transport.CloseIdleConnections)
	maker, err := imageapi.New(imageapi.Config{BaseURL: base.String(), Key: key, Model: "m", Transport: transport, MaxBytes: 1 << 20})
	require.NoError(t, err)

	const prompt = "a wish that nobody may read"
	for i := range tasks {
		text := fmt.Sprintf("%s, number %d", prompt, i)
		_, err := b.Enqueue(t.Context(), store.EnqueueRequest{UserID: b.user, Prompt: text, Cost: 1})
		require.NoError(t, err)
	}
	processorConf := b.config(func(c *processor.Config) {
		c.Concurrency, c.TaskTimeout, c.Lease = 50, 6*time.Second, time.Minute
	})
	p := processor.New(processorConf, b.Store, maker, b.pictures)
	for { // a run that ends because the way is shut right now is no failure of a task
		err := p.RunOnce(t.Context())
		if err == nil {
			break
		}
		require.ErrorIs(t, err, processor.ErrAPIUnavailable)
		p = processor.New(processorConf, b.Store, maker, b.pictures)
	}

	states, err := b.CountByState(t.Context())
	require.NoError(t, err)
	t.Logf("%v; the line: %v; retried %d, released %d, shut %d, calls %d", states, line.Faults(), b.count(processor.EventRetried),
		b.count(processor.EventReleased), b.count(processor.EventCircuitOpened), len(api.Calls()))
	assert.Equal(t, tasks, states[task.Completed]+states[task.Failed])
	assert.Greater(t, states[task.Completed], tasks*9/10, "most of them are made in spite of it")
	assert.Len(t, b.files(), states[task.Completed])
	for _, fault := range []faultnet.Fault{faultnet.Slice, faultnet.Reset, faultnet.Drop} {
		assert.Positive(t, line.Faults()[fault], fault)
	}
	var uncaused, unknown int
	require.NoError(t, b.raw.QueryRow(`select count(*) filter (where error_code is null or error_message is null or credits_refunded <> 1),
		count(*) filter (where error_code in ('internal', 'stuck', 'lease_expired')) from image_tasks where status = 'failed'`).Scan(&uncaused, &unknown))
	assert.Zero(t, uncaused)
	assert.Zero(t, unknown)
	balance, err := b.Balance(t.Context(), b.user)
	require.NoError(t, err)
	assert.Equal(t, 10000-states[task.Completed], balance)
	for _, secret := range []string{prompt, "nobody may read"} {
		assert.False(t, strings.Contains(b.log.String(), secret), "the log tells the prompt")
		var told int
		require.NoError(t, b.raw.QueryRow(`select count(*) from image_tasks where strpos(error_message, $1) > 0`, secret).Scan(&told))
		assert.Zero(t, told)
	}
	b.requireAudit()
}
