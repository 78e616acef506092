package processor_test

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/imageworker"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// urlAPI is an API that answers with the URL of a picture, and counts the requests for one.
func urlAPI(t *testing.T, pictureURL func(self string) string, picture http.HandlerFunc) (api *httptest.Server, paid *atomic.Int64) {
	t.Helper()
	paid = &atomic.Int64{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/images/generations", func(w http.ResponseWriter, r *http.Request) {
		var request struct{ Prompt string }
		w.Header().Set("Content-Type", "application/json")
		if json.NewDecoder(r.Body).Decode(&request) != nil || request.Prompt == "" { // a check, which costs nothing
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":{"message":"Missing required parameter: 'prompt'.","type":"invalid_request_error","param":"prompt","code":"missing_required_parameter"}}`)
			return
		}
		paid.Add(1)
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

// downloading returns a processor whose times of downloads are those of a test.
func (f *fixture) downloading(client generator, d imageworker.Downloads, change ...func(*processor.Config)) *processor.Processor {
	d.MinWait, d.MaxWait = 20*time.Millisecond, 100*time.Millisecond
	conf := f.config(change...)
	useEndpoint(&conf, client)
	return processor.New(conf, f.Store, imageworker.New(imageworker.Only(client), f.pictures, f.logger).WithDownloads(d))
}

// A picture that can't be fetched is lost after the window, or when its host has said three times that it does not have it. Its task fails and
// is refunded, without another paid request and without an attempt.
func TestPaidURL_PictureLost(t *testing.T) {
	own := func(self string) string { return self + "/picture" }
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	window := imageworker.Downloads{Window: 1500 * time.Millisecond}
	gone := imageworker.Downloads{GoneAfter: 500 * time.Millisecond}
	for name, c := range map[string]struct {
		url       func(self string) string
		picture   http.HandlerFunc
		downloads imageworker.Downloads
	}{
		"unreachable host": {func(string) string { return "http://127.0.0.1:1/picture" }, nil, window},
		"unknown host":     {func(string) string { return "http://picture.invalid/picture" }, nil, window},
		"503":              {own, status(503), window},
		"breaks":           {own, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, window},
		"cut": {own, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write(simapi.Draw("x")[:100])
			panic(http.ErrAbortHandler)
		}, window},
		"a page": {own, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>not found</html>") }, window},
		"404":    {own, status(404), gone},
		"410":    {own, status(410), gone},
		"403":    {own, status(403), gone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			var gets atomic.Int64
			counted := c.picture
			if counted != nil {
				counted = func(w http.ResponseWriter, r *http.Request) { gets.Add(1); c.picture(w, r) }
			}
			api, paid := urlAPI(t, c.url, counted)
			id := f.enqueue("x")[0]
			stop := f.start(f.downloading(f.clientAt(api), c.downloads, func(c *processor.Config) { c.MaxAttempts = 2 }))
			f.seen(processor.EventFailed, 1)
			stop()
			assert.EqualValues(t, 1, paid.Load(), "paid requests")
			row := f.row(id)
			assert.Equal(t, []any{task.Failed, task.CodePictureLost, 1, 0, 0}, []any{row.State, row.ErrorCode, row.RequestsSent, row.Unknown, row.Attempts})
			assert.EqualValues(t, 1, row.Refunded)
			if c.picture != nil {
				assert.Greater(t, gets.Load(), int64(3), "in several claims")
			}
			assert.Zero(t, f.count(processor.EventCircuitOpened), "it says nothing against the API")
			f.requireAudit()
		})
	}
}

// A picture that can't be fetched at first is fetched later, and is paid for once.
func TestPaidURL_Fetched(t *testing.T) {
	content := simapi.Draw("x")
	deliver := func(w http.ResponseWriter) { _, _ = w.Write(content) }
	for name, c := range map[string]struct {
		picture func(w http.ResponseWriter, r *http.Request, n int64) // the n-th GET
		claims  int                                                   // at least
	}{
		"503 twice": {claims: 1, picture: func(w http.ResponseWriter, _ *http.Request, n int64) {
			if n < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			deliver(w)
		}},
		"cut, then gone, then there": {claims: 3, picture: func(w http.ResponseWriter, _ *http.Request, n int64) {
			switch {
			case n == 1:
				w.Header().Set("Content-Length", fmt.Sprint(len(content)))
				_, _ = w.Write(content[:len(content)/2])
				panic(http.ErrAbortHandler)
			case n < 7:
				w.WriteHeader(http.StatusNotFound)
			default:
				deliver(w)
			}
		}},
		"redirect to another host": {claims: 1, picture: func(w http.ResponseWriter, r *http.Request, n int64) {
			if n == 1 {
				http.Redirect(w, r, "http://"+strings.Replace(r.Host, "127.0.0.1", "localhost", 1)+"/picture", http.StatusFound)
				return
			}
			deliver(w)
		}},
		"breaks for a while": {claims: 2, picture: func(w http.ResponseWriter, _ *http.Request, n int64) {
			if n < 6 {
				panic(http.ErrAbortHandler)
			}
			deliver(w)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			var gets atomic.Int64
			api, paid := urlAPI(t, func(self string) string { return self + "/picture?sig=a-secret" }, func(w http.ResponseWriter, r *http.Request) {
				assert.Empty(t, r.Header.Get("Authorization")+r.Header.Get("Referer"))
				c.picture(w, r, gets.Add(1))
			})
			f.requirePaidOnce(f.clientAt(api), paid)
			assert.GreaterOrEqual(t, f.count(processor.EventClaimed), c.claims)
			assert.NotContains(t, f.log.String(), "a-secret")
		})
	}
}

// requirePaidOnce works one task until it is completed, with one paid request and no attempt.
func (f *fixture) requirePaidOnce(client generator, paid *atomic.Int64) {
	f.t.Helper()
	id := f.enqueue("x")[0]
	stop := f.start(f.downloading(client, imageworker.Downloads{}, func(c *processor.Config) { c.MaxAttempts = 2 }))
	f.seen(processor.EventCompleted, 1)
	stop()
	assert.EqualValues(f.t, 1, paid.Load())
	row := f.row(id)
	assert.Equal(f.t, []any{task.Completed, 1, 0}, []any{row.State, row.RequestsSent, row.Unknown})
	assert.Zero(f.t, f.count(processor.EventCircuitOpened)+f.count(processor.EventRetried)+f.count(processor.EventFailed))
	assert.Len(f.t, f.files(), 1)
	f.requireAudit()
}

// choosyProxy is a proxy for plain http that refuses one host:port.
type choosyProxy struct {
	url     string
	refused atomic.Pointer[string]
}

func startChoosyProxy(t *testing.T, refused string) *choosyProxy {
	t.Helper()
	p := &choosyProxy{}
	p.refused.Store(&refused)
	forward := &httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}, ErrorLog: log.New(io.Discard, "", 0)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host == *p.refused.Load() {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// Proxies that carry the API and refuse the picture's host, or don't know it: the others are tried, and a picture that none delivers waits.
func TestPaidURL_ProxyRefusesHost(t *testing.T) {
	for name, c := range map[string]struct {
		both  bool // refuse it, for two seconds
		stray bool // the picture's host is down for two seconds instead
	}{"one proxy": {}, "each proxy, for a while": {both: true}, "the host is down for a while": {stray: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			host := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(simapi.Draw("x")) }))
			addr := host.Listener.Addr().String()
			if c.stray {
				require.NoError(t, host.Listener.Close())
			} else {
				host.Start()
				t.Cleanup(host.Close)
			}
			api, paid := urlAPI(t, func(string) string { return "http://" + addr + "/picture" }, nil)
			second := ""
			if c.both {
				second = addr
			}
			proxies := []*choosyProxy{startChoosyProxy(t, addr), startChoosyProxy(t, second)}
			transport, err := proxy.New(proxy.Config{Env: proxy.Env{OpenAI: []string{proxies[0].url, proxies[1].url}}})
			require.NoError(t, err)
			t.Cleanup(transport.CloseIdleConnections)
			client, err := imageapi.New(imageapi.Config{BaseURL: api.URL + "/v1", Key: key, Model: "m", Transport: transport, MaxBytes: 1 << 20})
			require.NoError(t, err)
			repaired := time.AfterFunc(2*time.Second, func() {
				proxies[1].refused.Store(new(string))
				if c.stray {
					l, err := net.Listen("tcp", addr)
					if assert.NoError(t, err) {
						host.Listener = l
						host.Start()
					}
				}
			})
			f.requirePaidOnce(client, paid)
			assert.Equal(t, !(c.both || c.stray), repaired.Stop(), "it waited where it had to")
			if c.stray {
				host.Close()
			}
			for _, s := range transport.States(&url.URL{Scheme: "http", Host: "api.example"}) {
				assert.False(t, s.Ejected, s.Reason)
			}
		})
	}
}

