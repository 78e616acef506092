package status

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/settings"
)

const testToken = "a-token-of-the-tests"

// site is an access with a handler behind it that counts the requests it gets.
type site struct {
	*Access
	handler http.Handler
	reached int
	log     bytes.Buffer
}

func newSite(t *testing.T, conf AccessConfig) *site {
	t.Helper()
	s := &site{}
	log := logrus.New()
	log.SetOutput(&s.log)
	conf.Log = log
	if conf.Addr == "" {
		conf.Addr = "127.0.0.1:9464"
	}
	access, err := NewAccess(conf)
	require.NoError(t, err)
	s.Access = access
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) { s.reached++ })
	s.handler = access.Handler(mux)
	return s
}

// ask sends a request over a connection, with headers of the form "Name: value".
func (s *site) ask(t *testing.T, method, path, body string, headers ...string) *http.Response {
	t.Helper()
	server := httptest.NewServer(s.handler)
	defer server.Close()
	r, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	r.Host = "127.0.0.1:9464"
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Add(name, value)
	}
	answer, err := server.Client().Do(r)
	require.NoError(t, err)
	content, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	answer.Body = io.NopCloser(bytes.NewReader(content))
	return answer
}

func (s *site) code(t *testing.T, method, path string, headers ...string) int {
	t.Helper()
	return s.ask(t, method, path, "", headers...).StatusCode
}

// signIn returns the headers of a browser that has signed in.
func (s *site) signIn(t *testing.T) (cookie, csrf string) {
	t.Helper()
	answer := s.ask(t, "POST", "/api/session", `{"token":"`+testToken+`"}`, "Content-Type: application/json", "Origin: http://127.0.0.1:9464")
	require.Equal(t, 200, answer.StatusCode)
	require.Len(t, answer.Cookies(), 1)
	var state sessionState
	require.NoError(t, json.NewDecoder(answer.Body).Decode(&state))
	assert.True(t, state.SignedIn)
	return "Cookie: " + answer.Cookies()[0].Name + "=" + answer.Cookies()[0].Value, "X-CSRF-Token: " + state.CSRF
}

func TestNewAccess_OffLoopbackNeedsToken(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:9464", ":9464", "[::]:1", "192.0.2.1:9464", "status.example:80"} {
		_, err := NewAccess(AccessConfig{Addr: addr})
		var fault *settings.Error
		if assert.ErrorAs(t, err, &fault, addr) {
			assert.Equal(t, "STATUS_TOKEN", fault.Name)
		}
		_, err = NewAccess(AccessConfig{Addr: addr, Token: testToken})
		assert.NoError(t, err)
	}
	for _, addr := range []string{"127.0.0.1:0", "localhost:9464", "[::1]:1"} {
		_, err := NewAccess(AccessConfig{Addr: addr})
		assert.NoError(t, err, addr)
	}
}

func TestAccess_WithoutToken(t *testing.T) {
	s := newSite(t, AccessConfig{})
	for _, path := range []string{"/", "/assets/app.js", "/healthz", "/readyz", "/status.json", "/metrics", "/api/overview", "/api/session"} {
		assert.Equal(t, 200, s.code(t, "GET", path), path)
	}
	reached := s.reached
	for _, path := range []string{"/api/operations", "/api/thumbnails/x"} {
		assert.Equal(t, 403, s.code(t, "GET", path), path)
	}
	assert.Equal(t, 403, s.code(t, "POST", "/api/actions/cancel"))
	assert.Equal(t, 403, s.code(t, "POST", "/api/actions/cancel", "Authorization: Bearer "), "an empty token is none")
	assert.Equal(t, 403, s.code(t, "POST", "/status.json"))
	assert.Equal(t, 403, s.ask(t, "POST", "/api/session", `{"token":""}`, "Content-Type: application/json").StatusCode)
	assert.Equal(t, reached, s.reached)
}

