package status

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/health"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// pageStore is a database with a number of tasks that are due. Methods that it lacks are not called.
type pageStore struct {
	dashboard.Store
	due    atomic.Int64
	minute atomic.Int64
	down   atomic.Bool
	aside  []store.AsideTask
}

var errDown = errors.New("connection refused")

func (s *pageStore) failure() error {
	if s.down.Load() {
		return errDown
	}
	return nil
}

func (s *pageStore) QueueStats(context.Context, time.Duration) (store.QueueStats, error) {
	return store.QueueStats{Pending: int(s.due.Load()), Due: int(s.due.Load())}, s.failure()
}

func (s *pageStore) ClosedFigures(context.Context, time.Duration, int) (store.ClosedFigures, error) {
	to := time.Unix(s.minute.Load()*60, 0)
	return store.ClosedFigures{From: to, To: to, Now: time.Now()}, s.failure()
}

func (s *pageStore) Figures(context.Context, time.Duration, time.Duration) ([]store.Figures, error) {
	return []store.Figures{{At: time.Unix(s.minute.Load()*60-60, 0), Arrived: s.minute.Load()}}, s.failure()
}

func (s *pageStore) Control(context.Context) (store.Control, error) { return store.Control{}, nil }
func (s *pageStore) Processors(context.Context) ([]store.Processor, error) {
	return nil, nil
}
func (s *pageStore) TasksAside(context.Context, int) ([]store.AsideTask, error) { return s.aside, nil }
func (s *pageStore) Bridge(context.Context) (store.BridgeState, error) {
	return store.BridgeState{}, nil
}
func (s *pageStore) ClosedSince(context.Context, time.Time) ([]store.ClosedGroup, error) {
	return nil, nil
}
func (s *pageStore) RecentlyClosed(context.Context, time.Time, int) ([]store.ClosedTask, error) {
	return nil, nil
}
func (s *pageStore) FailureFigures(context.Context, time.Time) ([]store.FailureGroup, error) {
	return nil, nil
}
func (s *pageStore) Unsettled(context.Context, time.Duration, int) (store.Unsettled, error) {
	return store.Unsettled{}, nil
}
func (s *pageStore) EventCounts(context.Context) (store.EventCounts, error) {
	return store.EventCounts{}, nil
}
func (s *pageStore) BookedBetween(context.Context, time.Time, time.Time) (store.Booked, error) {
	return store.Booked{}, errDown
}
func (s *pageStore) FailedTasks(context.Context, string, int) ([]string, error) {
	return nil, s.failure()
}
func (s *pageStore) FindTasks(_ context.Context, ids []string) ([]store.FoundTask, error) {
	return []store.FoundTask{{ID: ids[0], UserID: "ann", State: task.Pending}}, s.failure()
}
func (s *pageStore) FindTasksByUser(context.Context, string, int) ([]store.FoundTask, error) {
	return nil, s.failure()
}
func (s *pageStore) TaskDetails(_ context.Context, id string) (store.TaskDetails, error) {
	if id == "none" {
		return store.TaskDetails{}, task.ErrNotFound
	}
	return store.TaskDetails{TaskRow: store.TaskRow{ID: id}, Prompt: "a cat"}, s.failure()
}

// pageServer serves the API of a page.
func pageServer(t *testing.T, change func(*api)) (*pageStore, *Server) {
	t.Helper()
	st := &pageStore{}
	st.minute.Store(100)
	reader := dashboard.New(dashboard.Config{Store: st, Checks: func() []health.Check { return nil }, Redact: func(s string) string { return s },
		CommandLine: func(finding.Command) string { return "" }, Processors: dashboard.Own("h", time.Minute, func() overview.ProcessorReport { return overview.ProcessorReport{} })})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { reader.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	a := newAPI(reader)
	if change != nil {
		change(a)
	}
	mux := http.NewServeMux()
	a.add(mux)
	access, err := NewAccess(AccessConfig{Addr: "127.0.0.1:0"})
	require.NoError(t, err)
	server, err := Serve(mux, access)
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.http.Close() })
	return st, server
}

