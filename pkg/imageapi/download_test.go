package imageapi_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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

// secretPath is the path and query of a picture, which no error may contain.
const secretPath = "/pictures/" + signature + "?sig=" + signature

// byHost is a transport to simulated hosts. Requests to another host fail.
type byHost struct {
	hosts map[string]http.HandlerFunc // by scheme://host

	mu   sync.Mutex
	seen []*http.Request
}

func (b *byHost) RoundTrip(r *http.Request) (*http.Response, error) {
	b.mu.Lock()
	b.seen = append(b.seen, r)
	b.mu.Unlock()
	handler := b.hosts[r.URL.Scheme+"://"+r.URL.Host]
	if handler == nil {
		return nil, &proxy.Error{Op: proxy.OpDial, Target: r.URL.Host, Err: errors.New("no such host")}
	}
	recorded := httptest.NewRecorder()
	handler(recorded, r)
	response := recorded.Result()
	if length, err := strconv.Atoi(recorded.Header().Get("Content-Length")); err == nil && length > recorded.Body.Len() {
		response.Body = io.NopCloser(io.MultiReader(response.Body, brokenBody{}))
	}
	return response, nil
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func (b *byHost) urls() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var urls []string
	for _, r := range b.seen {
		urls = append(urls, r.URL.Scheme+"://"+r.URL.Host)
	}
	return urls
}

func clientOver(t *testing.T, transport http.RoundTripper, baseURL string, rules imageapi.DownloadRules) *imageapi.Client {
	t.Helper()
	c, err := imageapi.New(imageapi.Config{BaseURL: baseURL, Key: key, Model: "m", Transport: transport, MaxBytes: 1 << 20, Download: rules})
	require.NoError(t, err)
	return c
}

// buffer is a writer that can be reset.
type buffer struct{ bytes.Buffer }

func (b *buffer) Reset() error { b.Buffer.Reset(); return nil }

func serve(content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) }
}

// requireFailed checks what every error of a download has in common.
func requireFailed(t *testing.T, err error) *task.Error {
	t.Helper()
	e, ok := errors.AsType[*task.Error](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, task.ScopeTask, e.Scope)
	assert.False(t, e.Unknown || e.NotSent)
	assert.Equal(t, e.Disposition == task.Fail, e.Paid, "what is given up was paid for")
	assert.NotContains(t, err.Error(), signature)
	assert.NotContains(t, fmt.Sprintf("%+v", e.Err), signature)
	return e
}