func TestAccess_WhoMayRead(t *testing.T) {
	s := newSite(t, AccessConfig{Token: testToken, Hosts: []string{"status.example"}})
	bearer := "Authorization: Bearer " + testToken
	for _, headers := range [][]string{
		{"Host: status.example"}, {"X-Forwarded-For: 203.0.113.7"}, {"Forwarded: for=203.0.113.7"}, {"Via: 1.1 proxy"}, {"X-Real-IP: 203.0.113.7"},
	} {
		for _, path := range []string{"/", "/assets/app.js", "/healthz", "/readyz", "/api/session"} {
			assert.Equal(t, 200, s.code(t, "GET", path, headers...), "%s %s", path, headers)
		}
		for _, path := range []string{"/status.json", "/metrics", "/api/overview", "/api/events", "/api/tasks", "/api/operations", "/api/thumbnails/x", "/other"} {
			reached := s.reached
			assert.Equal(t, 401, s.code(t, "GET", path, headers...), "%s %s", path, headers)
			assert.Equal(t, reached, s.reached)
			assert.Equal(t, 200, s.code(t, "GET", path, append(headers, bearer)...), "%s %s", path, headers)
		}
	}
	assert.Equal(t, 200, s.code(t, "GET", "/api/overview"), "from this host")
	assert.Equal(t, 401, s.code(t, "GET", "/api/operations"), "what people did")
	assert.Equal(t, 401, s.code(t, "GET", "/api/thumbnails/x"), "users' pictures")
	assert.Equal(t, 401, s.code(t, "POST", "/api/actions/cancel"))
	assert.Equal(t, 200, s.code(t, "POST", "/api/actions/cancel", bearer), "no browser sends this header by itself")
	assert.Equal(t, 401, s.code(t, "GET", "/api/overview", "Authorization: Bearer wrong"))
	cookie, _ := s.signIn(t)
	assert.Equal(t, 200, s.code(t, "GET", "/api/operations", cookie, "Authorization: Basic dXNlcjpwYXNzd29yZA=="), "the reverse proxy's own login")

	// nginx passes on requests like this one unless it is told otherwise.
	r := httptest.NewRequest("GET", "http://127.0.0.1:9464/api/overview", nil)
	r.Proto, r.ProtoMajor, r.ProtoMinor, r.RemoteAddr = "HTTP/1.0", 1, 0, "127.0.0.1:4000"
	assert.False(t, s.isFromHere(r))
}

