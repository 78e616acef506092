package imageapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

const key = "test-key-0123456789"

func startAPI(t *testing.T, conf simapi.Config) *simapi.Server {
	t.Helper()
	conf.Key = key
	s, err := simapi.Start(conf)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

func client(t *testing.T, baseURL, withKey string, conf proxy.Config) *imageapi.Client {
	t.Helper()
	tr, err := proxy.New(conf)
	require.NoError(t, err)
	t.Cleanup(tr.CloseIdleConnections)
	c, err := imageapi.New(imageapi.Config{BaseURL: baseURL, Key: withKey, Model: "gpt-image-2", Transport: tr, MaxBytes: 1 << 20})
	require.NoError(t, err)
	return c
}

func TestGenerate_ThroughProxyOverTLS(t *testing.T) {
	authority, err := simapi.NewAuthority()
	require.NoError(t, err)
	api := startAPI(t, simapi.Config{TLS: authority})
	p, err := simproxy.Start(simproxy.Config{User: "u", Password: "p"})
	require.NoError(t, err)
	defer p.Close()
	c := client(t, api.URL(), key, proxy.Config{Env: proxy.Env{OpenAI: []string{p.URL()}}, RootCAs: authority.Pool})

	var b bytes.Buffer
	result, err := c.Generate(t.Context(), imageapi.Request{Prompt: "a cat",
		Options: imageapi.Options{AspectRatio: "16:9", Style: "ink"}}, &b)
	require.NoError(t, err)
	assert.NotEmpty(t, result.RequestID)
	_, err = png.Decode(&b)
	require.NoError(t, err)
	calls := api.Calls()
	require.Len(t, calls, 1)
	assert.Equal(t, "/v1/images/generations", calls[0].Path)
	assert.Equal(t, "a cat\n\nStyle: ink", calls[0].Prompt)
	assert.Equal(t, "gpt-image-2", calls[0].Model)
	assert.Equal(t, "1536x864", calls[0].Size)
	assert.True(t, p.Carried(calls[0].Remote))
	require.NoError(t, c.Check(t.Context(), ""))
	assert.Equal(t, 1, api.Incomplete())
	assert.Zero(t, api.Probes())
}

// The table, case by case, as the API says it on the wire. Each failure takes one call: nothing below
// the queue retries.
func TestGenerate_Disposition(t *testing.T) {
	const prompt = "a secret wish"
	for behaviour, want := range map[string]struct {
		code task.Code
		do   task.Disposition
	}{
		"moderation": {task.CodeModeration, task.Fail},
		"400":        {task.CodeBadRequest, task.Fail},
		"413":        {task.CodeBadRequest, task.Fail},
		"422":        {task.CodeBadRequest, task.Fail},
		"401":        {task.CodeUnauthorized, task.Pause},
		"403":        {task.CodeForbidden, task.Pause},
		"404":        {task.CodeWrongAddress, task.Pause},
		"407":        {task.CodeProxyLoginMissing, task.Pause},
		"302":        {task.CodeWrongAddress, task.Pause},
		"quota":      {task.CodeNoQuota, task.Pause},
		"408":        {task.CodeTimeout, task.Release},
		"409":        {task.CodeServer, task.Retry},
		"429":        {task.CodeRateLimited, task.Release},
		"500":        {task.CodeServer, task.Retry},
		"502":        {task.CodeServer, task.Retry},
		"503":        {task.CodeServer, task.Retry},
		"529":        {task.CodeServer, task.Retry},
		"hang":       {task.CodeTimeout, task.Release},
		"cut":        {task.CodeCutOff, task.Release},
		"break":      {task.CodeNetwork, task.Release},
		"html":       {task.CodeWebPage, task.Release},
		"zero":       {task.CodeBadAnswer, task.Fail},
		"null":       {task.CodeBadAnswer, task.Fail},
		"error":      {task.CodeServer, task.Retry},
		"truncated":  {task.CodeCutOff, task.Release},
		"endless":    {task.CodeBadAnswer, task.Fail},
	} {
		t.Run(behaviour, func(t *testing.T) {
			api := startAPI(t, simapi.Config{})
			c := client(t, api.URL(), key, proxy.Config{})
			ctx := t.Context()
			if behaviour == "hang" {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
				defer cancel()
			}
			full := "[" + behaviour + "] " + prompt
			_, err := c.Generate(ctx, imageapi.Request{Prompt: full}, io.Discard)
			var got *task.Error
			require.ErrorAs(t, err, &got)
			assert.Equal(t, want.code, got.Code, "%v", err)
			assert.Equal(t, want.do, got.Disposition, "%v", err)
			assert.Equal(t, slices.Contains([]string{"408", "hang", "cut", "break", "html", "truncated"}, behaviour), got.Unknown, "%v", err)
			assert.NotEmpty(t, got.Message)
			assert.NotContains(t, err.Error(), prompt)
			assert.NotContains(t, err.Error(), key)
			assert.Len(t, api.Calls(), 1)
			if behaviour == "429" {
				assert.Equal(t, time.Second, got.RetryAfter)
			}
		})
	}
}

func answering(t *testing.T, status int, header http.Header, body string) *imageapi.Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		maps.Copy(w.Header(), header)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return client(t, s.URL+"/v1", key, proxy.Config{})
}

