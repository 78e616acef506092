package s3_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
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

	"imagetasks/internal/reals3"
	"imagetasks/internal/storetest"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/s3"
)

// backend returns a Backend.
func backend(t *testing.T, c s3.Config) *s3.Backend {
	t.Helper()
	b, err := s3.New(c)
	require.NoError(t, err)
	return b
}

// config is that of a backend in the bucket of a server.
func config(t *testing.T, endpoint string) s3.Config {
	t.Helper()
	transport, err := proxy.New(proxy.Config{})
	require.NoError(t, err)
	t.Cleanup(transport.CloseIdleConnections)
	return s3.Config{Endpoint: endpoint, Region: reals3.Region, Bucket: reals3.Bucket, Prefix: "p/0f3a1b2c4d5e", PathStyle: true,
		AccessKeyID: reals3.AccessKeyID, SecretAccessKey: reals3.SecretAccessKey, Transport: transport, CacheControl: "public, max-age=60"}
}

func TestBackend_Conforms(t *testing.T) {
	t.Parallel()
	server := reals3.Start(t)
	storetest.Check(t, backend(t, config(t, server.Endpoint)), t.TempDir(), true)
}

// After a server has refused one conditional request, no other is sent to it.
func TestPut_Unconditional(t *testing.T) {
	t.Parallel()
	server := reals3.Start(t)
	var refused, puts atomic.Int64
	address := between(t, server, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPut {
			puts.Add(1)
		}
		if r.Header.Get("If-None-Match") != "" {
			refused.Add(1)
			http.Error(w, "<Error><Code>NotImplemented</Code></Error>", http.StatusNotImplemented)
			return
		}
		next.ServeHTTP(w, r)
	})
	c := config(t, server.Endpoint)
	c.Endpoint = address
	storetest.Check(t, backend(t, c), t.TempDir(), false)
	assert.EqualValues(t, 1, refused.Load())
	assert.EqualValues(t, 5, puts.Load())
}

// between puts a handler between a backend and the server. The signed Host header is kept.
func between(t *testing.T, server *reals3.Server, handle func(http.ResponseWriter, *http.Request, http.Handler)) string {
	t.Helper()
	target, err := url.Parse(server.Endpoint)
	require.NoError(t, err)
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = target.Scheme, target.Host, r.In.Host
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handle(w, r, forward) }))
	t.Cleanup(front.Close)
	return front.URL
}

// What is stored has its media type and the cache header, and can be read by its URL.
func TestPut_Headers(t *testing.T) {
	t.Parallel()
	server := reals3.Start(t)
	var header http.Header
	var body string
	c := config(t, server.Endpoint)
	c.Endpoint = between(t, server, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, ".png") {
			content, err := io.ReadAll(r.Body)
			assert.NoError(t, err)
			header, body = r.Header.Clone(), string(content)
			r.Body = io.NopCloser(bytes.NewReader(content))
		}
		next.ServeHTTP(w, r)
	})
	b := backend(t, c)
	require.NoError(t, b.Put(t.Context(), "x.png", storetest.Source(t, t.TempDir(), []byte("content")), false))
	assert.Equal(t, "content", body, "the body is the content, in no encoding that some servers don't know")
	assert.Equal(t, []string{"image/png", "public, max-age=60", "*"}, []string{header.Get("Content-Type"), header.Get("Cache-Control"), header.Get("If-None-Match")})
	assert.Equal(t, "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73", header.Get("X-Amz-Content-Sha256"))
	assert.NotEmpty(t, header.Get("Content-Md5"))
	assert.Equal(t, []string{"p/0f3a1b2c4d5e/x.png"}, server.Keys(".png"))
	assert.Equal(t, c.Endpoint+"/pictures/p/0f3a1b2c4d5e/x.png", b.URL("x.png"))
	for template, want := range map[string]string{
		"https://cdn.example/":                     "https://cdn.example/p/0f3a1b2c4d5e/x.png",
		"https://cdn.example/o/{bucket}/{key}?x=1": "https://cdn.example/o/pictures/p/0f3a1b2c4d5e/x.png?x=1",
	} {
		c.URL = template
		assert.Equal(t, want, backend(t, c).URL("x.png"))
	}
	c.URL, c.PathStyle, c.Endpoint = "", false, "https://oss-cn-hangzhou.aliyuncs.com"
	assert.Equal(t, "https://pictures.oss-cn-hangzhou.aliyuncs.com/p/0f3a1b2c4d5e/x.png", backend(t, c).URL("x.png"))
}

// Each refusal says what to do. None is a missing object.
func TestErrors_SayWhatToDo(t *testing.T) {
	t.Parallel()
	server := reals3.Start(t)
	for name, test := range map[string]struct {
		change func(*s3.Config)
		want   string
	}{
		"key":      {func(c *s3.Config) { c.AccessKeyID = "unknown" }, "access key"},
		"secret":   {func(c *s3.Config) { c.SecretAccessKey = "wrong" }, "correct AWS_SECRET_ACCESS_KEY"},
		"bucket":   {func(c *s3.Config) { c.Bucket = "other" }, "there is no bucket other; create the bucket"},
		"no route": {func(c *s3.Config) { c.Endpoint = "http://127.0.0.1:1" }, "connection refused"},
	} {
		c := config(t, server.Endpoint)
		test.change(&c)
		b := backend(t, c)
		for what, call := range map[string]func() error{
			"put":  func() error { return b.Put(t.Context(), "x.png", storetest.Source(t, t.TempDir(), []byte("x")), false) },
			"get":  func() error { _, err := b.Get(t.Context(), "x.png"); return err },
			"list": func() error { return b.List(t.Context(), func([]picture.Info) error { return nil }) },
		} {
			err := call()
			assert.ErrorContains(t, err, test.want, "%s: %s", name, what)
			assert.NotErrorIs(t, err, fs.ErrNotExist, "%s: %s", name, what)
			assert.Equal(t, name == "no route", errors.Is(err, picture.ErrUnavailable), "%s: %s: %v", name, what, err)
			assert.NotContains(t, err.Error(), reals3.SecretAccessKey)
		}
	}
}

