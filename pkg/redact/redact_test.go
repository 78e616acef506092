package redact_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/redact"
)

func withURL(urls ...string) *redact.Redactor {
	r := redact.New()
	r.AddURL(urls...)
	return r
}

func TestString_EveryFormOfASecret(t *testing.T) {
	const password = `p@ss "w/ rd%?`
	r := redact.New("plain-api-key-42")
	r.AddURL((&url.URL{Scheme: "http", User: url.UserPassword("bob", password), Host: "proxy:8080"}).String())
	quoted, err := json.Marshal(password)
	require.NoError(t, err)
	for _, form := range []string{
		"plain-api-key-42",
		password,
		url.QueryEscape(password),
		url.PathEscape(password),
		string(quoted),
		base64.StdEncoding.EncodeToString([]byte("bob:" + password)),
		"http://" + url.UserPassword("bob", password).String() + "@proxy:8080",
	} {
		shown := r.String("before " + form + " after")
		assert.NotContains(t, shown, form)
		assert.Contains(t, shown, redact.Mask)
		assert.Contains(t, shown, "before ")
		assert.Contains(t, shown, " after")
	}
}

func TestString_SecretsByTheirForm(t *testing.T) {
	var r redact.Redactor
	for text, secret := range map[string]string{
		"Incorrect API key provided: sk-proj-abcDEF12345": "abcDEF12345",
		"Authorization: Bearer abc.def.ghijk":             "abc.def.ghijk",
		"Authorization: Bearer abcdefgh":                  "abcdefgh",
		"Proxy-Authorization: Basic dXNlcjpwYXNz":         "dXNlcjpwYXNz",
		"dial postgres://app:hunter2@db:5432/x failed":    "hunter2",
		"socks5h://u:hunter2@10.0.0.1:1080":               "hunter2",
		"host=db password=hunter2 dbname=x":               "hunter2",
		"host=db password='hun ter2' dbname=x":            "hun ter2",
	} {
		assert.NotContains(t, r.String(text), secret)
	}
	for _, text := range []string{"task 7 of user@example.org done", "the proxy asks for Basic authentication."} {
		assert.Equal(t, text, r.String(text))
	}
}

func TestString_ShortAndOrdinaryPasswordsInTheLoginOnly(t *testing.T) {
	assert.Equal(t, "a task failed at http://"+redact.Mask+"@proxy:1", withURL("http://u:a@proxy:1").String("a task failed at http://u:a@proxy:1"))
	assert.Equal(t, "a task failed at "+redact.Mask+"@proxy:1", withURL("u:a@proxy:1").String("a task failed at u:a@proxy:1"))
	r := withURL("postgres://postgres:password@localhost/x")
	assert.Equal(t, "set the password; postgres://"+redact.Mask+"@localhost/x", r.String("set the password; postgres://postgres:password@localhost/x"))
	assert.NotContains(t, r.String("Basic "+base64.StdEncoding.EncodeToString([]byte("postgres:password"))), "cG9zdGdyZXM")
	assert.Equal(t, "the pid is xs3crx, "+redact.Mask+".", withURL("http://u:s3cr@h").String("the pid is xs3crx, s3cr."))
	assert.Equal(t, "the key: Bearer "+redact.Mask, redact.New("key").String("the key: Bearer key"))
}

func TestString_URLWithoutALoginIsNoSecret(t *testing.T) {
	for _, set := range []string{"127.0.0.1", "http://127.0.0.1:80", "proxy.example:3128", "postgres://db.example:5432/shop", "host=db.example dbname=shop"} {
		text := "proxy http://127.0.0.1:80 is unreachable; proxy.example:3128; postgres://db.example:5432/shop; host=db.example dbname=shop"
		assert.Equal(t, text, withURL(set).String(text))
	}
}

func TestString_LoginsThatCannotBeParsed(t *testing.T) {
	for set, password := range map[string]string{
		"http://u:pa ss-w0rd@h:1":                     "pa ss-w0rd",
		"http://u:pa%zzss-w0rd@h:1":                   "pa%zzss-w0rd",
		"http://u:12#ss-w0rd@h":                       "12#ss-w0rd",
		"http://u:12/ss-w0rd@h":                       "12/ss-w0rd",
		"http://[::1:x:longpassword@y":                ":1:x:longpassword",
		"u:ss-w0rd@h:1":                               "ss-w0rd",
		"postgres://u:se@cret-w0rd@h/x":               "se@cret-w0rd",
		"host=h password=ss-w0rd":                     "ss-w0rd",
		`host=h password='it\'s a w0rd'`:              "it's a w0rd",
		"postgres://h/x?user=u&password=ss-w0rd":      "ss-w0rd",
		"http://u:one-w0rd@a:1,http://v:two-w0rd@b:2": "two-w0rd",
		"http://u:a,comma-w0rd@a:1":                   "a,comma-w0rd",
	} {
		r := withURL(set)
		assert.NotContains(t, r.String("it is "+password+"."), password, set)
		assert.NotContains(t, r.String("failed: "+set+" is not a URL"), password, set)
	}
}

// hints are texts of ours with examples and the words around them.
var hints = []string{
	"the database URL can't be used; it looks like postgres://user:password@host:5432/database (write special characters of the password as %XX)",
	"no database is set; set DATABASE_URL to postgres://user:password@host:5432/database",
	"not a URL; a proxy looks like http://user:password@host:port (write special characters of the password as %XX)",
	"names no host; a proxy looks like http://host:port",
	"the database does not respond; check DATABASE_URL, and that PostgreSQL is running",
	"PostgreSQL: postgres://user:password@host:5432/database",
	"proxy http://127.0.0.1:80 can't be reached: connection refused",
	"unknown kind of proxy; use http, https, socks5 or socks5h",
}