func TestGenerate_ErrorBodies(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		code   task.Code
		do     task.Disposition
	}{
		{400, `{"error":{"code":"moderation_blocked","message":"no"}}`, task.CodeModeration, task.Fail},
		{400, `{"error":{"code":"content_policy_violation"}}`, task.CodeModeration, task.Fail},
		{400, `{"error":{"type":"billing_hard_limit_reached"}}`, task.CodeNoQuota, task.Pause},
		{400, `{"error":{"code":"invalid_api_key"}}`, task.CodeUnauthorized, task.Pause},
		{403, `{"error":{"code":"unsupported_country_region_territory"}}`, task.CodeWrongCountry, task.Pause},
		{404, `{"error":{"code":"model_not_found"}}`, task.CodeModelRefused, task.Pause},
		{429, `{"error":{"type":"insufficient_quota"}}`, task.CodeNoQuota, task.Pause},
		{200, `{"error":{"code":"insufficient_quota"}}`, task.CodeNoQuota, task.Pause},
		{200, `{"error":"overloaded"}`, task.CodeServer, task.Retry},
		{200, `{"error":null,"data":[]}`, task.CodeBadAnswer, task.Fail},
		{200, `{"data":{}}`, task.CodeBadAnswer, task.Fail},
		{200, `{"data":[{"b64_json":17}]}`, task.CodeBadAnswer, task.Fail},
		{200, `{"data":[{"b64_json":"%%%"}]}`, task.CodeBadAnswer, task.Fail},
		{200, `{"data":[{"url":"ftp://x/y"}]}`, task.CodeBadAnswer, task.Fail},
		{200, `[]`, task.CodeBadAnswer, task.Fail},
		{200, ``, task.CodeCutOff, task.Release},
		{200, `{"data":[`, task.CodeCutOff, task.Release},
		{200, `not JSON`, task.CodeBadAnswer, task.Release},
		{502, `<html>Bad gateway</html>`, task.CodeServer, task.Release},
		{403, `<html>Access denied</html>`, task.CodeWebPage, task.Pause},
		{500, ``, task.CodeServer, task.Release},
		{400, `{"error":` + string(bytes.Repeat([]byte("["), 10000)), task.CodeBadRequest, task.Fail},
		{301, ``, task.CodeWrongAddress, task.Pause},
	} {
		_, err := answering(t, c.status, nil, c.body).Generate(t.Context(), imageapi.Request{Prompt: "x"}, io.Discard)
		var got *task.Error
		if assert.ErrorAs(t, err, &got, "%d %s", c.status, c.body) {
			assert.Equal(t, c.code, got.Code, "%d %s: %v", c.status, c.body, err)
			assert.Equal(t, c.do, got.Disposition, "%d %s: %v", c.status, c.body, err)
			assert.Less(t, len(got.Message), 600)
		}
	}
}

