package e2e_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
	"imagetasks/internal/smalldisk"
)

// pictureSecret is in the path and the query of the pictures' URLs.
const pictureSecret = "picsig-51c7e0aa"

// pictureHost serves pictures, and counts the requests for them.
type pictureHost struct {
	*httptest.Server
	gets  atomic.Int64
	serve atomic.Pointer[http.HandlerFunc]
}

func startPictureHost(t *testing.T, serve http.HandlerFunc) *pictureHost {
	t.Helper()
	h := &pictureHost{}
	h.serve.Store(&serve)
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.gets.Add(1)
		if r.Header.Get("Authorization") != "" {
			t.Error("the key was sent to the picture's host")
		}
		(*h.serve.Load())(w, r)
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *pictureHost) url(string) string {
	return h.URL + "/" + pictureSecret + "?sig=" + pictureSecret
}

func delivers(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(simapi.Draw("x")) }

// withPictureURLs makes the API answer with URLs of h.
func withPictureURLs(h *pictureHost) option {
	return func(c *simapi.Config, _ *simproxy.Config) { c.PictureURL = h.url }
}

// requirePaidOnce checks a task that was completed with one paid request, and that the URL was shown nowhere.
func (w *fixture) requirePaidOnce(id string) {
	w.t.Helper()
	assert.Len(w.t, w.api.Calls(), 1, "paid requests")
	assert.Equal(w.t, 1, w.number(`select count(*) from imagetasks.tasks where status = 'completed' and requests_sent = 1 and attempt_count = 0`+
		` and unknown_outcomes = 0`))
	pictures := w.pictures()
	require.Len(w.t, pictures, 1)
	content, err := os.ReadFile(pictures[0])
	require.NoError(w.t, err)
	assert.True(w.t, bytes.Equal(simapi.Draw("x"), content), "the picture is whole")
	assert.NotContains(w.t, w.run("task-processor", "tasks", "show", id).ok(), pictureSecret)
	w.mu.Lock()
	assert.NotContains(w.t, w.outputs.String(), pictureSecret)
	w.mu.Unlock()
	w.audit()
}

// A processor that is killed while it downloads a picture: the next one downloads it, and pays for nothing.
func TestDownload_Killed(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 100)
	host := startPictureHost(t, func(w http.ResponseWriter, r *http.Request) {
		content := simapi.Draw("x")
		w.Header().Set("Content-Length", "2363")
		_, _ = w.Write(content[:1000])
		_ = http.NewResponseController(w).Flush()
		asked <- struct{}{}
		<-r.Context().Done()
	})
	w := newFixture(t, withPictureURLs(host))
	w.env["TASK_LEASE"], w.env["IMAGE_DOWNLOAD_HTTP"] = "2s", "on"
	w.grant(1)
	id := w.enqueue("[url] a picture that takes its time")[0]
	for range 2 {
		p := w.start("task-processor", "run")
		<-asked
		p.stop(syscall.SIGKILL)
	}
	deliver := http.HandlerFunc(delivers)
	host.serve.Store(&deliver)
	p := w.start("task-processor", "run")
	w.waitFor("the picture", func() bool { return w.count("completed") == 1 })
	p.stop(syscall.SIGTERM).ok()
	w.requirePaidOnce(id)
}

// A picture whose host the proxy refuses waits, and no circuit opens. What the operator then allows takes effect at a reload.
func TestDownload_ForbiddenByProxy(t *testing.T) {
	t.Parallel()
	host := startPictureHost(t, delivers)
	var w *fixture
	var once sync.Once
	w = newFixture(t, func(c *simapi.Config, _ *simproxy.Config) {
		c.PictureURL = func(prompt string) string {
			once.Do(func() { w.proxy.SetMode(simproxy.Refuse) })
			return host.url(prompt)
		}
	})
	withDaemon(w)
	env := map[string]string{"IMAGE_DOWNLOAD_HTTP": "on"}
	w.moveToEnvFile(env)
	w.grant(1)
	w.run("task-processor", "start").ok()
	id := w.enqueue("[url] a picture behind the proxy")[0]
	w.waitFor("a download that failed", func() bool {
		return w.number(`select count(*) from imagetasks.tasks where status = 'pending' and error_code = 'picture_download_failed'`) == 1
	})
	shown := w.run("task-processor", "tasks", "show", id).ok()
	assert.Contains(t, shown, "127.0.0.1:")
	assert.NotContains(t, shown, pictureSecret)
	assert.Zero(t, host.gets.Load(), "no direct connection")
	env["IMAGE_DOWNLOAD_DIRECT"] = "on"
	w.moveToEnvFile(env)
	assert.Contains(t, w.run("task-processor", "reload").ok(), "IMAGE_DOWNLOAD_DIRECT changed, in use from now on")
	w.waitFor("the picture", func() bool { return w.count("completed") == 1 })
	w.proxy.SetMode(simproxy.Serve)
	w.run("task-processor", "stop").ok()
	w.requirePaidOnce(id)
	log, err := os.ReadFile(filepath.Join(w.dir, "task-processor.log"))
	require.NoError(t, err)
	assert.NotContains(t, string(log), pictureSecret)
	assert.NotContains(t, string(log), "pauses claiming")
}