var word = regexp.MustCompile(`[A-Za-z0-9]+`)

func TestString_HintsSurviveEverySecret(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const letters = "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_.~!@#$%^&*()+=[]{}|;:,<>?/ '\""
	var passwords []string
	for range 500 {
		b := make([]byte, 1+random.IntN(20))
		for i := range b {
			b[i] = letters[random.IntN(len(letters))]
		}
		passwords = append(passwords, string(b))
	}
	// Pieces of our words, and words that people use as passwords.
	for _, hint := range hints {
		for _, w := range word.FindAllString(hint, -1) {
			if len(w) < 8 {
				passwords = append(passwords, w[:max(1, len(w)-1)])
			}
		}
	}
	passwords = append(passwords, "password", "postgres", "user", "host", "database", "proxy", "port", "special", "characters", "secret")
	for _, password := range passwords {
		u := url.URL{Scheme: "http", User: url.UserPassword("bob", password), Host: "gate:8080"}
		r := withURL(u.String())
		for _, hint := range hints {
			if !strings.Contains(hint, password) || len(password) < 8 {
				if shown := r.String(hint); shown != hint && !isWholeWord(hint, password) {
					assert.Equal(t, hint, shown, "password %q", password)
				}
			}
		}
		shown := r.String("dial " + u.String() + ": refused")
		assert.NotContains(t, shown, ":"+password+"@", "password %q", password)
		assert.NotContains(t, shown, u.User.String(), "password %q", password)
		if len(password) >= 8 && password != "password" && password != "postgres" && password != "database" && password != "characters" {
			assert.NotContains(t, r.String("it said: "+password), password)
		}
	}
}

// isWholeWord reports whether a password that is not an ordinary word happens to stand in a hint as a word.
func isWholeWord(hint, password string) bool {
	if slices.Contains(word.FindAllString(hint, -1), password) {
		return len(password) < 8 && password != "password" && password != "proxy" && password != "host" && password != "user" && password != "port"
	}
	return strings.Contains(hint, password) && !regexp.MustCompile(`^[A-Za-z0-9]+$`).MatchString(password)
}

func TestError_HidesTheTextAndKeepsTheChain(t *testing.T) {
	r := redact.New("topsecret")
	err := r.Error(fmt.Errorf("open topsecret: %w", fs.ErrNotExist))
	assert.EqualError(t, err, "open "+redact.Mask+": file does not exist")
	assert.ErrorIs(t, err, fs.ErrNotExist)
	assert.NoError(t, r.Error(nil))
}

func TestWriter_MasksAndReportsFailure(t *testing.T) {
	var b bytes.Buffer
	n, err := fmt.Fprintf(redact.New("topsecret").Writer(&b), "x topsecret y\n")
	require.NoError(t, err)
	assert.Equal(t, 14, n)
	assert.Equal(t, "x "+redact.Mask+" y\n", b.String())

	_, err = redact.New().Writer(failingWriter{}).Write([]byte("x"))
	assert.Error(t, err)
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestPrompt(t *testing.T) {
	const prompt = "a \"quoted\" <cat>\non a mat"
	quoted, err := json.Marshal(prompt)
	require.NoError(t, err)
	shown := redact.Prompt("refused: "+prompt+" and "+string(quoted)+" and a \"quoted\" <cat> on a mat", prompt)
	assert.Equal(t, `refused: [prompt] and "[prompt]" and [prompt]`, shown)
	assert.Equal(t, "unchanged", redact.Prompt("unchanged", "  "))
}

func TestPrompt_ShortOnesAsWholeWords(t *testing.T) {
	for _, c := range [][3]string{
		{"the prompt 'p' is too short: p", "p", "the prompt '[prompt]' is too short: [prompt]"},
		{"a cat concatenates", "cat", "a [prompt] concatenates"},
		{"the words \u201c\u732b\u201d are refused", "\u732b", "the words \u201c[prompt]\u201d are refused"},
		{"prompt [prompt] prompts", "prompt", "[prompt] [[prompt]] prompts"},
	} {
		assert.Equal(t, c[2], redact.Prompt(c[0], c[1]))
	}
}

func FuzzAddURL(f *testing.F) {
	f.Add("http://user:secret@proxy:1")
	f.Add("socks5://u:p%40ss@h")
	f.Add("://:@")
	f.Add("http://[::1:x:longpassword@y")
	f.Add("u:12345678@h")
	f.Fuzz(func(t *testing.T, raw string) {
		r := withURL(raw)
		shown := r.String("proxy " + raw + " is unreachable")
		u, err := url.Parse(raw)
		if err != nil || u.Host == "" {
			return
		}
		password, ok := u.User.Password()
		if !ok || len(password) < 8 || strings.Contains(redact.Mask, password) || strings.Contains("proxy  is unreachable", password) {
			return
		}
		assert.NotContains(t, shown, ":"+password+"@")
		for _, hint := range hints {
			if !strings.Contains(hint, password) && strings.Contains(hint, "user:password@host") {
				assert.Contains(t, r.String(hint), "user:password@host")
			}
		}
	})
}

// A text without the words of a pattern is not searched. Patterns that ignore case match "ſ" and the Kelvin sign, too.
func TestString_OtherLetters(t *testing.T) {
	for text, want := range map[string]string{
		"PASſWORD=hush":        "PASſWORD=[redacted]",
		"paſſwd = 'hush hush'": "paſſwd = [redacted]",
		"BAſIC dXNlcjpwYXNz":   "BAſIC [redacted]",
	} {
		assert.Equal(t, want, redact.New().String(text))
	}
}