// A clock that is wrong is named, with the difference.
func TestErrors_ClockSkew(t *testing.T) {
	t.Parallel()
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(-42*time.Minute).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message></Error>")
	}))
	t.Cleanup(front.Close)
	_, err := backend(t, config(t, front.URL)).Get(t.Context(), "x.png")
	require.Error(t, err)
	assert.Regexp(t, `set the clock of this host \(NTP\): it differs by about 42m\ds`, err.Error())
}

// A server that accepts and never responds, and one that stops reading in the middle of an upload, are given up after the bound.
func TestRequests_AreBounded(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close() // what is accepted by the kernel is never read
	c := config(t, "http://"+listener.Addr().String())
	c.Stall = 300 * time.Millisecond
	b := backend(t, c)
	large := storetest.Source(t, t.TempDir(), make([]byte, 32<<20))
	for what, call := range map[string]func(context.Context) error{
		"put":    func(ctx context.Context) error { return b.Put(ctx, "x.png", large, false) },
		"get":    func(ctx context.Context) error { _, err := b.Get(ctx, "x.png"); return err },
		"stat":   func(ctx context.Context) error { _, err := b.Stat(ctx, "x.png"); return err },
		"list":   func(ctx context.Context) error { return b.List(ctx, func([]picture.Info) error { return nil }) },
		"remove": func(ctx context.Context) error { return b.Remove(ctx, "x.png") },
	} {
		began := time.Now()
		err := call(context.Background())
		assert.ErrorIs(t, err, picture.ErrUnavailable, what)
		assert.Regexp(t, `nothing arrived for 300ms|was not finished in`, err.Error(), what)
		assert.Less(t, time.Since(began), 5*time.Second, what)
	}
}

// An upload that is cut off in the middle leaves no object.
func TestPut_CutOff(t *testing.T) {
	t.Parallel()
	server := reals3.Start(t)
	c := config(t, server.Endpoint)
	var cut atomic.Bool
	cut.Store(true)
	c.Endpoint = between(t, server, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPut && cut.Load() {
			r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, 100_000), &cutBody{}))
		}
		next.ServeHTTP(w, r)
	})
	b := backend(t, c)
	content := storetest.Source(t, t.TempDir(), bytes.Repeat([]byte("x"), 1<<20))
	assert.ErrorIs(t, b.Put(t.Context(), "x.png", content, false), picture.ErrUnavailable)
	assert.Empty(t, server.Keys(".png"))
	cut.Store(false)
	require.NoError(t, b.Put(t.Context(), "x.png", content, false))
	assert.Equal(t, []string{"p/0f3a1b2c4d5e/x.png"}, server.Keys(".png"))
}

type cutBody struct{}

func (*cutBody) Read([]byte) (int, error) { return 0, errors.New("cut off") }

// What is on the way is compared with its checksums.
func TestPut_ContentChanged(t *testing.T) {
	t.Parallel()
	server := reals3.Start(t)
	c := config(t, server.Endpoint)
	c.Endpoint = between(t, server, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPut {
			content, err := io.ReadAll(r.Body)
			assert.NoError(t, err)
			content[0] ^= 1
			r.Body = io.NopCloser(bytes.NewReader(content))
		}
		next.ServeHTTP(w, r)
	})
	err := backend(t, c).Put(t.Context(), "x.png", storetest.Source(t, t.TempDir(), []byte("content")), false)
	assert.Error(t, err)
	assert.Empty(t, server.Keys(".png"))
	source := storetest.Source(t, t.TempDir(), []byte("content"))
	source.SHA256 = make([]byte, 32)
	assert.ErrorContains(t, backend(t, c).Put(t.Context(), "x.png", source, false), "other data than was written")
}

// What something in front of the server says is not what the server says: an object that it has must not count as missing.
func TestBackend_PagesAndCutListings(t *testing.T) {
	t.Parallel()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("list-type") != "" {
			_, _ = io.WriteString(w, `<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>`)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "<html><body>default backend - 404</body></html>")
	}))
	t.Cleanup(page.Close)
	b := backend(t, config(t, page.URL))
	_, err := b.Stat(t.Context(), "a.png")
	assert.ErrorIs(t, err, picture.ErrUnavailable)
	assert.NotErrorIs(t, err, fs.ErrNotExist)
	_, err = b.Get(t.Context(), "a.png")
	assert.ErrorIs(t, err, picture.ErrUnavailable)
	assert.ErrorContains(t, err, "a web page (404)")
	assert.ErrorContains(t, b.List(t.Context(), func([]picture.Info) error { return nil }), "does not say how it goes on")
}