// A processor that is stopped during the download leaves the picture to the next one, which pays for nothing.
func TestPaidURL_Restart(t *testing.T) {
	f := newFixture(t)
	asked, there := make(chan struct{}, 100), make(chan struct{})
	api, paid := urlAPI(t, func(self string) string { return self + "/picture" }, func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-there:
			_, _ = w.Write(simapi.Draw("x"))
		case <-r.Context().Done():
		}
	})
	id := f.enqueue("x")[0]
	for range 3 {
		p := f.downloading(f.clientAt(api), imageworker.Downloads{}, func(c *processor.Config) { c.ShutdownGrace = time.Millisecond })
		stop := f.start(p)
		<-asked
		p.StopNow()
		stop()
		row := f.row(id)
		assert.Equal(t, []any{task.Pending, 1, 0, 0}, []any{row.State, row.RequestsSent, row.Unknown, row.Attempts})
	}
	close(there)
	f.start(f.downloading(f.clientAt(api), imageworker.Downloads{}))
	f.seen(processor.EventCompleted, 1)
	assert.EqualValues(t, 1, paid.Load())
	f.requireAudit()
}

// forgetfulQueue loses the first calls of SavePending, or the answers to them.
type forgetfulQueue struct {
	*store.Store
	lost  atomic.Int64 // calls that are still lost
	after bool         // only the answer is lost
	saved atomic.Bool
}

