package processor_test

import (
	"bytes"
	"fmt"
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
	"imagetasks/pkg/processor"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// urlAPI is an API that answers with the URL of a picture, and counts the requests for one.
func urlAPI(t *testing.T, pictureURL func(self string) string, picture http.HandlerFunc) (api *httptest.Server, paid *atomic.Int64) {
	t.Helper()
	paid = &atomic.Int64{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/images/generations", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if !bytes.Contains(body, []byte(`"prompt"`)) { // a check
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":{"message":"a prompt is required","type":"invalid_request_error"}}`)
			return
		}
		paid.Add(1)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"data":[{"url":%q}]}`, pictureURL(api.URL))
	})
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"data":[]}`) })
	if picture != nil {
		mux.HandleFunc("GET /picture", picture)
	}
	api = httptest.NewServer(mux)
	t.Cleanup(api.Close)
	return api, paid
}

func (f *fixture) clientAt(api *httptest.Server) *imageapi.Client {
	f.t.Helper()
	transport, err := proxy.New(proxy.Config{})
	require.NoError(f.t, err)
	f.t.Cleanup(transport.CloseIdleConnections)
	c, err := imageapi.New(imageapi.Config{BaseURL: api.URL + "/v1", Key: key, Model: "m", Transport: transport, MaxBytes: 1 << 20})
	require.NoError(f.t, err)
	return c
}

// Once the API has answered with the URL of a picture, no other paid request is made, whatever becomes of the download.
func TestPaidURL_DownloadFails(t *testing.T) {
	own := func(self string) string { return self + "/picture" }
	for name, c := range map[string]struct {
		url     func(self string) string
		picture http.HandlerFunc
	}{
		"unreachable host": {func(string) string { return "http://127.0.0.1:1/picture" }, nil},
		"503":              {own, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }},
		"404":              {own, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }},
		"breaks":           {own, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		"cut": {own, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write(simapi.Draw("x")[:100])
			panic(http.ErrAbortHandler)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			api, paid := urlAPI(t, c.url, c.picture)
			id := f.enqueue("x")[0]
			stop := f.run(f.config(func(c *processor.Config) { c.TaskTimeout, c.MaxAttempts = 2*time.Second, 5 }), f.clientAt(api))
			f.seen(processor.EventReleased, 1)
			assert.Equal(t, task.Pending, f.row(id).State)
			assert.Zero(t, f.row(id).Attempts)
			f.exec(`update imagetasks.pending_results set saved_at = now() - interval '2 hours'`) // more than DOWNLOAD_WINDOW
			require.Eventually(t, func() bool {
				f.exec(`update imagetasks.tasks set run_after = now() where status = 'pending' and run_after > now()`) // sooner than the wait
				return f.row(id).State == task.Failed || paid.Load() > 1
			}, time.Minute, 20*time.Millisecond)
			stop()
			assert.EqualValues(t, 1, paid.Load(), "paid requests")
			row := f.row(id)
			assert.Equal(t, task.Failed, row.State)
			assert.Equal(t, task.CodePictureLost, row.ErrorCode)
			assert.Zero(t, f.count(processor.EventCircuitOpened), "a download says nothing about the API")
			assert.Equal(t, 1, row.RequestsSent)
			assert.EqualValues(t, 1, row.Refunded)
			f.requireAudit()
		})
	}
}

// A download that fails for a while is repeated by GET.
func TestPaidURL_DownloadIsRepeated(t *testing.T) {
	f := newFixture(t)
	var gets atomic.Int64
	content := simapi.Draw("x")
	api, paid := urlAPI(t, func(self string) string { return self + "/picture" }, func(w http.ResponseWriter, _ *http.Request) {
		switch gets.Add(1) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			_, _ = w.Write(content[:len(content)/2])
			panic(http.ErrAbortHandler)
		default:
			_, _ = w.Write(content)
		}
	})
	id := f.enqueue("x")[0]
	f.run(f.config(), f.clientAt(api))
	f.seen(processor.EventCompleted, 1)
	assert.EqualValues(t, 1, paid.Load())
	assert.EqualValues(t, 3, gets.Load())
	row := f.row(id)
	assert.Equal(t, task.Completed, row.State)
	assert.Equal(t, 1, row.RequestsSent)
}
