package redact_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/redact"
)

func TestRegisteredSecretsVanishInEveryForm(t *testing.T) {
	const password = `p@ss "w/ rd%?`
	r := redact.New("plain-api-key-42", (&url.URL{
		Scheme: "http", User: url.UserPassword("bob", password), Host: "proxy:8080",
	}).String())
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

func TestUnregisteredSecretsAreKnownByTheirForm(t *testing.T) {
	var r redact.Redactor
	for text, secret := range map[string]string{
		"Incorrect API key provided: sk-proj-abcDEF12345": "abcDEF12345",
		"Authorization: Bearer abc.def.ghijk":             "abc.def.ghijk",
		"Proxy-Authorization: Basic dXNlcjpwYXNz":         "dXNlcjpwYXNz",
		"dial postgres://app:hunter2@db:5432/x failed":    "hunter2",
		"socks5h://u:hunter2@10.0.0.1:1080":               "hunter2",
		"host=db password=hunter2 dbname=x":               "hunter2",
		"host=db password='hun ter2' dbname=x":            "hun ter2",
	} {
		assert.NotContains(t, r.String(text), secret)
	}
	assert.Equal(t, "task 7 of user@example.org done", r.String("task 7 of user@example.org done"))
}

func TestAPasswordOfOneLetterLeavesTextReadable(t *testing.T) {
	r := redact.New("http://u:a@proxy:1")
	assert.Equal(t, "a task failed at http://"+redact.Mask+"@proxy:1", r.String("a task failed at http://u:a@proxy:1"))
}

func TestErrorHidesTheTextAndKeepsTheChain(t *testing.T) {
	r := redact.New("topsecret")
	err := r.Error(fmt.Errorf("open topsecret: %w", fs.ErrNotExist))
	assert.EqualError(t, err, "open "+redact.Mask+": file does not exist")
	assert.ErrorIs(t, err, fs.ErrNotExist)
	assert.NoError(t, r.Error(nil))
}

func TestWriterMasksAndReportsFailure(t *testing.T) {
	var b bytes.Buffer
	n, err := fmt.Fprintf(redact.New("topsecret").Writer(&b), "x topsecret y\n")
	require.NoError(t, err)
	assert.Equal(t, 14, n)
	assert.Equal(t, "x "+redact.Mask+" y\n", b.String())

	_, err = redact.New().Writer(broken{}).Write([]byte("x"))
	assert.Error(t, err)
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestPromptIsTakenOutOfTheAnswer(t *testing.T) {
	const prompt = "a \"quoted\" <cat>\non a mat"
	quoted, err := json.Marshal(prompt)
	require.NoError(t, err)
	shown := redact.Prompt("refused: "+prompt+" and "+string(quoted), prompt)
	assert.Equal(t, `refused: [prompt] and "[prompt]"`, shown)
	assert.Equal(t, "unchanged", redact.Prompt("unchanged", "  "))
}

func FuzzAddedURLPasswordNeverShows(f *testing.F) {
	f.Add("http://user:secret@proxy:1")
	f.Add("socks5://u:p%40ss@h")
	f.Add("://:@")
	f.Add("http://[::1:x:longpassword@y")
	f.Fuzz(func(t *testing.T, raw string) {
		r := redact.New(raw)
		shown := r.String("proxy " + raw + " is down")
		u, err := url.Parse(raw)
		if err != nil || u.Host == "" {
			return
		}
		password, ok := u.User.Password()
		if !ok || len(password) < 8 {
			return
		}
		assert.NotContains(t, shown, password)
	})
}