// While the picture store is full, nothing is paid for; work goes on within seconds of space.
func TestPictureStore_Full(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.env["IMAGE_STORE"], w.env["HUNG_AFTER"] = smalldisk.Mount(t, "size=2m"), "8s"
	filler, err := os.Create(filepath.Join(w.env["IMAGE_STORE"], "filler"))
	require.NoError(t, err)
	_, err = io.Copy(filler, io.LimitReader(strings.NewReader(strings.Repeat("x", 4<<20)), 4<<20))
	require.ErrorIs(t, err, syscall.ENOSPC)
	// The directory and its marker have their place. A picture does not.
	require.NoError(t, filler.Truncate(2<<20-128<<10))
	require.NoError(t, filler.Close())
	w.grant(6)
	var ids []string
	for range 6 {
		ids = append(ids, w.enqueue("a picture for a full disk")...)
	}
	p := w.start("task-processor", "run")
	w.waitFor("the first claim", func() bool {
		return w.number(`select count(*) from imagetasks.tasks where error_code = 'picture_store'`) > 0
	})
	for range 20 {
		assert.Empty(t, w.api.Calls(), "nothing is paid for")
		time.Sleep(100 * time.Millisecond)
	}
	require.NoError(t, os.Remove(filler.Name()))
	began := time.Now()
	w.waitFor("all pictures", func() bool { return w.count("completed") == len(ids) })
	assert.Less(t, time.Since(began), 10*time.Second)
	assert.Len(t, w.api.Calls(), len(ids))
	assert.Zero(t, w.number(`select sum(attempt_count) from imagetasks.tasks`))
	p.stop(syscall.SIGTERM).ok()
	w.audit()
}

// Whatever the host of a picture answers: the picture's URL, which may be signed, stands in one table only, and is shown nowhere.
func TestDownload_URLIsSecret(t *testing.T) {
	t.Parallel()
	var answers atomic.Int64
	host := startPictureHost(t, func(w http.ResponseWriter, r *http.Request) {
		address := r.URL.String()
		switch answers.Add(1) % 6 {
		case 0:
			http.Error(w, "no such picture: "+address, http.StatusNotFound)
		case 1:
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>"+address+"</html>")
		case 2: // in a circle
			http.Redirect(w, r, address, http.StatusFound)
		case 3:
			http.Redirect(w, r, "https://10.0.0.1/"+pictureSecret, http.StatusFound)
		case 4:
			w.Header().Set("Location", "http://[::bad/"+pictureSecret)
			w.WriteHeader(http.StatusFound)
		case 5: // cut off
			w.Header().Set("Content-Length", "5000")
			_, _ = w.Write(simapi.Draw("x")[:1000])
		}
	})
	w := newFixture(t, withPictureURLs(host))
	w.env["TASK_LEASE"], w.env["IMAGE_DOWNLOAD_HTTP"] = "2s", "on"
	w.grant(1)
	id := w.enqueue("[url] a picture whose URL is signed")[0]
	p := w.start("task-processor", "run")
	w.waitFor("each answer", func() bool { return answers.Load() >= 7 })
	p.stop(syscall.SIGTERM).ok()
	for _, args := range [][]string{{"tasks", "show", id}, {"tasks", "show", "--json", id}, {"tasks", "list", "--json"}} {
		assert.NotContains(t, w.run("task-processor", args...).ok(), pictureSecret)
	}
	w.mu.Lock()
	assert.NotContains(t, w.outputs.String(), pictureSecret)
	w.mu.Unlock()
	const tables = `select count(*) from information_schema.tables where table_schema = 'imagetasks' and table_type = 'BASE TABLE'` +
		` and table_to_xml(format('imagetasks.%I', table_name)::regclass, true, false, '')::text like '%` + pictureSecret + `%'`
	assert.Equal(t, 1, w.number(tables), "the table of URLs that are still to be fetched, and no other")
	assert.Len(t, w.api.Calls(), 1, "paid requests")
	drafts, err := filepath.Glob(filepath.Join(w.dir, "images", "*", ".drafts", "*"))
	require.NoError(t, err)
	assert.Empty(t, drafts)
}
