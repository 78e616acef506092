package imageapi

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simproxy"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// roundTripFunc is a transport.
type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A redirect names the host of its target, and nothing of its URL that may be secret.
func TestGenerate_RedirectNamesItsTarget(t *testing.T) {
	for _, c := range []struct {
		base, location, says string
		code                 task.Code
	}{
		{"http://api.example/v1", "http://portal.example/login?session=hunter2", "captive portal", task.CodeWebPage},
		{"http://api.example/v1", "https://portal.example/hunter2", "portal.example", task.CodeWebPage},
		{"http://api.example/v1", "https://u:hunter2@api.example/v1/images/generations", "write https://", task.CodeWrongAddress},
		{"https://api.example/v1", "https://www.example/hunter2", "to www.example (302)", task.CodeWrongAddress},
		{"https://api.example/v1", "/login?next=hunter2", "to api.example (302)", task.CodeWrongAddress},
		{"https://api.example/v1", "http://%zz/hunter2", "redirects", task.CodeWrongAddress},
		{"https://api.example/v1", "", "redirects", task.CodeWrongAddress},
	} {
		client, err := New(Config{BaseURL: c.base, Key: "sk-1", Model: "gpt-image-1", MaxBytes: 1 << 20, Transport: roundTripFunc(
			func(r *http.Request) (*http.Response, error) {
				h := http.Header{}
				if c.location != "" {
					h.Set("Location", c.location)
				}
				return &http.Response{StatusCode: 302, Header: h, Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
			})})
		require.NoError(t, err)
		_, err = client.Generate(t.Context(), Request{Prompt: "a lantern"}, io.Discard)
		e, ok := errors.AsType[*task.Error](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, c.code, e.Code, "%+v", c)
		assert.Contains(t, e.Message, c.says)
		assert.NotContains(t, e.Error(), "hunter2")
		assert.False(t, e.Unknown, "a redirect makes no picture")
	}
}

// A proxy's own response counts as the proxy's. Only one that was certainly made before the request was forwarded allows to repeat it.
func TestGenerate_ProxyOwnResponse(t *testing.T) {
	for name, c := range map[string]struct {
		response string
		want     task.Error
		says     string
	}{
		"squid can't connect": {"503 Service Unavailable\r\nX-Squid-Error: ERR_CONNECT_FAIL 111\r\nContent-Length: 0\r\n\r\n",
			task.Error{Code: task.CodeProxyTarget, Disposition: task.Pause, Scope: task.ScopeProxy, NotSent: true}, "squid"},
		"squid lost the API": {"502 Bad Gateway\r\nX-Squid-Error: ERR_READ_ERROR 104\r\nContent-Length: 0\r\n\r\n",
			task.Error{Code: task.CodeProxyTarget, Disposition: task.Release, Scope: task.ScopeProxy, Unknown: true}, "squid"},
		"login": {"407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
			task.Error{Code: task.CodeProxyLoginMissing, Disposition: task.Pause, Scope: task.ScopeProxy, NotSent: true}, "requires a login"},
		"nothing tells": {"503 Service Unavailable\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nsorry",
			task.Error{}, "nothing in the response tells whether the API made it or the proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := simproxy.Start(simproxy.Config{})
			require.NoError(t, err)
			defer p.Close()
			p.Answer(func(r *http.Request, w *bufio.Writer) {
				if r.Method == http.MethodConnect {
					_, _ = w.WriteString("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
					return
				}
				_, _ = w.WriteString("HTTP/1.1 " + c.response)
			})
			tr, err := proxy.New(proxy.Config{Env: proxy.Env{OpenAI: []string{p.URL()}}})
			require.NoError(t, err)
			defer tr.CloseIdleConnections()
			client, err := New(Config{BaseURL: "http://api.example/v1", Key: "sk-1", Model: "gpt-image-1", MaxBytes: 1 << 20, Transport: tr})
			require.NoError(t, err)
			_, err = client.Generate(t.Context(), Request{Prompt: "a lantern"}, io.Discard)
			e, ok := errors.AsType[*task.Error](err)
			require.True(t, ok, "%v", err)
			assert.Contains(t, e.Message, c.says)
			u, _ := url.Parse(p.URL())
			assert.Contains(t, e.Message, u.Host, "the proxy is named")
			if c.want.Code == "" {
				assert.True(t, e.Unknown)
				return
			}
			got := task.Error{Code: e.Code, Disposition: e.Disposition, Scope: e.Scope, NotSent: e.NotSent, Unknown: e.Unknown}
			assert.Equal(t, c.want, got)
		})
	}
}