func TestAccess_ForeignPages(t *testing.T) {
	s := newSite(t, AccessConfig{Token: testToken, Hosts: []string{"status.example"}})
	bearer := "Authorization: Bearer " + testToken
	for _, header := range []string{"Origin: https://attacker.example", "Origin: null", "Origin: http://127.0.0.1:3000", "Origin: http://localhost:9464", "Origin: https://status.example:8443",
		"Origin: ftp://127.0.0.1:9464", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"} {
		for _, path := range []string{"/api/overview", "/metrics", "/healthz"} {
			assert.Equal(t, 403, s.code(t, "GET", path, header), "%s %s", path, header)
		}
		assert.Equal(t, 403, s.code(t, "POST", "/api/actions/cancel", header, bearer), header)
	}
	assert.Zero(t, s.reached)
	assert.Equal(t, 403, s.code(t, "GET", "/api/overview", "Origin: http://127.0.0.1:9464", "Origin: https://attacker.example"))
	assert.Equal(t, 403, s.code(t, "GET", "/", "Host: attacker.example"))
	assert.Equal(t, 200, s.code(t, "GET", "/", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"), "a link to the page")
	for _, headers := range [][]string{{"Origin: http://127.0.0.1:9464"}, {"Origin: https://status.example"}, {"Host: status.example", "Origin: https://status.example"}} {
		assert.Equal(t, 200, s.code(t, "GET", "/healthz", headers...), "%s", headers)
	}
}

func TestAccess_Session(t *testing.T) {
	s := newSite(t, AccessConfig{Token: testToken, Pictures: true})
	now := time.Now()
	s.now = func() time.Time { return now }
	cookie, csrf := s.signIn(t)
	origin := "Origin: http://127.0.0.1:9464"
	assert.Equal(t, 200, s.code(t, "GET", "/api/operations", cookie))
	assert.Equal(t, 200, s.code(t, "GET", "/api/overview", cookie, "X-Forwarded-For: 203.0.113.7"))
	assert.Equal(t, 200, s.code(t, "POST", "/api/actions/cancel", cookie, csrf, origin))
	reached := s.reached
	assert.Equal(t, 403, s.code(t, "POST", "/api/actions/cancel", cookie, origin), "without the session's own token")
	assert.Equal(t, 403, s.code(t, "POST", "/api/actions/cancel", cookie, "X-CSRF-Token: x", origin))
	assert.Equal(t, 403, s.code(t, "POST", "/api/actions/cancel", cookie, csrf), "without an origin")
	assert.Equal(t, 403, s.code(t, "POST", "/api/actions/cancel", cookie, csrf, "Origin: https://attacker.example"))
	_, others := s.signIn(t)
	assert.Equal(t, 403, s.code(t, "POST", "/api/actions/cancel", cookie, others, origin), "that of another session")
	assert.Equal(t, 403, s.code(t, "DELETE", "/api/session", cookie, origin), "another site can't sign out")
	assert.Equal(t, reached, s.reached)

	assert.Equal(t, 200, s.code(t, "DELETE", "/api/session", cookie, csrf, origin))
	assert.Equal(t, 401, s.code(t, "GET", "/api/operations", cookie), "the session has ended, not only the cookie")

	cookie, _ = s.signIn(t)
	assert.Equal(t, 200, s.ask(t, "POST", "/api/session", `{"token":"`+testToken+`"}`, cookie, origin, "Content-Type: application/json").StatusCode,
		"in another tab, which knows of no session")
	now = now.Add(sessionTime + time.Second)
	assert.Equal(t, 401, s.code(t, "GET", "/api/operations", cookie))
	cookie, _ = s.signIn(t)
	s.SetToken(testToken)
	assert.Equal(t, 200, s.code(t, "GET", "/api/operations", cookie), "the token is the same")
	s.SetToken("another-token-of-the-tests")
	assert.Equal(t, 401, s.code(t, "GET", "/api/operations", cookie))
	assert.Equal(t, 401, s.code(t, "GET", "/api/operations", "Authorization: Bearer "+testToken))
	assert.NotContains(t, s.log.String(), testToken)
	assert.Contains(t, s.log.String(), "signed in")
}

func TestAccess_Cookie(t *testing.T) {
	s := newSite(t, AccessConfig{Token: testToken})
	sign := func(headers ...string) *http.Cookie {
		answer := s.ask(t, "POST", "/api/session", `{"token":"`+testToken+`"}`, append(headers, "Content-Type: application/json")...)
		require.Equal(t, 200, answer.StatusCode)
		return answer.Cookies()[0]
	}
	c := sign()
	assert.True(t, c.HttpOnly)
	assert.Equal(t, http.SameSiteStrictMode, c.SameSite)
	assert.Equal(t, "/", c.Path)
	assert.Empty(t, c.Domain)
	assert.False(t, c.Secure, "a browser would not send it over http")
	assert.True(t, sign("X-Forwarded-Proto: https").Secure)
	assert.NotEqual(t, c.Name, newSite(t, AccessConfig{Addr: "127.0.0.1:9465", Token: testToken}).cookie, "cookies don't tell ports")

	assert.Equal(t, 415, s.ask(t, "POST", "/api/session", `{"token":"`+testToken+`"}`, "Content-Type: text/plain").StatusCode, "a form of another site can send this")
	assert.Equal(t, 400, s.ask(t, "POST", "/api/session", `{"token":"`+strings.Repeat("x", maxSignIn)+`"}`, "Content-Type: application/json").StatusCode)
	assert.Equal(t, 400, s.ask(t, "POST", "/api/session", `[`, "Content-Type: application/json").StatusCode)
}

func TestAccess_GuessesAreBounded(t *testing.T) {
	s := newSite(t, AccessConfig{Token: testToken})
	now := time.Now()
	s.now = func() time.Time { return now }
	from := func(client string) string { return "X-Forwarded-For: 192.0.2.200, " + client }
	guess := func(client, token string) int {
		return s.ask(t, "POST", "/api/session", `{"token":"`+token+`"}`, "Content-Type: application/json", from(client)).StatusCode
	}
	assert.Equal(t, 200, guess("198.51.100.1", testToken))
	for range triesOfClient {
		assert.Equal(t, 401, guess("203.0.113.1", "wrong"))
	}
	assert.Equal(t, 429, guess("203.0.113.1", testToken), "the right one tells nothing now")
	assert.Equal(t, 429, s.code(t, "GET", "/metrics", from("203.0.113.1"), "Authorization: Bearer "+testToken))
	assert.Equal(t, 200, guess("203.0.113.2", testToken), "another client")
	for i := range triesTotal {
		s.guard.failed(fmt.Sprintf("2001:db8:%x::1", i), now)
	}
	assert.Equal(t, 429, guess("203.0.113.3", testToken), "from many addresses")
	assert.Equal(t, 200, s.code(t, "GET", "/metrics", from("198.51.100.1"), "Authorization: Bearer "+testToken), "a scraper goes on")
	now = now.Add(signInWindow)
	assert.Equal(t, 200, guess("203.0.113.1", testToken))
	assert.Equal(t, 200, guess("203.0.113.3", testToken))
	assert.LessOrEqual(t, strings.Count(s.log.String(), "203.0.113.1"), 3, "a guess does not fill the log: "+s.log.String())
}

func TestSignInGuard_BoundedMemory(t *testing.T) {
	g, now := newSignInGuard(), time.Now()
	g.succeeded("198.51.100.1", now)
	for i := range 3 * maxSignInState {
		now = now.Add(time.Millisecond)
		g.failed(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}).String(), now)
	}
	assert.Len(t, g.clients, maxSignInState)
	assert.Contains(t, g.clients, "198.51.100.1", "a client that gave the token is kept")
	for range triesOfClient {
		g.failed("2001:db8:1:2::1", now)
	}
	assert.False(t, g.may("2001:db8:1:2:3::4", now), "the same subscriber")
}