func TestGenerate_RetryAfter(t *testing.T) {
	for _, c := range []struct {
		name, value string
		least, most time.Duration
	}{
		{"Retry-After", "7", 7 * time.Second, 7 * time.Second},
		{"Retry-After", "0.5", 500 * time.Millisecond, 500 * time.Millisecond},
		{"Retry-After-Ms", "250", 250 * time.Millisecond, 250 * time.Millisecond},
		{"Retry-After", time.Now().Add(time.Minute).UTC().Format(http.TimeFormat), time.Second, time.Minute},
		{"Retry-After", time.Now().Add(-time.Minute).UTC().Format(http.TimeFormat), 0, 0},
		{"Retry-After", "-5", 0, 0},
		{"Retry-After", "soon", 0, 0},
		{"Retry-After", "NaN", 0, 0},
		{"Retry-After", "1e300", time.Hour, time.Hour},
		{"Retry-After", "99999", time.Hour, time.Hour},
	} {
		_, err := answering(t, 429, http.Header{c.name: {c.value}}, "").Generate(t.Context(), imageapi.Request{Prompt: "x"}, io.Discard)
		var got *task.Error
		require.ErrorAs(t, err, &got)
		assert.GreaterOrEqual(t, got.RetryAfter, c.least, c.value)
		assert.LessOrEqual(t, got.RetryAfter, c.most, c.value)
	}
}

func TestGenerate_DownloadsURLWithoutKey(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	var b bytes.Buffer
	c := client(t, api.URL(), key, proxy.Config{})
	result, err := c.Generate(t.Context(), imageapi.Request{Prompt: "[url] a cat"}, &b)
	require.NoError(t, err)
	assert.Empty(t, b.Bytes())
	require.NoError(t, c.Download(t.Context(), result.URL, 1, &b))
	assert.True(t, bytes.Equal(simapi.Draw("[url] a cat"), b.Bytes()))
}

func TestGenerate_WriterFails(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := client(t, api.URL(), key, proxy.Config{})
	tooLarge := &task.Error{Code: task.CodeTooLarge, Message: "too large"}
	generate := func(to io.Writer) error {
		_, err := c.Generate(t.Context(), imageapi.Request{Prompt: "a cat"}, to)
		return err
	}
	result, err := c.Generate(t.Context(), imageapi.Request{Prompt: "[url] a cat"}, io.Discard)
	require.NoError(t, err)
	download := func(to io.Writer) error { return c.Download(t.Context(), result.URL, 1, to) }
	for _, write := range []func(io.Writer) error{generate, download} {
		assert.Equal(t, task.CodeTooLarge, task.AsError(write(failing{tooLarge})).Code)
		assert.Equal(t, task.CodeInternal, task.AsError(write(failing{errors.New("disk")})).Code)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestCheck_Unreachable(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	down, err := simproxy.Start(simproxy.Config{User: "u", Password: "hunter2"})
	require.NoError(t, err)
	require.NoError(t, down.Close())
	for name, c := range map[string]*imageapi.Client{
		"proxy down": client(t, api.URL(), key, proxy.Config{Env: proxy.Env{OpenAI: []string{down.URL()}}}),
		"wrong key":  client(t, api.URL(), "wrong-key-987654321", proxy.Config{}),
		"no api":     client(t, "http://127.0.0.1:1/v1", key, proxy.Config{}),
	} {
		_, made := c.Generate(t.Context(), imageapi.Request{Prompt: "x"}, io.Discard)
		probed := c.Check(t.Context(), "")
		for _, err := range []error{made, probed} {
			require.Error(t, err, name)
			assert.Equal(t, task.Pause, task.AsError(err).Disposition, name)
			assert.NotContains(t, err.Error(), "hunter2")
		}
	}
}

// A relay that refuses the list says "model" in its error; it says nothing about any model.
func TestListModels_RefusedListIsNoRefusedModel(t *testing.T) {
	c := answering(t, http.StatusForbidden, http.Header{"Content-Type": {"application/json"}},
		`{"error":{"message":"该令牌无权访问模型列表","type":"new_api_error","code":"access_denied"}}`)
	_, err := c.ListModels(t.Context())
	e := task.AsError(err)
	assert.Equal(t, task.CodeForbidden, e.Code)
	assert.Equal(t, "the API refuses to list its models (403): 该令牌无权访问模型列表", e.Message)
}

func TestListModels_NoListOrWrongAddress(t *testing.T) {
	relay := startAPI(t, simapi.Config{NoModels: true})
	ids, err := client(t, relay.URL(), key, proxy.Config{}).ListModels(t.Context())
	assert.NoError(t, err)
	assert.Empty(t, ids)
	assert.Empty(t, relay.Calls(), "no picture was asked for")

	_, err = client(t, relay.URL(), "wrong-key-987654321", proxy.Config{}).ListModels(t.Context())
	assert.Equal(t, task.CodeUnauthorized, task.AsError(err).Code)
	for _, base := range []string{strings.TrimSuffix(relay.URL(), "/v1"), relay.URL() + "/nothing"} {
		c := client(t, base, key, proxy.Config{})
		for _, err := range []error{c.Check(t.Context(), ""), func() error { _, err := c.ListModels(t.Context()); return err }()} {
			assert.Equal(t, task.CodeWrongAddress, task.AsError(err).Code)
			assert.Equal(t, task.Pause, task.AsError(err).Disposition)
		}
	}
	portal := answering(t, 200, http.Header{"Content-Type": {"text/html; charset=utf-8"}}, "<html>Log in</html>")
	assert.Equal(t, task.CodeWebPage, task.AsError(portal.Check(t.Context(), "")).Code)
}

// The API may refuse the proxy's exit: then another of the list serves, and only where there is none is the way shut.
func TestGenerate_EjectsRefusedProxy(t *testing.T) {
	first, err := simproxy.Start(simproxy.Config{})
	require.NoError(t, err)
	defer first.Close()
	second, err := simproxy.Start(simproxy.Config{})
	require.NoError(t, err)
	defer second.Close()
	var refused sync.Map // which proxies' exits the API won't serve
	sim := startAPI(t, simapi.Config{})
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, p := range []*simproxy.Proxy{first, second} {
			if code, ok := refused.Load(p); ok && p.Carried(r.RemoteAddr) {
				w.WriteHeader(http.StatusForbidden)
				fmt.Fprintf(w, `{"error":{"code":%q}}`, code)
				return
			}
		}
		target, _ := url.Parse(strings.TrimSuffix(sim.URL(), "/v1"))
		httputil.NewSingleHostReverseProxy(target).ServeHTTP(w, r)
	}))
	defer api.Close()
	c := client(t, api.URL+"/v1", key, proxy.Config{Env: proxy.Env{OpenAI: []string{first.URL(), second.URL()}}})
	refused.Store(first, "unsupported_country_region_territory")
	_, err = c.Generate(t.Context(), imageapi.Request{Prompt: "x"}, io.Discard)
	assert.Equal(t, task.CodeWrongCountry, task.AsError(err).Code)
	assert.Equal(t, task.Release, task.AsError(err).Disposition, "another may serve it")
	_, err = c.Generate(t.Context(), imageapi.Request{Prompt: "x"}, io.Discard)
	require.NoError(t, err)
	assert.Len(t, second.Targets(), 1)

	refused.Store(second, "")
	_, err = c.Generate(t.Context(), imageapi.Request{Prompt: "x"}, io.Discard)
	assert.Equal(t, task.CodeForbidden, task.AsError(err).Code)
	assert.Equal(t, task.Pause, task.AsError(err).Disposition, "there is none left")
	assert.Error(t, c.Check(t.Context(), ""))
}

