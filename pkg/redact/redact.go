// Package redact hides secrets. Text that leaves the program (logs, errors, pages, columns) passes through a Redactor first.
package redact

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
	"unicode"

	"imagetasks/pkg/pattern"
)

// Mask is written in place of a secret.
const Mask = "[redacted]"

// Redactor replaces the secrets that were added, in each form in which they may appear (plain, URL-escaped, JSON-escaped, in a
// Basic login), and what has the form of a secret. Our own words survive it: examples of URLs in hints stay as they are, and a
// secret that is an ordinary word is hidden only where a login or a key stands. The zero value knows forms only. It is safe
// for concurrent use.
type Redactor struct {
	mu      sync.RWMutex
	secrets []secret
	byFirst [256][]secret // by their first byte, the longest first
}

// secret is a text to replace.
type secret struct {
	text string
	with string
	// word: it is replaced only where it is not part of a longer word, because it is short.
	word bool
}

const (
	// shortest is the length below which a secret is replaced only in the position of a login or a key: a password of
	// "a" would leave no text readable.
	shortest = 4
	// longWord is the length from which a secret is replaced inside of words, too.
	longWord = 8
)

// ordinary are words that our texts use, and that people use as passwords and keys of local services.
var ordinary = wordSet(`access account admin answer api apikey authentication bearer basic card change changeme character characters
	check cloud connection container credit credits data database default demo empty error failed file free guest hello host http https
	image images imagetasks key letmein limit local localhost login master model monitor name nobody none null openai option options
	pass passwd password pgbouncer picture pictures pool port postgres postgresql postgrest processor prompt proxy public queue read
	redacted refused request root running schema secret server setting settings silent simple socks socks5 socks5h special start status
	stop supabase table task tasks test timeout token true unknown unreachable url user username value welcome word worker write`)

func wordSet(text string) map[string]bool {
	words := map[string]bool{}
	for w := range strings.FieldsSeq(text) {
		words[w] = true
	}
	return words
}

// form is what a secret, or an example, looks like.
type form struct {
	pattern pattern.Pattern
	// words are texts one of which is in all that matches, in lower case: a text without them need not be searched, which takes much longer.
	words []string
}

// in reports whether a text may match. lower is the text in lower case.
func (f form) in(lower string) bool {
	for _, w := range f.words {
		if strings.Contains(lower, w) {
			return true
		}
	}
	return false
}

// lower returns a text in lower case, in which the words of forms are found as patterns find them: "ſ" counts as an s.
func lower(s string) string {
	return strings.ReplaceAll(strings.ToLower(s), "ſ", "s")
}

// example matches the URLs that hints show. They hold no secret, whatever the real login is.
var example = form{pattern.New(`[a-z0-9]+://user:password@host(:port|:5432/database|:5432)?`), []string{"://user:password@host"}}

