package status

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// sessionTime is how long somebody stays signed in.
const sessionTime = 12 * time.Hour

// maxSessions bounds the sessions; the oldest ends for another one.
const maxSessions = 100

// session is that of a browser that has signed in. It is kept in memory only: nothing that could be stolen is in a file, and to sign out ends it.
// A restart signs out everybody.
type session struct {
	csrf    string
	token   [32]byte // the digest of the token that it was begun with
	began   time.Time
	expires time.Time
}

// sessions are found by the digest of their ids.
type sessions struct {
	mu  sync.Mutex
	all map[[32]byte]*session
}

func newSessions() *sessions { return &sessions{all: map[[32]byte]*session{}} }

func randomText() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // it never returns an error
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// begin returns the id of a new session.
func (s *sessions) begin(token [32]byte, now time.Time) (id string, begun *session) {
	id, begun = randomText(), &session{csrf: randomText(), token: token, began: now, expires: now.Add(sessionTime)}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.all) >= maxSessions {
		var oldest [32]byte
		for key, other := range s.all {
			if first := s.all[oldest]; first == nil || other.began.Before(first.began) {
				oldest = key
			}
		}
		delete(s.all, oldest)
	}
	s.all[sha256.Sum256([]byte(id))] = begun
	return id, begun
}

// find returns the session of an id, nil where there is none.
func (s *sessions) find(id string, now time.Time) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := sha256.Sum256([]byte(id))
	found := s.all[key]
	if found != nil && now.After(found.expires) {
		delete(s.all, key)
		return nil
	}
	return found
}

func (s *sessions) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, sha256.Sum256([]byte(id)))
}

func (s *sessions) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.all)
}

// identity is who sent a request.
type identity struct {
	session   *session // of its cookie; nil: none
	sessionID string
	bearer    bool        // it named the token
	token     [32]byte    // the digest of that
	reads     func() bool // reports whether it may read
	client    string      // the address that it came from
}

func (i identity) signedIn() bool { return i.session != nil || i.bearer }

// who returns the identity as the audit log shows it.
func (i identity) who() string {
	if i.bearer {
		return "page: token, from " + i.client
	}
	return "page: signed in, from " + i.client
}

type identityKey struct{}

func withIdentity(ctx context.Context, i identity) context.Context {
	return context.WithValue(ctx, identityKey{}, i)
}

// mayRead reports whether the request of a handler may get more than the answer to whether the program works. Without Access.Handler there are
// no requests of others.
func mayRead(ctx context.Context) bool {
	i, checked := ctx.Value(identityKey{}).(identity)
	return !checked || i.reads()
}

// identityOf returns who sent the request of a handler behind Access.Handler.
func identityOf(ctx context.Context) identity {
	i, _ := ctx.Value(identityKey{}).(identity)
	return i
}

// identify reads cookie and Authorization header. A token that is wrong is a refusal.
func (a *Access) identify(r *http.Request) (identity, *refusal) {
	who := identity{client: clientOf(r)}
	if header := r.Header.Get("Authorization"); header != "" && levelOf(r) != levelOpen {
		// Another scheme is that of a reverse proxy.
		if scheme, given, _ := strings.Cut(header, " "); strings.EqualFold(scheme, "Bearer") {
			given = strings.TrimSpace(given)
			why := a.checkToken(who.client, given)
			who.bearer, who.token = why == nil, a.digest(given)
			return who, why
		}
	}
	if c, err := r.Cookie(a.cookie); err == nil {
		who.session, who.sessionID = a.findSession(c.Value), c.Value
	}
	return who, nil
}

// findSession returns the session of an id, nil where there is none. One that began while the token was being replaced is none.
func (a *Access) findSession(id string) *session {
	found, token := a.sessions.find(id, a.now()), a.token.Load()
	if found == nil || token == nil || found.token != *token {
		return nil
	}
	return found
}

// checkToken returns why a token is refused.
func (a *Access) checkToken(client, given string) *refusal {
	switch {
	case a.token.Load() == nil:
		return &refusal{http.StatusForbidden, "no_token", textNoToken}
	case !a.guard.may(client, a.now()):
		return &refusal{http.StatusTooManyRequests, "too_many_tries", textTooManyTries}
	case !a.isToken(given):
		if a.guard.failed(client, a.now()) {
			a.conf.Log.WithField("client", client).Warn("status page: a wrong token was given")
		}
		return &refusal{http.StatusUnauthorized, "wrong_token", textWrongToken}
	}
	a.guard.succeeded(client, a.now())
	return nil
}

// maxSignIn bounds the body of a request to sign in.
const maxSignIn = 4 << 10

// sessionState is the document at /api/session.
type sessionState struct {
	TokenSet bool   `json:"token_set"`
	SignedIn bool   `json:"signed_in"`
	CSRF     string `json:"csrf"`
	Pictures bool   `json:"pictures"` // small copies of pictures are shown to those who have signed in
}

func (a *Access) state(s *session) sessionState {
	state := sessionState{TokenSet: a.token.Load() != nil, SignedIn: s != nil, Pictures: a.conf.Pictures}
	if s != nil {
		state.CSRF = s.csrf
	}
	return state
}

// withSessions serves the pages that sign in and out, and passes on all other requests.
func (a *Access) withSessions(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", next)
	mux.HandleFunc("GET /api/session", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, a.state(identityOf(r.Context()).session))
	})
	mux.HandleFunc("POST /api/session", a.signIn)
	mux.HandleFunc("DELETE /api/session", func(w http.ResponseWriter, r *http.Request) {
		if c, err := r.Cookie(a.cookie); err == nil {
			a.sessions.end(c.Value)
		}
		http.SetCookie(w, a.newCookie(r, "", -1))
		writeJSON(w, http.StatusOK, a.state(nil))
	})
	return mux
}

func (a *Access) signIn(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Token string `json:"token"`
	}
	if why := readJSON(w, r, maxSignIn, &body); why != nil {
		refuse(w, r, *why)
		return
	}
	client := identityOf(r.Context()).client
	if why := a.checkToken(client, body.Token); why != nil {
		refuse(w, r, *why)
		return
	}
	if c, err := r.Cookie(a.cookie); err == nil {
		a.sessions.end(c.Value) // never the id of a session from before
	}
	id, begun := a.sessions.begin(a.digest(body.Token), a.now())
	http.SetCookie(w, a.newCookie(r, id, int(sessionTime/time.Second)))
	a.conf.Log.WithField("client", client).Info("status page: signed in")
	writeJSON(w, http.StatusOK, a.state(begun))
}

func (a *Access) newCookie(r *http.Request, value string, maxAge int) *http.Cookie {
	return &http.Cookie{Name: a.cookie, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")}
}

// bodyTimeout bounds the time that a body may take.
const bodyTimeout = 10 * time.Second

// readJSON reads a body of JSON. Only a request with this content type is preceded by a browser's question whether it is allowed.
func readJSON(w http.ResponseWriter, r *http.Request, most int64, into any) *refusal {
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), "application/json") {
		return &refusal{http.StatusUnsupportedMediaType, "not_json", textNotJSON}
	}
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil {
		return &refusal{http.StatusInternalServerError, "internal", textInternal}
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, most+1))
	if err == nil && int64(len(body)) > most {
		err = errors.New("too long")
	}
	if err != nil { // the deadline stays: before it answers, the server reads what is left
		return &refusal{http.StatusBadRequest, "not_json", textNotJSON}
	}
	_ = control.SetReadDeadline(time.Time{})
	if json.Unmarshal(body, into) != nil {
		return &refusal{http.StatusBadRequest, "not_json", textNotJSON}
	}
	return nil
}
