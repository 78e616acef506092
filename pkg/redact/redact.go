// Package redact is the one place that hides secrets. Whatever leaves the program as text (logs,
// errors, pages, columns) passes through a Redactor first.
package redact

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Mask stands where a secret stood.
const Mask = "[redacted]"

// shortest is the length below which a registered secret isn't replaced wherever it occurs: a
// password of "a" would leave no text readable, and says nothing when it is seen.
const shortest = 4

// patterns find secrets that nobody registered: keys of the API's format, bearer tokens, logins
// in URLs, passwords in PostgreSQL's key=value strings and in environment assignments.
var patterns = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\bsk-[A-Za-z0-9_-]{8,}[A-Za-z0-9*_-]*`), Mask},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{6,}`), "$1 " + Mask},
	{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@"'<>]*@`), "${1}" + Mask + "@"},
	{regexp.MustCompile(`(?i)\b(password|passwd)(\s*=\s*)('[^']*'|[^\s'"&]+)`), "$1$2" + Mask},
}

// Redactor replaces the secrets it was told of, in each form they may take on the way (plain,
// URL-escaped, JSON-escaped, in a Basic login), and what looks like a secret by its form.
// The zero value knows the forms only. It is safe for concurrent use.
type Redactor struct {
	mu       sync.RWMutex
	forms    []string
	replacer *strings.Replacer
}

// New returns a Redactor for the secrets given; empty ones are left out.
func New(secrets ...string) *Redactor {
	r := &Redactor{}
	r.Add(secrets...)
	return r
}

// Add registers secrets. Of one that is a URL, the password is registered too, by itself and in the
// form of a Basic login.
func (r *Redactor) Add(secrets ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range secrets {
		if strings.Contains(s, "://") {
			r.addURL(s)
			continue
		}
		r.addForms(s)
	}
	// Longest first, so that a secret that contains another is hidden whole.
	slices.SortFunc(r.forms, func(a, b string) int { return len(b) - len(a) })
	r.forms = slices.Compact(r.forms)
	pairs := make([]string, 0, 2*len(r.forms))
	for _, f := range r.forms {
		pairs = append(pairs, f, Mask)
	}
	r.replacer = strings.NewReplacer(pairs...)
}

func (r *Redactor) addURL(s string) {
	u, err := url.Parse(s)
	if err != nil {
		// What can't be parsed can't be told apart: between the scheme and the last @ all is secret.
		_, rest, _ := strings.Cut(s, "://")
		if at := strings.LastIndex(rest, "@"); at >= 0 {
			_, password, _ := strings.Cut(rest[:at], ":")
			r.addForms(password)
		}
		return
	}
	if password, ok := u.User.Password(); ok {
		r.addForms(password)
		login := u.User.Username() + ":" + password
		if len(password) > 0 {
			r.forms = append(r.forms, base64.StdEncoding.EncodeToString([]byte(login)))
		}
	}
}

func (r *Redactor) addForms(s string) {
	if len(s) < shortest {
		return
	}
	r.forms = append(r.forms, s, url.QueryEscape(s), url.PathEscape(s),
		strings.TrimPrefix(url.UserPassword("", s).String(), ":"))
	if quoted, err := json.Marshal(s); err == nil {
		r.forms = append(r.forms, string(quoted[1:len(quoted)-1]))
	}
}

// String returns s with every secret masked.
func (r *Redactor) String(s string) string {
	if r != nil {
		r.mu.RLock()
		replacer := r.replacer
		r.mu.RUnlock()
		if replacer != nil {
			s = replacer.Replace(s)
		}
	}
	for _, p := range patterns {
		s = p.re.ReplaceAllString(s, p.with)
	}
	return s
}

// Error returns err with a text that holds no secret; errors.Is and errors.As see through it.
// It returns nil for nil.
func (r *Redactor) Error(err error) error {
	if err == nil {
		return nil
	}
	return &redacted{err: err, text: r.String(err.Error())}
}

type redacted struct {
	err  error
	text string
}

func (e *redacted) Error() string { return e.text }
func (e *redacted) Unwrap() error { return e.err }

// Writer returns a writer that masks secrets in what it passes on to w. Each Write must hold
// whole lines, as a logger's do: a secret that is cut in two is not seen.
func (r *Redactor) Writer(w io.Writer) io.Writer { return &writer{r: r, w: w} }

type writer struct {
	r *Redactor
	w io.Writer
}

func (w *writer) Write(p []byte) (int, error) {
	if _, err := io.WriteString(w.w, w.r.String(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Prompt returns s without the prompt, whole or JSON-escaped: an API that refuses a prompt likes
// to quote it, and what a user asked for is nobody else's to read.
func Prompt(s, prompt string) string {
	if strings.TrimSpace(prompt) == "" {
		return s
	}
	for _, form := range promptForms(prompt) {
		s = strings.ReplaceAll(s, form, "[prompt]")
	}
	return s
}

func promptForms(prompt string) []string {
	forms := []string{prompt}
	for _, escapeHTML := range []bool{true, false} {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(escapeHTML)
		if enc.Encode(prompt) == nil {
			forms = append(forms, strings.Trim(strings.TrimSpace(b.String()), `"`))
		}
	}
	if trimmed := strings.TrimSpace(prompt); trimmed != prompt {
		forms = append(forms, trimmed)
	}
	return forms
}

// URL returns a URL as it may be shown: without its password, and without its user as well,
// because a user name is often half of a login.
func URL(u *url.URL) string {
	if u == nil {
		return ""
	}
	shown := *u
	if shown.User != nil {
		shown.User = nil
	}
	return shown.String()
}