// events reads a stream of server-sent events.
type eventReader struct {
	t     *testing.T
	body  io.ReadCloser
	lines *bufio.Reader
}

func openEvents(t *testing.T, s *Server) *eventReader {
	t.Helper()
	response, err := http.Get("http://" + s.Addr() + "/api/events")
	require.NoError(t, err)
	t.Cleanup(func() { _ = response.Body.Close() })
	require.Equal(t, http.StatusOK, response.StatusCode)
	assert.Equal(t, "text/event-stream; charset=utf-8", response.Header.Get("Content-Type"))
	return &eventReader{t, response.Body, bufio.NewReader(response.Body)}
}

// next returns the next event; a comment has no name.
func (e *eventReader) next() (name, data string, err error) {
	for {
		line, err := e.lines.ReadString('\n')
		if err != nil {
			return "", "", err
		}
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "event: "):
			name = strings.TrimPrefix(line, "event: ")
		case strings.HasPrefix(line, "data: "):
			data = strings.TrimPrefix(line, "data: ")
		case strings.HasPrefix(line, ": "):
			data = strings.TrimPrefix(line, ": ")
		case line == "" && data != "":
			return name, data, nil
		}
	}
}

func (e *eventReader) until(name string, has func(data string) bool) {
	e.t.Helper()
	for {
		got, data, err := e.next()
		require.NoError(e.t, err)
		if got == name && has(data) {
			return
		}
	}
}

// A change arrives without another request, and so does a minute that was recorded.
func TestEvents_ChangesArrive(t *testing.T) {
	t.Parallel()
	st, server := pageServer(t, nil)
	st.due.Store(7)
	e := openEvents(t, server)
	due := func(n int) func(string) bool {
		return func(data string) bool {
			var d dashboard.Document
			require.NoError(t, json.Unmarshal([]byte(data), &d))
			return d.Tasks.Due == n && d.Database.OK
		}
	}
	name, data, err := e.next()
	require.NoError(t, err)
	assert.Equal(t, "overview", name, "at once")
	assert.True(t, due(7)(data))
	st.due.Store(8)
	e.until("overview", due(8))
	st.minute.Store(101)
	e.until("series", func(data string) bool {
		var s dashboard.Series
		require.NoError(t, json.Unmarshal([]byte(data), &s))
		return *s.Arrived[0] == 101 && s.Minutes[0] == 6000
	})
	st.down.Store(true)
	e.until("overview", func(data string) bool {
		return strings.Contains(data, `"ok":false`) && strings.Contains(data, "connection refused")
	})
	st.down.Store(false)
	e.until("overview", due(8))
}

// While nothing changes there is a line from time to time.
func TestEvents_Heartbeat(t *testing.T) {
	t.Parallel()
	_, server := pageServer(t, func(a *api) { a.heartbeat = time.Second })
	openEvents(t, server).until("", func(data string) bool { return data == "alive" })
}

// A client that does not read is cut off, and makes its place free.
func TestEvents_SlowClient(t *testing.T) {
	t.Parallel()
	var served *api
	st, server := pageServer(t, func(a *api) { served, a.writeTimeout = a, 200*time.Millisecond })
	for i := range 20_000 { // a large document fills the buffers of the connection
		st.aside = append(st.aside, store.AsideTask{TaskID: fmt.Sprint(i)})
	}
	st.aside[0].Reason = strings.Repeat("a long reason ", 1_000_000)
	c, err := net.Dial("tcp", server.Addr())
	require.NoError(t, err)
	defer c.Close()
	_, err = fmt.Fprintf(c, "GET /api/events HTTP/1.1\r\nHost: %s\r\n\r\n", server.Addr())
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(served.streams) == 1 }, 10*time.Second, 5*time.Millisecond)
	require.Eventually(t, func() bool { return len(served.streams) == 0 }, 30*time.Second, 20*time.Millisecond)
}

