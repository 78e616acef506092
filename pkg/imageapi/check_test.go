package imageapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// Check asks the endpoint that makes pictures and pays nothing, whatever the list of models says.
func TestCheck_NothingIsPaid(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := client(t, api.URL(), key, proxy.Config{})
	require.NoError(t, c.Check(t.Context(), ""))
	api.RefuseList(&simapi.Refusal{Status: 403})
	require.NoError(t, c.Check(t.Context(), ""))
	api.RefuseList(nil)

	api.RefuseModel("a", simapi.Failure("not verified"))
	e := checkError(t, c, "a")
	assert.Equal(t, task.CodeModelRefused, e.Code)
	assert.Equal(t, task.ScopeModel, e.Scope)
	assert.NoError(t, c.Check(t.Context(), "b"), "other models go on")
	for name, want := range map[string]task.Code{"user quota": task.CodeNoQuota, "token quota": task.CodeNoQuota, "country": task.CodeWrongCountry,
		"no channel": task.CodeModelRefused, "saturated": task.CodeRateLimited, "30011": task.CodeNoQuota, "portal": task.CodeWebPage,
		"cloudflare 524": task.CodeTimeout, "nginx 502": task.CodeServer} {
		api.Refuse(simapi.Failure(name))
		e := checkError(t, c, "")
		assert.Equal(t, want, e.Code, name)
		assert.False(t, e.Unknown, "%s: nothing was asked for", name)
	}
	api.Refuse(nil)
	assert.NoError(t, c.Check(t.Context(), ""))
	require.NoError(t, c.SetKey("another-key-0123456"))
	assert.Equal(t, task.CodeUnauthorized, checkError(t, c, "").Code)
	assert.Zero(t, api.Paid())
	assert.Zero(t, api.Probes())
}

func checkError(t *testing.T, c *imageapi.Client, model string) *task.Error {
	t.Helper()
	err := c.Check(t.Context(), model)
	e, ok := errors.AsType[*task.Error](err)
	require.True(t, ok, "%v", err)
	return e
}

// What an incomplete request is refused with means that the endpoint works.
func TestCheck_RefusalsOfTheRequest(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
	}{
		{400, `{"error":{"code":"missing_required_parameter","message":"Missing required parameter: 'prompt'."}}`},
		{400, `{"error":{"code":"invalid_type","param":"n"}}`},
		{422, `{"detail":[{"loc":["body","prompt"],"msg":"field required","type":"value_error.missing"}]}`},
		{500, `{"error":{"message":"json: cannot unmarshal string into Go struct field ImageRequest.n of type uint","code":"invalid_request"}}`},
		{400, `{"error":{"message":"prompt is required","code":"prompt_missing"}}`},
		{200, `{"code":400,"message":"prompt is required"}`},
		{200, `{"error":{"message":"prompt is required"}}`},
		{400, ``},
	} {
		assert.NoError(t, answering(t, c.status, nil, c.body).Check(t.Context(), ""), "%d %s", c.status, c.body)
	}
}

// An endpoint that makes something of an incomplete request is never asked in this way again.
func TestCheck_AnswerWithAPicture(t *testing.T) {
	for _, body := range []string{`{"data":[{"b64_json":"aGVsbG8="}]}`, `{"data":[{"url":"https://x.example/1.png"}]}`, `{"data":[]}`, `{"id":"1","status":"queued"}`,
		`{"data":[{"b64_json":"aGVsb`, "data: {\"choices\":[]}\n\n", "\x89PNG\r\n\x1a\n"} {
		var asked atomic.Int64
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			_, _ = io.WriteString(w, body)
		}))
		c := client(t, s.URL+"/v1", key, proxy.Config{})
		for range 3 {
			err := c.Check(t.Context(), "")
			assert.ErrorIs(t, err, task.ErrUncheckable, body)
		}
		s.Close()
		assert.EqualValues(t, 1, asked.Load(), body)
	}
}

// An error that doesn't say whose it is may be that of every incomplete request: it is shown, and says nothing.
func TestCheck_FailureWithoutACause(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
	}{{500, `{"error":{"message":"oops"}}`}, {200, `{"error":"oops"}`}, {503, `{"detail":"oops"}`}} {
		api := answering(t, c.status, nil, c.body)
		for range 2 {
			err := api.Check(t.Context(), "")
			assert.ErrorIs(t, err, task.ErrUncheckable)
			assert.ErrorContains(t, err, "oops")
			assert.Equal(t, task.CodeServer, task.AsError(err).Code)
		}
	}
	for _, c := range []struct {
		status int
		body   string
		code   task.Code
	}{{404, `{"error":{"message":"Invalid URL"}}`, task.CodeWrongAddress}, {405, `{"detail":"Method Not Allowed"}`, task.CodeWrongAddress},
		{404, `404 page not found`, task.CodeWrongAddress}, {200, `OK`, task.CodeBadAnswer}, {200, ``, task.CodeCutOff}} {
		err := answering(t, c.status, nil, c.body).Check(t.Context(), "")
		assert.NotErrorIs(t, err, task.ErrUncheckable)
		assert.Equal(t, c.code, task.AsError(err).Code, "%d %s", c.status, c.body)
	}
}

func TestCheck_WhatIsSent(t *testing.T) {
	var sent []map[string]any
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		assert.NoError(t, json.NewDecoder(r.Body).Decode(&body))
		assert.Empty(t, r.Header.Get("Idempotency-Key"))
		assert.Equal(t, "/v1/images/generations", r.URL.Path)
		sent = append(sent, body)
		w.WriteHeader(http.StatusBadRequest)
	}))
	defer s.Close()
	c := client(t, s.URL+"/v1", key, proxy.Config{})
	require.NoError(t, c.Check(t.Context(), ""))
	require.NoError(t, c.Check(t.Context(), "m"))
	assert.Equal(t, []map[string]any{{"model": "gpt-image-2", "n": "none"}, {"model": "m", "n": "none"}}, sent)
}

// A connection that breaks is tried once more; an answer that does not come ends with the context.
func TestCheck_Connection(t *testing.T) {
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusBadRequest)
	}))
	defer s.Close()
	require.NoError(t, client(t, s.URL+"/v1", key, proxy.Config{}).Check(t.Context(), ""))
	assert.EqualValues(t, 2, asked.Load())

	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := client(t, silent.URL+"/v1", key, proxy.Config{}).Check(ctx, "")
	assert.Equal(t, task.CodeTimeout, task.AsError(err).Code)
	assert.False(t, task.AsError(err).Unknown)
}