func (q *forgetfulQueue) SavePending(ctx context.Context, l task.Lease, p task.PendingResult) error {
	if q.lost.Add(-1) >= 0 {
		if q.after {
			_ = q.Store.SavePending(ctx, l, p)
		}
		return driver.ErrBadConn
	}
	err := q.Store.SavePending(ctx, l, p)
	q.saved.Store(err == nil)
	return err
}

// While the database is away, or its answers are lost, recording the URL is repeated, and nothing is fetched before it is known to be recorded.
func TestPaidURL_RecordIsRepeated(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]bool{"calls are lost": false, "answers are lost": true} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			queue := &forgetfulQueue{Store: f.Store, after: after}
			queue.lost.Store(3)
			api, paid := urlAPI(t, func(self string) string { return self + "/picture" }, func(w http.ResponseWriter, _ *http.Request) {
				assert.True(t, queue.saved.Load(), "it is fetched before it is recorded")
				_, _ = w.Write(simapi.Draw("x"))
			})
			id := f.enqueue("x")[0]
			f.start(f.processorOn(queue, f.config(), f.clientAt(api)))
			f.seen(processor.EventCompleted, 1)
			assert.EqualValues(t, 1, paid.Load())
			row := f.row(id)
			assert.Equal(t, []any{task.Completed, 1, 0}, []any{row.State, row.RequestsSent, row.Unknown})
		})
	}
}