// There is a bound on the pages that are open, and the end of the server ends all streams.
func TestEvents_BoundAndShutdown(t *testing.T) {
	t.Parallel()
	var served *api
	_, server := pageServer(t, func(a *api) { served = a })
	var ended sync.WaitGroup
	for range maxStreams {
		e := openEvents(t, server)
		ended.Go(func() {
			for {
				if _, _, err := e.next(); err != nil {
					return
				}
			}
		})
	}
	response, err := http.Get("http://" + server.Addr() + "/api/events")
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	assert.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
	assert.Equal(t, "30", response.Header.Get("Retry-After"))
	assert.Contains(t, string(body), `"too_many_pages"`)
	response, err = http.Get("http://" + server.Addr() + "/api/overview")
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	assert.Equal(t, http.StatusOK, response.StatusCode, "a page without live updates is served")
	require.NoError(t, server.Close())
	ended.Wait()
	require.Eventually(t, func() bool { return len(served.streams) == 0 }, 10*time.Second, 10*time.Millisecond)
}

func TestAPI_Answers(t *testing.T) {
	t.Parallel()
	st, server := pageServer(t, nil)
	st.due.Store(3)
	get := func(path string) (int, string) {
		t.Helper()
		response, err := http.Get("http://" + server.Addr() + path)
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		assert.Equal(t, "application/json", response.Header.Get("Content-Type"), path)
		assert.Equal(t, "no-store", response.Header.Get("Cache-Control"), path)
		assert.True(t, json.Valid(body), path)
		return response.StatusCode, string(body)
	}
	for path, want := range map[string]string{
		"/api/overview":                 `"due":3`,
		"/api/series":                   `"arrived":[100]`,
		"/api/series?hours=168":         `"step_seconds":600`,
		"/api/tasks?q=x&limit=1":        `"task_id":"x"`,
		"/api/tasks?q=":                 `"tasks":[]`,
		"/api/tasks/x":                  `"task_id":"x"`,
		"/api/tasks/" + "job%2F1%20%3F": `"task_id":"job/1 ?"`,
		"/api/tasks/" + strings.Repeat("%E4%BB%BB", 200):   "任任",
		"/api/tasks?q=" + strings.Repeat("%E4%BB%BB", 200): "任任",
	} {
		code, body := get(path)
		assert.Equal(t, http.StatusOK, code, path)
		assert.Contains(t, body, want, path)
		assert.NotContains(t, body, "a cat", path)
	}
	for path, want := range map[string]string{
		"/api/series?hours=0": "400 bad_hours", "/api/series?hours=169": "400 bad_hours", "/api/series?hours=x": "400 bad_hours",
		"/api/tasks?q=x&limit=0": "400 bad_limit", "/api/tasks?q=x&limit=201": "400 bad_limit", "/api/tasks?q=%00": "400 bad_search", "/api/tasks?q=%ff": "400 bad_search",
		"/api/tasks?q=" + strings.Repeat("x", 201): "400 bad_search", "/api/tasks/none": "404 no_task", "/api/tasks/%ff": "404 no_task", "/api/tasks/": "404 no_task",
	} {
		code, body := get(path)
		var refused errorDocument
		require.NoError(t, json.Unmarshal([]byte(body), &refused), path)
		assert.Equal(t, want, fmt.Sprintf("%d %s", code, refused.Error.Code), path)
		assert.NotEqual(t, refused.Error.Message.EN, refused.Error.Message.ZH)
	}
	st.down.Store(true)
	for _, path := range []string{"/api/series?hours=2", "/api/tasks?q=x", "/api/tasks/x"} {
		code, body := get(path)
		assert.Equal(t, http.StatusServiceUnavailable, code, path)
		assert.Contains(t, body, "database_unavailable")
		assert.NotContains(t, body, "connection refused")
	}
}
