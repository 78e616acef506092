package status

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/task"
)

const (
	defaultFound = 50
	// maxSearch bounds the text of a search, in characters: ids have 200 at most.
	maxSearch = 200
)

// api serves the data of the page. What it serves is read by d, once for all browsers.
type api struct {
	dashboard *dashboard.Reader
	streams   chan struct{} // one element for each stream of events that is open

	heartbeat    time.Duration // the longest time without a line: proxies close connections on which nothing is sent
	writeTimeout time.Duration // how long a client may take to receive an event
}

// AddAPI adds what the page reads, at /api/.
func AddAPI(mux *http.ServeMux, d *dashboard.Reader) {
	newAPI(d).add(mux)
}

func newAPI(d *dashboard.Reader) *api {
	return &api{dashboard: d, streams: make(chan struct{}, maxStreams), heartbeat: heartbeatInterval, writeTimeout: streamWriteTimeout}
}

func (a *api) add(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/overview", a.overview)
	mux.HandleFunc("GET /api/series", a.series)
	mux.HandleFunc("GET /api/events", a.events)
	mux.HandleFunc("GET /api/tasks", a.find)
	mux.HandleFunc("GET /api/tasks/{id...}", a.task)
}

func (a *api) overview(w http.ResponseWriter, r *http.Request) {
	s := a.dashboard.Snapshot(r.Context())
	if s == nil {
		refuse(w, r, refusal{http.StatusServiceUnavailable, "not_read", textNotRead})
		return
	}
	writeText(w, s.JSON)
}

func (a *api) series(w http.ResponseWriter, r *http.Request) {
	hours := 24
	if text := r.URL.Query().Get("hours"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > dashboard.MaxHours {
			refuse(w, r, refusal{http.StatusBadRequest, "bad_hours", textBadHours})
			return
		}
		hours = n
	}
	text, err := a.dashboard.Series(r.Context(), hours)
	if err != nil {
		refuse(w, r, unread())
		return
	}
	writeText(w, text)
}

func (a *api) find(w http.ResponseWriter, r *http.Request) {
	text, limit := r.URL.Query().Get("q"), defaultFound
	if given := r.URL.Query().Get("limit"); given != "" {
		n, err := strconv.Atoi(given)
		if err != nil || n < 1 || n > dashboard.MaxFound {
			refuse(w, r, refusal{http.StatusBadRequest, "bad_limit", textBadLimit})
			return
		}
		limit = n
	}
	if !isSearchable(text) {
		refuse(w, r, refusal{http.StatusBadRequest, "bad_search", textBadSearch})
		return
	}
	found, err := a.dashboard.Find(r.Context(), text, limit)
	if err != nil {
		refuse(w, r, unread())
		return
	}
	writeJSON(w, http.StatusOK, found)
}

// isSearchable reports whether a text can be in the database.
func isSearchable(text string) bool {
	return utf8.ValidString(text) && utf8.RuneCountInString(text) <= maxSearch && !strings.ContainsFunc(text, unicode.IsControl)
}

func (a *api) task(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if id == "" || !isSearchable(id) {
		refuse(w, r, refusal{http.StatusNotFound, "no_task", textNoTask})
		return
	}
	t, err := a.dashboard.Task(r.Context(), id)
	switch {
	case errors.Is(err, task.ErrNotFound):
		refuse(w, r, refusal{http.StatusNotFound, "no_task", textNoTask})
	case err != nil:
		refuse(w, r, unread())
	default:
		writeJSON(w, http.StatusOK, t)
	}
}

// unread is the refusal where the database did not answer. The overview has the reason.
func unread() refusal {
	return refusal{http.StatusServiceUnavailable, "database_unavailable", textNotRead}
}

// writeText writes a document that is JSON already.
func writeText(w http.ResponseWriter, text []byte) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text)
}

var (
	textNotRead   = lang.Text{EN: "the database has not responded in time; try again", ZH: "数据库未及时响应，请重试"}
	textBadHours  = lang.Text{EN: "hours must be a number from 1 to 168", ZH: "hours 必须是 1 到 168 之间的数字"}
	textBadLimit  = lang.Text{EN: "limit must be a number from 1 to 200", ZH: "limit 必须是 1 到 200 之间的数字"}
	textBadSearch = lang.Text{EN: "a search takes up to 200 characters, without control characters", ZH: "搜索内容最多 200 个字符，且不能包含控制字符"}
	textNoTask    = lang.Text{EN: "there is no such task", ZH: "没有该任务"}
	textManyPages = lang.Text{EN: "too many pages are open; close some, or load the page again later", ZH: "打开的页面过多，请关闭一些页面，或稍后重新加载"}
)
