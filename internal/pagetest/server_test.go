package pagetest_test

import (
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/status"
)

const testToken = "token-of-the-test-71ac"

// site serves the page with documents of the test. Its actions do nothing and are recorded.
type site struct {
	t   *testing.T
	url string

	mu       sync.Mutex
	doc      dashboard.Document
	series   dashboard.Series
	found    dashboard.Found
	task     map[string]any
	tokenSet bool
	pictures bool
	fault    string // of the next action
	acted    []string
	streams  map[chan struct{}]bool
	cut      bool // all requests of the API fail
}

const (
	cookieName = "imagetasks_session"
	testCSRF   = "csrf-of-the-test"
)

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, streams: map[chan struct{}]bool{}, tokenSet: true, pictures: true}
	s.load("overview.json", &s.doc)
	s.load("tasks.json", &s.found)
	s.series = daySeries(s.doc.AsOf)
	mux := http.NewServeMux()
	status.AddPage(mux)
	mux.HandleFunc("GET /api/overview", func(w http.ResponseWriter, _ *http.Request) { s.reply(w, 200, s.document()) })
	mux.HandleFunc("GET /api/series", func(w http.ResponseWriter, _ *http.Request) { s.reply(w, 200, s.series) })
	mux.HandleFunc("GET /api/events", s.events)
	mux.HandleFunc("GET /api/tasks", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("q") == "nothing" {
			s.reply(w, 200, dashboard.Found{Tasks: []dashboard.FoundTask{}})
			return
		}
		s.reply(w, 200, s.found)
	})
	mux.HandleFunc("GET /api/tasks/{id}", func(w http.ResponseWriter, r *http.Request) {
		if s.task["task_id"] != r.PathValue("id") {
			s.fail(w, 404, "there is no such task", "没有该任务")
			return
		}
		s.reply(w, 200, s.task)
	})
	mux.HandleFunc("GET /api/session", func(w http.ResponseWriter, r *http.Request) {
		s.reply(w, 200, map[string]any{"token_set": s.tokenSet, "signed_in": signedIn(r), "csrf": testCSRF, "pictures": s.pictures})
	})
	mux.HandleFunc("POST /api/session", func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Token string }
		if json.NewDecoder(r.Body).Decode(&body) != nil || body.Token != testToken {
			s.fail(w, 401, "the token is wrong", "令牌错误")
			return
		}
		http.SetCookie(w, &http.Cookie{Name: cookieName, Value: "1", HttpOnly: true, SameSite: http.SameSiteStrictMode, Path: "/"})
		s.reply(w, 200, map[string]any{})
	})
	mux.HandleFunc("DELETE /api/session", func(w http.ResponseWriter, _ *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: cookieName, MaxAge: -1, Path: "/"})
		s.reply(w, 200, map[string]any{})
	})
	mux.HandleFunc("POST /api/actions/{name}", s.act)
	mux.HandleFunc("GET /api/operations", func(w http.ResponseWriter, _ *http.Request) {
		s.reply(w, 200, map[string]any{"operations": []map[string]any{{"at": s.doc.AsOf, "who": "page (192.0.2.7)", "what": "pause", "subject": "endpoint relay", "detail": "price change", "result": "done"}}})
	})
	mux.HandleFunc("GET /api/thumbnails/{id}", thumbnail)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		cut := s.cut && strings.HasPrefix(r.URL.Path, "/api/")
		s.mu.Unlock()
		if cut {
			panic(http.ErrAbortHandler)
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	t.Cleanup(s.endStreams)
	s.url = server.URL
	return s
}

func signedIn(r *http.Request) bool { _, err := r.Cookie(cookieName); return err == nil }

func (s *site) load(name string, into any) {
	s.t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "pkg", "dashboard", "testdata", name))
	require.NoError(s.t, err)
	require.NoError(s.t, json.Unmarshal(content, into))
}

func (s *site) reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	text, err := json.Marshal(body)
	assert.NoError(s.t, err)
	_, _ = w.Write(text) // the page may have left
}

func (s *site) fail(w http.ResponseWriter, code int, en, zh string) {
	s.reply(w, code, map[string]any{"error": map[string]any{"code": "refused", "message": map[string]string{"en": en, "zh": zh}}})
}

func (s *site) document() dashboard.Document { s.mu.Lock(); defer s.mu.Unlock(); return s.doc }