func TestSessions_Bounded(t *testing.T) {
	s, now := newSessions(), time.Now()
	first, _ := s.begin([32]byte{}, now)
	second, _ := s.begin([32]byte{}, now.Add(time.Second))
	for i := range maxSessions - 1 {
		s.begin([32]byte{}, now.Add(time.Duration(i+2)*time.Second))
	}
	assert.Len(t, s.all, maxSessions)
	assert.Nil(t, s.find(first, now))
	assert.NotNil(t, s.find(second, now))
}

func TestClientOf(t *testing.T) {
	for _, c := range []struct{ remote, forwarded, want string }{
		{"198.51.100.1:9", "203.0.113.7", "198.51.100.1"}, {"127.0.0.1:9", "192.0.2.1, 203.0.113.7", "203.0.113.7"},
		{"10.0.0.5:9", "203.0.113.7", "203.0.113.7 through 10.0.0.5"}, {"[::ffff:10.0.0.5]:9", "", "10.0.0.5"}, {"[::1]:9", "unknown", "::1"},
		{"[fe80::1%eth0]:9", "", "fe80::1"}, {"@", "", "@"},
	} {
		r := httptest.NewRequest("GET", "http://localhost/", nil)
		r.RemoteAddr = c.remote
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		assert.Equal(t, c.want, clientOf(r), c.remote)
	}
}

// Anybody may ask whether the program is ready; what is wrong is for those who may read.
func TestReadyz_ProblemsAreNotForEverybody(t *testing.T) {
	s := newSite(t, AccessConfig{Token: testToken})
	s.handler = s.Handler(WatchHandler(Watch{Last: func() WatchedPass { return WatchedPass{Done: true, Summary: "a problem"} }}))
	text := func(headers ...string) string {
		answer := s.ask(t, "GET", "/readyz", "", headers...)
		assert.Equal(t, 503, answer.StatusCode)
		body, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return string(body)
	}
	assert.Contains(t, text(), "a problem")
	assert.Empty(t, text("X-Forwarded-For: 203.0.113.7"))
}

// A stop waits for what is being changed, and begins nothing more.
func TestServer_CloseWaitsForActs(t *testing.T) {
	access, err := NewAccess(AccessConfig{Addr: "127.0.0.1:0", Token: testToken})
	require.NoError(t, err)
	begun, release, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	server, err := Serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(begun)
		<-release
		close(ended)
	}), access)
	require.NoError(t, err)
	r, err := http.NewRequest("POST", "http://"+server.Addr()+"/api/actions/x", nil)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+testToken)
	go func() { _, _ = http.DefaultTransport.RoundTrip(r) }() //nolint:bodyclose // there is no answer
	<-begun
	closed := make(chan error, 1)
	go func() { closed <- server.Close() }()
	require.Eventually(t, func() bool { server.acts.mu.Lock(); defer server.acts.mu.Unlock(); return server.acts.closed }, 5*time.Second, time.Millisecond)
	assert.False(t, server.acts.begin())
	assert.Empty(t, closed)
	close(release)
	require.NoError(t, <-closed)
	select {
	case <-ended:
	default:
		assert.Fail(t, "it was still being done")
	}
}

func TestAccess_Headers(t *testing.T) {
	s := newSite(t, AccessConfig{})
	for _, path := range []string{"/api/session", "/status.json", "/api/operations", "/healthz"} {
		h := s.ask(t, "GET", path, "").Header
		assert.Equal(t, "nosniff", h.Get("X-Content-Type-Options"), path)
		assert.Equal(t, "no-referrer", h.Get("Referrer-Policy"), path)
		assert.Contains(t, h.Get("Content-Security-Policy"), "default-src 'none'", path)
		assert.Contains(t, h.Get("Content-Security-Policy"), "frame-ancestors 'none'", path)
		assert.Equal(t, "no-store", h.Get("Cache-Control"), path)
	}
}