// patterns find secrets that nobody added: keys of the API's format, logins in URLs, passwords in PostgreSQL's key=value
// strings and in environment assignments.
var patterns = []struct {
	form
	with string
}{
	{form{pattern.New(`\bsk-[A-Za-z0-9_-]{8,}[A-Za-z0-9*_-]*`), []string{"sk-"}}, Mask},
	{form{pattern.New(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@"'<>]*@`), []string{"://"}}, "${1}" + Mask + "@"},
	{form{pattern.New(`(?i)\b(password|passwd)(\s*=\s*)('[^']*'|[^\s'"&]+)`), []string{"password", "passwd"}}, "$1$2" + Mask},
}

var (
	authorization = form{pattern.New(`(?i)(authorization:\s*)?\b(bearer|basic)(\s+)([A-Za-z0-9+/=._~-]{6,})`), []string{"bearer", "basic"}}
	plainWord     = pattern.New(`^[a-z]+[.]?$`)
	keyPassword   = pattern.New(`(?i)\b(?:ssl)?password\s*=\s*('(?:[^'\\]|\\.)*'|[^\s']+)`)
)

// New returns a Redactor that hides secrets; see Add.
func New(secrets ...string) *Redactor {
	r := &Redactor{}
	r.Add(secrets...)
	return r
}

// Add adds texts that are secret as a whole, such as keys. Empty ones are ignored.
func (r *Redactor) Add(secrets ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range secrets {
		r.addText(s)
		if weak(s) && s != "" {
			r.addForm("Bearer "+s, "Bearer "+Mask, true)
		}
	}
	r.index()
}

// AddURL adds the logins of URLs and lists of URLs, whether they can be parsed or not, of host:port with a login and without a scheme, and of
// PostgreSQL's key=value strings. Nothing else of them is secret.
func (r *Redactor) AddURL(urls ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range urls {
		r.addURL(s)
		for _, one := range strings.FieldsFunc(s, func(c rune) bool { return c == ',' || unicode.IsSpace(c) }) {
			if one != s && strings.Contains(one, "://") {
				r.addURL(one)
			}
		}
	}
	r.index()
}

func (r *Redactor) addURL(s string) {
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		scheme, rest = "http", s
		for _, match := range keyPassword().FindAllStringSubmatch(s, -1) {
			r.addText(strings.ReplaceAll(strings.Trim(match[1], "'"), `\`, ""))
			r.addText(strings.Trim(match[1], "'"))
		}
	}
	// Up to the last @ all may be login: a password with an unescaped / or # is parsed as something else.
	ends := []int{strings.LastIndex(rest, "@")}
	if authority := strings.IndexAny(rest, "/?#"); authority >= 0 {
		ends = append(ends, strings.LastIndex(rest[:authority], "@"))
	}
	for _, end := range ends {
		if end >= 0 {
			user, password, _ := strings.Cut(rest[:end], ":")
			r.addLogin(user, password)
		}
	}
	if u, err := url.Parse(scheme + "://" + rest); err == nil {
		r.addText(u.Query().Get("password"))
		r.addText(u.Query().Get("sslpassword"))
	}
}

// addLogin adds a password, and the login where it stands in a URL or in a Basic header.
func (r *Redactor) addLogin(user, password string) {
	if password == "" {
		return
	}
	plainUser, plain := unescape(user), unescape(password)
	r.addText(password)
	r.addText(plain)
	r.addForm(user+":"+password+"@", Mask+"@", true)
	r.addForm(plainUser+":"+plain+"@", Mask+"@", true)
	r.addForm(url.UserPassword(plainUser, plain).String()+"@", Mask+"@", true)
	r.addForm(base64.StdEncoding.EncodeToString([]byte(plainUser+":"+plain)), Mask, false)
}

func unescape(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		return plain
	}
	return s
}

// weak reports whether a secret would damage ordinary text if it was replaced wherever it occurs.
func weak(s string) bool { return len(s) < shortest || ordinary[strings.ToLower(s)] }

// addText adds a secret in each of its forms.
func (r *Redactor) addText(s string) {
	if weak(s) {
		return
	}
	forms := []string{s, url.QueryEscape(s), url.PathEscape(s), strings.TrimPrefix(url.UserPassword("", s).String(), ":")}
	if quoted, err := json.Marshal(s); err == nil {
		forms = append(forms, string(quoted[1:len(quoted)-1]))
	}
	for _, form := range forms {
		r.addForm(form, Mask, len(s) < longWord)
	}
}

func (r *Redactor) addForm(text, with string, word bool) {
	r.secrets = append(r.secrets, secret{text, with, word})
}

// index prepares the search. The longest come first, so that a secret that contains another is hidden whole.
func (r *Redactor) index() {
	slices.SortStableFunc(r.secrets, func(a, b secret) int {
		if n := len(b.text) - len(a.text); n != 0 {
			return n
		}
		return strings.Compare(a.text, b.text)
	})
	r.secrets = slices.Compact(r.secrets)
	r.byFirst = [256][]secret{}
	for _, s := range r.secrets {
		r.byFirst[s.text[0]] = append(r.byFirst[s.text[0]], s)
	}
}

// String returns s with every secret masked.
func (r *Redactor) String(s string) string {
	if !example.in(s) {
		return r.mask(s)
	}
	var b strings.Builder
	from := 0
	for _, at := range example.pattern().FindAllStringIndex(s, -1) {
		b.WriteString(r.mask(s[from:at[0]]))
		b.WriteString(s[at[0]:at[1]])
		from = at[1]
	}
	b.WriteString(r.mask(s[from:]))
	return b.String()
}

func (r *Redactor) mask(s string) string {
	if r != nil {
		s = r.replace(s)
	}
	all := lower(s)
	if authorization.in(all) {
		s = authorization.pattern().ReplaceAllStringFunc(s, func(found string) string {
			m := authorization.pattern().FindStringSubmatch(found)
			if m[1] == "" && plainWord().MatchString(m[4]) {
				return found // "Basic authentication"
			}
			return m[1] + m[2] + m[3] + Mask
		})
	}
	for _, p := range patterns {
		if p.in(all) { // what was masked before adds none of the words
			s = p.pattern().ReplaceAllString(s, p.with)
		}
	}
	return s
}

func (r *Redactor) replace(s string) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.secrets) == 0 {
		return s
	}
	var b strings.Builder
next:
	for i := 0; i < len(s); {
		for _, secret := range r.byFirst[s[i]] {
			if strings.HasPrefix(s[i:], secret.text) && (!secret.word || isWord(s, i, i+len(secret.text))) {
				b.WriteString(secret.with)
				i += len(secret.text)
				continue next
			}
		}
		b.WriteByte(s[i])
		i++
	}
	return b.String()
}

// isWord reports whether s[from:to] is not a part of a longer word of ASCII letters and digits.
func isWord(s string, from, to int) bool {
	escaped := from >= 3 && s[from-3] == '%' && isHex(s[from-2]) && isHex(s[from-1]) // as in %20word
	before := from == 0 || !isAlphanumeric(s[from-1]) || !isAlphanumeric(s[from]) || escaped
	after := to == len(s) || !isAlphanumeric(s[to]) || !isAlphanumeric(s[to-1])
	return before && after
}

func isAlphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// Error returns err with a text that holds no secret; errors.Is and errors.As see through it. It returns nil for nil.
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

// Writer returns a writer that masks secrets in what it writes to w. Each Write must hold whole lines, as a logger's do: a
// secret that is split between two is not found.
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

// URL returns a URL without its login: the user name goes too, because it is often half of the secret.
func URL(u *url.URL) string {
	if u == nil {
		return ""
	}
	shown := *u
	shown.User = nil
	return shown.String()
}
