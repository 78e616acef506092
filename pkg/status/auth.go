package status

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/settings"
)

// AccessConfig says who may use a status server.
type AccessConfig struct {
	Addr     string   // it listens on
	Hosts    []string // besides loopback names, Addr and the address of the connection: names with or without a port
	Token    string   // empty: nothing may be changed, and Addr must be on loopback
	Pictures bool     // small copies of pictures are shown to those who have signed in
	// Log gets a line for each time that somebody signs in, or gives a wrong token. Optional.
	Log logrus.FieldLogger
}

// Access decides who may read and change what a status server serves. It is safe for concurrent use.
//
// Without a token, what is on loopback may be read, and nothing may be changed. With one, a request from this host may read; any other needs the
// cookie of a session or the header "Authorization: Bearer TOKEN". What changes something, the audit log and the pictures always need one of the two.
type Access struct {
	conf     AccessConfig
	cookie   string   // its name
	key      [32]byte // of the comparison
	token    atomic.Pointer[[32]byte]
	sessions *sessions
	guard    *signInGuard
	now      func() time.Time
}

// NewAccess returns an error for an address off loopback without a token.
func NewAccess(c AccessConfig) (*Access, error) {
	if c.Token == "" && !isLoopback(c.Addr) {
		return nil, &settings.Error{Name: "STATUS_TOKEN", Reason: "not set, and the status address " + c.Addr +
			" can be reached from other hosts; set a token (docs/page-access.md), or use an address on loopback such as 127.0.0.1:9464"}
	}
	if c.Log == nil {
		quiet := logrus.New()
		quiet.SetOutput(io.Discard)
		c.Log = quiet
	}
	a := &Access{conf: c, now: time.Now}
	if _, err := rand.Read(a.key[:]); err != nil {
		return nil, err
	}
	// Browsers send cookies to all ports of a host: the pages of several programs need different names.
	name := sha256.Sum256([]byte(c.Addr))
	a.cookie = "imagetasks_session_" + hex.EncodeToString(name[:4])
	a.sessions, a.guard = newSessions(), newSignInGuard()
	a.SetToken(c.Token)
	return a, nil
}

// SetToken replaces the token, and ends all sessions if it is another one.
func (a *Access) SetToken(token string) {
	var digest *[32]byte
	if token != "" {
		digest = new(a.digest(token))
	}
	old := a.token.Swap(digest)
	if old != nil && (digest == nil || *old != *digest) {
		a.sessions.clear()
	}
}

func (a *Access) digest(token string) [32]byte {
	mac := hmac.New(sha256.New, a.key[:])
	_, _ = mac.Write([]byte(token))
	return [32]byte(mac.Sum(nil))
}

// isToken compares in a time that does not depend on where the texts differ, or on their lengths.
func (a *Access) isToken(given string) bool {
	want, got := a.token.Load(), a.digest(given)
	return want != nil && subtle.ConstantTimeCompare(want[:], got[:]) == 1
}

// level is what a request must show.
type level int

const (
	levelOpen  level = iota // a Host header that is allowed
	levelRead               // it comes from this host, or is signed in
	levelToken              // it is signed in
)

// levelOf returns what a request needs.
func levelOf(r *http.Request) level {
	p := r.URL.Path
	switch {
	case p == "/healthz", p == "/readyz", p == "/", p == "/api/session", strings.HasPrefix(p, "/assets/"), p == "/favicon.ico":
		return levelOpen
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return levelToken
	case p == "/api/operations", strings.HasPrefix(p, "/api/thumbnails/"):
		return levelToken
	}
	return levelRead
}

