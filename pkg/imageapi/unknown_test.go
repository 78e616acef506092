package imageapi_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// What tells that no picture was made, and what leaves it open.
func TestGenerate_UnknownOutcome(t *testing.T) {
	page := http.Header{"Content-Type": {"text/html"}}
	for _, c := range []struct {
		status  int
		header  http.Header
		body    string
		unknown bool
	}{
		{500, nil, `{"error":{"message":"overloaded"}}`, false},
		{500, nil, `{"error":"overloaded"}`, false},
		{500, nil, `{"detail":"overloaded"}`, false},
		{502, page, `<html>Bad gateway</html>`, true},
		{504, nil, `{"error":{"message":"upstream request timeout"}}`, true}, // a gateway, by its definition, that got no answer
		{408, nil, `upstream request timeout`, true},
		{408, nil, `{"error":{"message":"timeout"}}`, true},
		{429, page, `<html>You are being rate limited</html>`, false}, // it was not passed on
		{403, page, `<html>Access denied</html>`, false},
	} {
		_, err := answering(t, c.status, c.header, c.body).Generate(t.Context(), imageapi.Request{Prompt: "x"}, io.Discard)
		var got *task.Error
		require.ErrorAs(t, err, &got)
		assert.Equal(t, c.unknown, got.Unknown, "%d %s: %v", c.status, c.body, err)
	}
}

// An error that was cut off was not read whole.
func TestGenerate_ErrorCutOff(t *testing.T) {
	for _, body := range []string{`{"error":{"message":"overl`, `{"error":{"message":"overloaded"}`} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, body)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}))
		_, err := client(t, s.URL+"/v1", key, proxy.Config{}).Generate(t.Context(), imageapi.Request{Prompt: "x"}, io.Discard)
		s.Close()
		var got *task.Error
		require.ErrorAs(t, err, &got)
		assert.True(t, got.Unknown, body)
	}
}

// A relay may answer with another status of success: its picture is taken.
func TestGenerate_OtherSuccess(t *testing.T) {
	picture := simapi.Draw("x")
	for _, status := range []int{http.StatusCreated, http.StatusAccepted} {
		var b bytes.Buffer
		body := `{"data":[{"b64_json":"` + base64.StdEncoding.EncodeToString(picture) + `"}]}`
		_, err := answering(t, status, nil, body).Generate(t.Context(), imageapi.Request{Prompt: "x"}, &b)
		require.NoError(t, err, status)
		assert.Equal(t, picture, b.Bytes())
		_, err = answering(t, status, nil, `{"data":[]}`).Generate(t.Context(), imageapi.Request{Prompt: "x"}, io.Discard)
		assert.Equal(t, task.Fail, task.AsError(err).Disposition, "what may have been billed is not asked for again and again")
		_, err = answering(t, status, nil, `{"error":{"message":"overloaded"}}`).Generate(t.Context(), imageapi.Request{Prompt: "x"}, io.Discard)
		assert.Equal(t, task.Retry, task.AsError(err).Disposition, "the API says that it failed")
	}
}

// A server that reads the request and closes the connection, also one that was used before, gets it once: net/http repeats by itself what it
// takes for idempotent.
func TestGenerate_ServerClosesAfterReading(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		var posts []string
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if body, _ := io.ReadAll(r.Body); !bytes.Contains(body, []byte(`"prompt"`)) {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			posts = append(posts, r.Proto+" "+r.Header.Get("Idempotency-Key"))
			panic(http.ErrAbortHandler)
		}))
		s.EnableHTTP2 = http2
		s.StartTLS()
		conf := proxy.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
		c := client(t, s.URL+"/v1", key, conf)
		require.NoError(t, c.Check(t.Context(), ""), "the connection is used before")
		request := imageapi.Request{Prompt: strings.Repeat("x", 1000), BeforeSend: beforeSend("key-1")}
		_, err := c.Generate(t.Context(), request, io.Discard)
		s.Close()
		require.Error(t, err)
		assert.True(t, task.AsError(err).Unknown, "%v", err)
		require.Len(t, posts, 1)
		assert.Contains(t, posts[0], "key-1")
		assert.Equal(t, http2, strings.HasPrefix(posts[0], "HTTP/2"))
	}
}

func beforeSend(idempotencyKey string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return idempotencyKey, nil }
}