func TestGenerate_Canceled(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for len(api.Calls()) == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	_, err := client(t, api.URL(), key, proxy.Config{}).Generate(ctx, imageapi.Request{Prompt: "[hang]"}, io.Discard)
	assert.Equal(t, task.Release, task.AsError(err).Disposition)
}

func TestNew_InvalidConfig(t *testing.T) {
	for _, conf := range []imageapi.Config{{}, {Key: "a b", BaseURL: "http://x"}, {Key: "k", BaseURL: "http://[::1"}} {
		_, err := imageapi.New(conf)
		assert.Error(t, err)
	}
}

func TestSizes(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := client(t, api.URL(), key, proxy.Config{})
	for _, ratio := range []struct{ ratio, model, size string }{
		{"", "", ""}, {"1:1", "", "1024x1024"}, {"9:16", "", "864x1536"}, {"Portrait", "", "1024x1536"},
		{"16:9", "dall-e-3", "1792x1024"}, {"16:9", "dall-e-2", "1024x1024"}, {"2048x1152", "", "2048x1152"},
	} {
		_, err := c.Generate(t.Context(), imageapi.Request{Prompt: "x", Model: ratio.model,
			Options: imageapi.Options{AspectRatio: ratio.ratio}}, io.Discard)
		require.NoError(t, err)
		calls := api.Calls()
		assert.Equal(t, ratio.size, calls[len(calls)-1].Size, ratio.ratio)
	}
}