// Handler passes on the requests that are allowed, and refuses the others. It serves /api/session itself.
func (a *Access) Handler(next http.Handler) http.Handler {
	next = a.withSessions(next)
	return checkHost(a.conf.Addr, a.conf.Hosts, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")
		if !a.ownOrigin(r) {
			refuse(w, r, refusal{http.StatusForbidden, "foreign_origin", textForeignOrigin})
			return
		}
		who, why := a.identify(r)
		if why != nil {
			refuse(w, r, *why)
			return
		}
		who.reads = func() bool { return a.reads(r, who) }
		if need := levelOf(r); need == levelToken && !who.signedIn() || need == levelRead && !who.reads() {
			why := refusal{http.StatusUnauthorized, "sign_in_required", textSignInRequired}
			if a.token.Load() == nil {
				why = refusal{http.StatusForbidden, "no_token", textNoToken}
			}
			refuse(w, r, why)
			return
		}
		// To sign in again, one has to know the token.
		signIn := r.Method == http.MethodPost && r.URL.Path == "/api/session"
		if who.session != nil && r.Method != http.MethodGet && r.Method != http.MethodHead && !signIn {
			if why := a.checkCSRF(r, who.session); why != nil {
				refuse(w, r, *why)
				return
			}
		}
		next.ServeHTTP(w, r.WithContext(withIdentity(r.Context(), who)))
	}))
}

// reads reports whether a request may read, now: what goes on for long asks again, because a token is replaced and a session ends.
func (a *Access) reads(r *http.Request, who identity) bool {
	token := a.token.Load()
	return token == nil || a.isFromHere(r) || who.bearer && who.token == *token ||
		who.session != nil && a.findSession(who.sessionID) == who.session
}

// checkCSRF returns why a change that a cookie would allow may have been sent by a page of another site.
func (a *Access) checkCSRF(r *http.Request, s *session) *refusal {
	if r.Header.Get("Origin") == "" { // Handler has compared it
		return &refusal{http.StatusForbidden, "foreign_origin", textForeignOrigin}
	}
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("X-Csrf-Token")), []byte(s.csrf)) != 1 {
		return &refusal{http.StatusForbidden, "csrf", textCSRF}
	}
	return nil
}

// ownOrigin reports whether the request was not made by a page of another site. Programs send no Origin.
func (a *Access) ownOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" && r.Header.Get("Sec-Fetch-Mode") != "navigate" {
		return false
	}
	origins := r.Header.Values("Origin")
	if len(origins) == 0 {
		return true
	}
	u, err := url.Parse(origins[0])
	if err != nil || len(origins) > 1 || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return false
	}
	if strings.EqualFold(u.Host, r.Host) {
		return true
	}
	// A reverse proxy may have replaced the Host header.
	host, port := splitHost(u.Host)
	return slices.ContainsFunc(a.conf.Hosts, func(allowed string) bool {
		name, only := splitHost(allowed)
		return name == host && only == port
	})
}

// forwarding are the headers that show that a proxy has passed on a request.
var forwarding = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Via", "Cf-Connecting-Ip"}

// isFromHere reports whether a request was made on this host. A reverse proxy on this host is another one's request: it is known by its headers,
// or by HTTP/1.0, which was nginx's default until 1.29.7 and is no client's.
func (a *Access) isFromHere(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local == nil || !isLoopback(local.String()) || !isLoopback(r.RemoteAddr) || !isLoopback(r.Host) || !r.ProtoAtLeast(1, 1) {
		return false
	}
	return !slices.ContainsFunc(forwarding, func(name string) bool { return r.Header.Values(name) != nil })
}

// clientOf returns the address that a request came from. What a proxy says is believed where that is on this host or in a private network; there,
// the proxy's address stands beside it.
func clientOf(r *http.Request) string {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	ip := remote.Addr().Unmap().WithZone("")
	if ip.IsLoopback() || ip.IsPrivate() {
		named := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		if last, err := netip.ParseAddr(strings.TrimSpace(named[len(named)-1])); err == nil {
			client := last.Unmap().WithZone("").String()
			if !ip.IsLoopback() {
				client += " through " + ip.String()
			}
			return client
		}
	}
	return ip.String()
}