// events sends the document at once, and after each change.
func (s *site) events(w http.ResponseWriter, r *http.Request) {
	changed := make(chan struct{}, 1)
	s.mu.Lock()
	s.streams[changed] = true
	s.mu.Unlock()
	defer func() { s.mu.Lock(); delete(s.streams, changed); s.mu.Unlock() }()
	w.Header().Set("Content-Type", "text/event-stream")
	for {
		body, err := json.Marshal(s.document())
		assert.NoError(s.t, err)
		_, _ = fmt.Fprintf(w, "event: overview\ndata: %s\n\n", body)
		w.(http.Flusher).Flush()
		select {
		case _, ok := <-changed:
			if !ok {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// change changes the documents, and tells the pages.
func (s *site) change(edit func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	edit()
	for c := range s.streams {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (s *site) endStreams() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.streams {
		delete(s.streams, c)
		close(c)
	}
}

func (s *site) act(w http.ResponseWriter, r *http.Request) {
	if !signedIn(r) || r.Header.Get("X-CSRF-Token") != testCSRF {
		s.fail(w, 401, "sign in first", "请先登录")
		return
	}
	var body json.RawMessage
	assert.NoError(s.t, json.NewDecoder(r.Body).Decode(&body))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acted = append(s.acted, r.PathValue("name")+" "+string(body))
	if s.fault != "" {
		s.fail(w, 409, s.fault, s.fault)
		s.fault = ""
		return
	}
	s.reply(w, 200, map[string]any{"message": map[string]string{"en": "the work is done", "zh": "操作已完成"}})
}

// actions returns what was done since the last call.
func (s *site) actions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.acted
	s.acted = nil
	return out
}

func thumbnail(w http.ResponseWriter, r *http.Request) {
	picture := image.NewRGBA(image.Rect(0, 0, 64, 64))
	seed := len(r.PathValue("id")) + int(r.PathValue("id")[len(r.PathValue("id"))-1])
	for y := range 64 {
		for x := range 64 {
			picture.Set(x, y, color.RGBA{uint8(60 + seed*3%120 + x), uint8(90 + y), uint8(120 + (x+y)/2), 255})
		}
	}
	w.Header().Set("Content-Type", "image/jpeg")
	_ = jpeg.Encode(w, picture, nil)
}

// daySeries returns a day of figures, with a gap in which nothing ran.
func daySeries(end time.Time) dashboard.Series {
	s := dashboard.Series{StepSeconds: 60}
	whole := func(f float64) *int64 { n := int64(max(0, f)); return &n }
	seconds := func(f float64) *float64 { f = math.Round(f*10) / 10; return &f }
	for i := range 24 * 60 {
		at := float64(i) / 60 // hours
		busy := 12 + 6*math.Sin(at/24*2*math.Pi-1.5) + 2*math.Sin(at*3.1) + math.Sin(float64(i)*1.7)
		s.Minutes = append(s.Minutes, end.Truncate(time.Minute).Add(time.Duration(i-24*60+1)*time.Minute).Unix())
		if i > 400 && i < 430 {
			s.Arrived, s.Completed, s.Failed, s.Cancelled = append(s.Arrived, nil), append(s.Completed, nil), append(s.Failed, nil), append(s.Cancelled, nil)
			s.Charged, s.Refunded, s.Depth, s.Processing = append(s.Charged, nil), append(s.Refunded, nil), append(s.Depth, nil), append(s.Processing, nil)
			s.P50, s.P95, s.Oldest = append(s.P50, nil), append(s.P95, nil), append(s.Oldest, nil)
			continue
		}
		late := max(0, at-23.4) * 60
		fails := 0.0
		if i%37 == 0 {
			fails = 1
		}
		s.Arrived, s.Completed = append(s.Arrived, whole(busy)), append(s.Completed, whole(busy-fails-late/20))
		s.Failed, s.Cancelled = append(s.Failed, whole(fails+late/20)), append(s.Cancelled, whole(0))
		s.Charged, s.Refunded = append(s.Charged, whole(busy*5)), append(s.Refunded, whole((fails+late/20)*5))
		s.P50, s.P95 = append(s.P50, seconds(28+3*math.Sin(at)+late/6)), append(s.P95, seconds(55+9*math.Sin(at*1.3)+late/2))
		s.Depth, s.Processing = append(s.Depth, whole(6+4*math.Sin(at*2)+late)), append(s.Processing, whole(10+3*math.Sin(at)))
		s.Oldest = append(s.Oldest, seconds(8+6*math.Sin(at*2)+late*2.2))
	}
	return s
}