// A picture whose host is some seconds late, fails or breaks off, is fetched within one call.
func TestDownload_Repeated(t *testing.T) {
	picture := simapi.Draw("x")
	var calls atomic.Int64
	late := func(first, second http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			switch calls.Add(1) {
			case 1:
				first(w, r)
			case 2:
				second(w, r)
			default:
				_, _ = w.Write(picture)
			}
		}
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(picture)))
		_, _ = w.Write(picture[:len(picture)/2])
	}
	page := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<!DOCTYPE html><html>please wait</html>")
	}
	for name, h := range map[string]http.HandlerFunc{
		"503 twice": late(status(503), status(503)), "404, 403": late(status(404), status(403)), "cut off": late(cut, cut),
		"pages": late(page, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"error":"not ready"}`) }),
	} {
		calls.Store(0)
		c := clientOver(t, &byHost{hosts: map[string]http.HandlerFunc{"https://cdn.example": h}}, "https://api.example/v1", imageapi.DownloadRules{})
		var b buffer
		require.NoError(t, c.Download(t.Context(), "https://cdn.example"+secretPath, 3, &b), name)
		assert.True(t, bytes.Equal(picture, b.Bytes()), name)
		assert.EqualValues(t, 3, calls.Load(), name)
	}
}

// What one GET shows, and what becomes of it.
func TestDownload_Outcomes(t *testing.T) {
	picture := simapi.Draw("x")
	status := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
			_, _ = io.WriteString(w, "<Error><Resource>"+secretPath+"</Resource></Error>")
		}
	}
	text := func(contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			_, _ = io.WriteString(w, body)
		}
	}
	const again, gone, over = "again", "gone", "over"
	for name, c := range map[string]struct {
		host http.HandlerFunc
		want string
		code task.Code // with over
		text string
	}{
		"404":             {status(404), gone, "", "responded 404"},
		"410":             {status(410), gone, "", "responded 410"},
		"403":             {status(403), gone, "", "responded 403"},
		"400":             {status(400), again, "", "responded 400"},
		"401":             {status(401), again, "", "responded 401"},
		"500":             {status(500), again, "", "responded 500"},
		"304":             {status(304), again, "", "responded 304"},
		"204":             {status(204), again, "", "responded 204"},
		"206":             {status(206), again, "", "responded 206"},
		"302 to nowhere":  {status(302), again, "", "responded 302"},
		"302 to a scheme": {status(302, "Location", "ftp://cdn.example/x"), again, "", "redirected"},
		"302 for ever":    {status(302, "Location", secretPath), again, "", "more than 5 times"},
		"empty":           {serve(nil), again, "", "empty"},
		"page":            {text("image/png", "<html>"+secretPath), again, "", "a page or a text"},
		"JSON":            {text("image/png", `{"error":"`+signature+`"}`), again, "", "a page or a text"},
		"text":            {text("image/png", "Request has expired"), again, "", "a page or a text"},
		"GIF":             {serve([]byte("GIF89a" + strings.Repeat("x", 600))), over, task.CodeNotAPicture, "image/gif"},
		"too large":       {serve(append(bytes.Clone(picture), make([]byte, 1<<20)...)), over, task.CodeTooLarge, "larger than"},
		"too large, said so": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99999999")
			_, _ = w.Write(picture)
		}, over, task.CodeTooLarge, "larger than"},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99999")
			_, _ = w.Write(picture[:700])
		}, again, "", "unexpected EOF"},
		"broken gzip": {serve([]byte("\x1f\x8b nothing of the kind")), again, "", "can't be decompressed"},
	} {
		t.Run(name, func(t *testing.T) {
			client := clientOver(t, &byHost{hosts: map[string]http.HandlerFunc{"https://cdn.example": c.host}}, "https://api.example/v1", imageapi.DownloadRules{})
			var b buffer
			err := client.Download(t.Context(), "https://cdn.example"+secretPath, 1, &b)
			require.Error(t, err)
			e := requireFailed(t, err)
			assert.Contains(t, e.Message, c.text)
			assert.Equal(t, c.want == gone, e.Gone)
			if c.want == over {
				assert.Equal(t, []any{c.code, task.Fail}, []any{e.Code, e.Disposition})
				return
			}
			assert.Equal(t, []any{task.CodeDownload, task.Release}, []any{e.Code, e.Disposition})
			assert.Contains(t, e.Message, "cdn.example", "the host is named")
		})
	}
}

// The host's own wish is passed on, and is no reason to wait within the call.
func TestDownload_RetryAfter(t *testing.T) {
	h := &byHost{hosts: map[string]http.HandlerFunc{"https://cdn.example": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "40")
		w.WriteHeader(http.StatusServiceUnavailable)
	}}}
	c := clientOver(t, h, "https://api.example/v1", imageapi.DownloadRules{})
	e := requireFailed(t, c.Download(t.Context(), "https://cdn.example/x", 3, io.Discard))
	assert.Equal(t, 40*time.Second, e.RetryAfter)
	assert.Len(t, h.urls(), 1)
}

// What a host sends in place of a picture is there for the operator, without the parts of the URL.
func TestDownload_Unusable(t *testing.T) {
	h := &byHost{hosts: map[string]http.HandlerFunc{"https://cdn.example": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html>not yet: "+secretPath+" "+url.QueryEscape(signature)+"</html>")
	}}}
	c := clientOver(t, h, "https://api.example/v1", imageapi.DownloadRules{})
	err := c.Download(t.Context(), "https://cdn.example"+secretPath, 1, io.Discard)
	u, ok := errors.AsType[*imageapi.Unusable](err)
	require.True(t, ok)
	assert.Equal(t, "text/html", u.ContentType)
	assert.Contains(t, string(u.Head), "not yet")
	assert.NotContains(t, string(u.Head), signature)
}

// Compressed though it was not asked for. What decompresses to more than the maximum is refused without being held.
func TestDownload_Decompresses(t *testing.T) {
	picture := simapi.Draw("x")
	compress := func(content []byte, with func(io.Writer) io.WriteCloser) []byte {
		var b bytes.Buffer
		w := with(&b)
		_, err := w.Write(content)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return b.Bytes()
	}
	gz := func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
	zl := func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }
	fl := func(w io.Writer) io.WriteCloser { f, _ := flate.NewWriter(w, 9); return f }
	for name, c := range map[string]struct {
		content  []byte
		encoding string
	}{
		"gzip": {compress(picture, gz), "gzip"}, "gzip unnamed": {compress(picture, gz), ""}, "zlib": {compress(picture, zl), "deflate"},
		"raw deflate": {compress(picture, fl), "deflate"}, "named and not compressed": {picture, "deflate"}, "gzip named and not compressed": {picture, "gzip"},
	} {
		h := &byHost{hosts: map[string]http.HandlerFunc{"https://cdn.example": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", c.encoding)
			_, _ = w.Write(c.content)
		}}}
		var b buffer
		require.NoError(t, clientOver(t, h, "https://api.example/v1", imageapi.DownloadRules{}).Download(t.Context(), "https://cdn.example/x", 1, &b), name)
		assert.True(t, bytes.Equal(picture, b.Bytes()), name)
	}
	bomb := compress(append(bytes.Clone(picture), make([]byte, 32<<20)...), gz)
	h := &byHost{hosts: map[string]http.HandlerFunc{"https://cdn.example": serve(bomb)}}
	var b buffer
	e := requireFailed(t, clientOver(t, h, "https://api.example/v1", imageapi.DownloadRules{}).Download(t.Context(), "https://cdn.example/x", 1, &b))
	assert.Equal(t, task.CodeTooLarge, e.Code)
	assert.LessOrEqual(t, b.Len(), 1<<20+64<<10)
}

// Redirects are followed by the rules of the first URL, without the key and without the URL before.
func TestDownload_Redirects(t *testing.T) {
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
	}
	h := &byHost{hosts: map[string]http.HandlerFunc{
		"https://cdn.example": redirect("https://other.example" + secretPath), "https://other.example": serve(simapi.Draw("x")),
		"https://private.example": redirect("https://192.168.1.1" + secretPath), "https://192.168.1.1": serve(simapi.Draw("x")),
		"https://plain.example": redirect("http://other.example" + secretPath), "http://other.example": serve(simapi.Draw("x")),
		"https://me.example": redirect("https://api.example" + secretPath), "https://api.example": serve(simapi.Draw("x")),
	}}
	c := clientOver(t, h, "https://api.example/v1", imageapi.DownloadRules{})
	for _, from := range []string{"https://cdn.example", "https://me.example"} {
		require.NoError(t, c.Download(t.Context(), from+secretPath, 1, io.Discard))
	}
	for _, r := range h.seen {
		for _, header := range []string{"Authorization", "Referer", "Cookie", "idempotency-key"} {
			assert.Empty(t, r.Header[header], "%s of the request to %s", header, r.URL.Host)
		}
	}
	e := requireFailed(t, c.Download(t.Context(), "https://private.example"+secretPath, 1, io.Discard))
	assert.Equal(t, task.Release, e.Disposition, "a device in between may have sent that")
	e = requireFailed(t, c.Download(t.Context(), "https://plain.example"+secretPath, 1, io.Discard))
	assert.Contains(t, e.Message, "IMAGE_DOWNLOAD_HTTP=on")
	assert.NotContains(t, h.urls(), "https://192.168.1.1")
	assert.NotContains(t, h.urls(), "http://other.example")
	c.SetDownloadRules(imageapi.DownloadRules{HTTP: true})
	require.NoError(t, c.Download(t.Context(), "https://plain.example"+secretPath, 1, io.Discard))
}

// Which URLs are fetched depends on where the API itself is.
func TestDownload_AllowedURLs(t *testing.T) {
	const fetched, waits, lost = "fetched", "waits", "lost"
	for _, c := range []struct{ base, address, want string }{
		{"https://api.example/v1", "https://cdn.example/x", fetched},
		{"https://api.example/v1", " https://cdn.example/x\n", fetched},
		{"https://api.example/v1", "/pictures/x", fetched},
		{"https://api.example/v1", "//cdn.example/x", fetched},
		{"https://api.example/v1", "https://1.2.3.4/x", fetched},
		{"https://api.example/v1", "http://cdn.example/x", waits},
		{"https://api.example/v1", "https://127.0.0.1/x", lost},
		{"https://api.example/v1", "https://localhost/x", lost},
		{"https://api.example/v1", "https://10.0.0.8/x", lost},
		{"https://api.example/v1", "https://192.168.0.1/x", lost},
		{"https://api.example/v1", "https://169.254.169.254/latest/meta-data/x", lost},
		{"https://api.example/v1", "https://[::1]/x", lost},
		{"https://api.example/v1", "https://[fe80::1%25eth0]/x", lost},
		{"https://api.example/v1", "https://[::ffff:10.0.0.1]/x", lost},
		{"https://api.example/v1", "https://2130706433/x", lost},
		{"https://api.example/v1", "https://0x7f.1/x", lost},
		{"https://api.example/v1", "https://127.0.0.1./x", lost},
		{"https://api.example/v1", "https://198.18.0.7/x", lost},
		{"https://api.example/v1", "https://router.local/x", lost},
		{"https://api.example/v1", "https://１２７.0.0.1/x", lost},
		{"https://api.example/v1", "https://127。0。0。1/x", lost},
		{"https://api.example/v1", "https://ⓛocalhost/x", lost},
		{"https://api.example/v1", "https://a b/x", lost},
		{"https://api.example/v1", "ftp://cdn.example/x", lost},
		{"https://api.example/v1", "file:///etc/passwd", lost},
		{"https://api.example/v1", "https:///x", lost},
		{"https://api.example/v1", "", lost},
		{"https://api.example/v1", "no URL at all", lost},
		{"https://api.example/v1", "https://cdn.example/" + strings.Repeat("x", 9000), lost},
		{"http://api.example/v1", "http://cdn.example/x", fetched},
		{"http://api.example/v1", "http://10.0.0.8/x", lost},
		{"http://127.0.0.1:3000/v1", "http://127.0.0.1:3001/x", fetched},
		{"http://127.0.0.1:3000/v1", "http://10.0.0.8/x", fetched},
		{"https://127.0.0.1:3000/v1", "http://10.0.0.8/x", waits},
		{"http://one-api:3000/v1", "http://minio.internal/x", fetched},
		{"https://[2606:4700::1111]/v1", "https://10.0.0.8/x", lost},
	} {
		h := &byHost{hosts: map[string]http.HandlerFunc{}}
		u, _ := url.Parse(c.base)
		if address, err := url.Parse(strings.TrimSpace(c.address)); err == nil {
			u = u.ResolveReference(address)
			h.hosts[u.Scheme+"://"+u.Host] = serve(simapi.Draw("x"))
		}
		err := clientOver(t, h, c.base, imageapi.DownloadRules{}).Download(t.Context(), c.address, 3, io.Discard)
		name := c.base + " " + c.address[:min(len(c.address), 60)]
		switch c.want {
		case fetched:
			assert.NoError(t, err, name)
			continue
		case waits:
			e := requireFailed(t, err)
			assert.Equal(t, []any{task.CodeDownload, task.Release}, []any{e.Code, e.Disposition}, name)
			assert.Contains(t, e.Message, "IMAGE_DOWNLOAD_HTTP", name)
		case lost:
			e := requireFailed(t, err)
			assert.Equal(t, []any{task.CodePictureLost, task.Fail}, []any{e.Code, e.Disposition}, name)
		}
		assert.Empty(t, h.urls(), name)
	}
}

// renaming is a transport that asks for the loopback interface by a name in place of any other.
type renaming struct {
	http.RoundTripper
	host string
}

func (r renaming) RoundTrip(request *http.Request) (*http.Response, error) {
	renamed := request.Clone(request.Context())
	renamed.URL.Host = r.host
	return r.RoundTripper.RoundTrip(renamed)
}

// Hosts with other letters than those of ASCII are asked by the name that DNS has, and paths as they were given.
func TestDownload_UnusualURLs(t *testing.T) {
	for address, want := range map[string]string{
		"https://图片.example:8443/x":            "https://xn--wcsw84d.example:8443/x",
		"https://cdn.example/a//b/../c?x=a b":  "https://cdn.example/a//b/../c?x=a%20b",
		"https://cdn.example/a%2Fb?sig=%2B+/=": "https://cdn.example/a%2Fb?sig=%2B+/=",
		"https://cdn.example/图?名=值":            "https://cdn.example/%E5%9B%BE?名=值",
	} {
		u, err := url.Parse(want)
		require.NoError(t, err)
		h := &byHost{hosts: map[string]http.HandlerFunc{"https://" + u.Host: serve(simapi.Draw("x"))}}
		require.NoError(t, clientOver(t, h, "https://api.example/v1", imageapi.DownloadRules{}).Download(t.Context(), address, 1, io.Discard), address)
		assert.Equal(t, want, h.seen[0].URL.String())
	}
}

// A public name that is resolved to a private address is refused right before the connection. The API's own name is not.
func TestDownload_ResolvedAddress(t *testing.T) {
	host := startHost(t, serve(simapi.Draw("x")))
	_, port, err := net.SplitHostPort(strings.TrimPrefix(host, "http://"))
	require.NoError(t, err)
	tr, err := proxy.New(proxy.Config{})
	require.NoError(t, err)
	t.Cleanup(tr.CloseIdleConnections)
	c := clientOver(t, renaming{tr, "localhost:" + port}, "http://api.example/v1", imageapi.DownloadRules{})
	e := requireFailed(t, c.Download(t.Context(), "http://cdn.example/x", 1, io.Discard))
	assert.Equal(t, task.Release, e.Disposition, "the next answer of the DNS may be another")
	assert.Contains(t, e.Message, "not on the public Internet")
	require.NoError(t, c.Download(t.Context(), "http://api.example/x", 1, io.Discard))
}

// A proxy that forbids the picture's host does not keep the other from delivering, and neither loses its place.
func TestDownload_ProxyForbidsHost(t *testing.T) {
	host := startHost(t, serve(simapi.Draw("x")))
	var urls []string
	var proxies []*simproxy.Proxy
	for range 2 {
		p, err := simproxy.Start(simproxy.Config{})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, p.Close()) })
		proxies, urls = append(proxies, p), append(urls, p.URL())
	}
	proxies[0].SetMode(simproxy.Refuse)
	tr, err := proxy.New(proxy.Config{Env: proxy.Env{OpenAI: urls}})
	require.NoError(t, err)
	t.Cleanup(tr.CloseIdleConnections)
	c := clientOver(t, tr, "http://127.0.0.1/v1", imageapi.DownloadRules{})
	require.NoError(t, c.Download(t.Context(), host+secretPath, 1, io.Discard))
	proxies[1].SetMode(simproxy.Refuse)
	e := requireFailed(t, c.Download(t.Context(), host+secretPath, 1, io.Discard))
	assert.Equal(t, task.CodeDownload, e.Code)
	assert.False(t, e.Gone, "the proxy's 403 is not that of the host")
	c.SetDownloadRules(imageapi.DownloadRules{Direct: true})
	require.NoError(t, c.Download(t.Context(), host+secretPath, 1, io.Discard))
	for _, s := range tr.States(&url.URL{Scheme: "http", Host: "127.0.0.1"}) {
		assert.False(t, s.Ejected)
	}
}

// The end of the attempt is no failure of the host.
func TestDownload_Interrupted(t *testing.T) {
	waiting := make(chan struct{})
	host := startHost(t, func(_ http.ResponseWriter, r *http.Request) { close(waiting); <-r.Context().Done() })
	c := client(t, "http://127.0.0.1/v1", key, proxy.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-waiting; cancel() }()
	e := requireFailed(t, c.Download(ctx, host+secretPath, 3, io.Discard))
	assert.Equal(t, []any{task.CodeShutdown, task.Release}, []any{e.Code, e.Disposition})
	host = startHost(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	limited, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	e = requireFailed(t, c.Download(limited, host+secretPath, 3, io.Discard))
	assert.Equal(t, []any{task.CodeDownload, task.Release}, []any{e.Code, e.Disposition})
	assert.Contains(t, e.Message, "TASK_TIMEOUT")
}

// A writer that can't discard what it has gets no second try.
func TestDownload_WriterWithoutReset(t *testing.T) {
	picture := simapi.Draw("x")
	h := &byHost{hosts: map[string]http.HandlerFunc{"https://cdn.example": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(picture)))
		_, _ = w.Write(picture[:1000])
	}}}
	var b bytes.Buffer
	requireFailed(t, clientOver(t, h, "https://api.example/v1", imageapi.DownloadRules{}).Download(t.Context(), "https://cdn.example/x", 3, struct{ io.Writer }{&b}))
	assert.Len(t, h.urls(), 1)
	assert.Equal(t, picture[:1000], b.Bytes())
}
