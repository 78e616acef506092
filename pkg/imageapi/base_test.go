package imageapi_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/task"
)

// apiAt is a server with an API under a path, and something else notThere.
type apiAt struct {
	*httptest.Server
	mu       sync.Mutex
	path     string // under which the API is; "none": nowhere
	notThere http.HandlerFunc
	free     []string // paths of incomplete requests
	paid     []string // URLs of complete ones
}

func newAPIAt(t *testing.T, path string, notThere http.HandlerFunc) *apiAt {
	a := &apiAt{path: path, notThere: notThere}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *apiAt) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	content, _ := io.ReadAll(r.Body)
	a.mu.Lock()
	defer a.mu.Unlock()
	complete := strings.Contains(string(content), `"prompt"`)
	if complete {
		a.paid = append(a.paid, r.URL.RequestURI())
	} else {
		a.free = append(a.free, r.URL.Path)
	}
	switch {
	case r.URL.Path != a.path+"/images/generations":
		a.notThere(w, r)
	case complete:
		fmt.Fprintf(w, `{"data":[{"b64_json":"aGFsbG8="}]}`)
	default:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":{"message":"prompt is required","type":"invalid_request_error"}}`)
	}
}

func (a *apiAt) client(t *testing.T, more string) *imageapi.Client {
	client, err := imageapi.New(imageapi.Config{BaseURL: a.URL + more, FindV1: true, Key: "sk-a", Model: "gpt-image-2", MaxBytes: 1 << 20})
	require.NoError(t, err)
	return client
}

func answer(status int, contentType, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		fmt.Fprint(w, text)
	}
}

var notThere = map[string]http.HandlerFunc{
	"404":        answer(404, "text/plain", "404 page not found"),
	"404 json":   answer(404, "application/json", `{"error":{"message":"Invalid URL (POST /images/generations)","type":"invalid_request_error"}}`),
	"405":        answer(405, "application/json", `{"detail":"Method Not Allowed"}`),
	"a web page": answer(200, "text/html", "<!doctype html><html><body>new-api</body></html>"),
}

// Where the API is shows once, free of charge, and before anything is paid for.
func TestFindV1(t *testing.T) {
	t.Parallel()
	for name, handler := range notThere {
		for _, path := range []string{"/v1", ""} {
			for _, query := range []string{"", "?api-version=1"} {
				t.Run(name+path+query, func(t *testing.T) {
					t.Parallel()
					a := newAPIAt(t, path, handler)
					client := a.client(t, query)
					var before []string
					var running sync.WaitGroup
					for range 4 {
						running.Go(func() {
							_, err := client.Generate(t.Context(), imageapi.Request{Prompt: "a lantern", BeforeSend: func(context.Context) (string, error) {
								a.mu.Lock()
								defer a.mu.Unlock()
								before = append(before, strings.Join(a.free, " "))
								return "", nil
							}}, io.Discard)
							assert.NoError(t, err)
						})
					}
					running.Wait()
					want := path + "/images/generations" + query
					assert.Equal(t, []string{want, want, want, want}, a.paid)
					tried := map[string][]string{"/v1": {"/v1/images/generations"}, "": {"/v1/images/generations", "/images/generations"}}[path]
					assert.Equal(t, tried, a.free)
					for _, b := range before {
						assert.Equal(t, strings.Join(tried, " "), b, "it was decided before a paid request was recorded")
					}
				})
			}
		}
	}
}

// What decides nothing stops paid requests until it is decided.
func TestFindV1_Undecided(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]http.HandlerFunc{
		"down":      answer(502, "text/html", "<html>Bad Gateway</html>"),
		"failing":   answer(500, "application/json", `{"error":{"message":"boom","type":"server_error"}}`),
		"not there": notThere["404"],
		"cut off": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPIAt(t, "none", handler)
			client := a.client(t, "")
			_, err := client.Generate(t.Context(), imageapi.Request{Prompt: "a lantern", BeforeSend: func(context.Context) (string, error) {
				t.Error("a paid request was recorded")
				return "", nil
			}}, io.Discard)
			failed := task.AsError(err)
			require.Error(t, err)
			assert.True(t, failed.NotSent)
			assert.False(t, failed.Unknown || failed.Paid)
			assert.NotEqual(t, task.Fail, failed.Disposition)
			assert.Error(t, client.Check(t.Context(), ""))
			assert.Empty(t, a.paid)

			a.mu.Lock()
			a.path, a.notThere = "/v1", notThere["404"]
			a.mu.Unlock()
			var picture bytes.Buffer
			_, err = client.Generate(t.Context(), imageapi.Request{Prompt: "a lantern"}, &picture)
			require.NoError(t, err)
			assert.Equal(t, []string{"/v1/images/generations"}, a.paid)
		})
	}
}

// A server error in one place, and nothing in the other one, decide as well: some relays answer every incomplete request with an error.
func TestFindV1_ByElimination(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/v1", ""} {
		failing := func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == path+"/images/generations" {
				answer(500, "application/json", `{"error":{"message":"boom","type":"server_error"}}`)(w, r)
				return
			}
			notThere["404"](w, r)
		}
		a := newAPIAt(t, "none", failing)
		_, err := a.client(t, "").Generate(t.Context(), imageapi.Request{Prompt: "a lantern"}, io.Discard)
		assert.False(t, task.AsError(err).NotSent)
		assert.Equal(t, []string{path + "/images/generations"}, a.paid)
	}
}

// A base URL with a path is used as it is, and so is one without where nobody asked for more.
func TestFindV1_NotNecessary(t *testing.T) {
	t.Parallel()
	a := newAPIAt(t, "/api", notThere["404"])
	_, err := a.client(t, "/api").Generate(t.Context(), imageapi.Request{Prompt: "a lantern"}, io.Discard)
	require.NoError(t, err)
	assert.Empty(t, a.free)
}

func TestFindV1_Interrupted(t *testing.T) {
	t.Parallel()
	a := newAPIAt(t, "/v1", notThere["404"])
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := a.client(t, "").Generate(ctx, imageapi.Request{Prompt: "a lantern"}, io.Discard)
	failed := task.AsError(err)
	assert.Equal(t, task.CodeShutdown, failed.Code)
	assert.True(t, failed.NotSent)
}
