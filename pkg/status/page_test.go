package status_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/status"
)

func TestPage_Files(t *testing.T) {
	mux := http.NewServeMux()
	status.AddPage(mux)
	get := func(path string, header ...string) *http.Response {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		if len(header) > 0 {
			r.Header.Set(header[0], header[1])
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w.Result()
	}
	for path, kind := range map[string]string{"/": "text/html; charset=utf-8", "/assets/app.js": "text/javascript; charset=utf-8",
		"/assets/app.css": "text/css; charset=utf-8", "/assets/icon-good.svg": "image/svg+xml", "/assets/vendor/uPlot.iife.min.js": "text/javascript; charset=utf-8"} {
		answer := get(path)
		assert.Equal(t, 200, answer.StatusCode, path)
		assert.Equal(t, kind, answer.Header.Get("Content-Type"), path)
		assert.Contains(t, answer.Header.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self'; style-src 'self'", path)
		assert.Equal(t, "nosniff", answer.Header.Get("X-Content-Type-Options"), path)
		tag := answer.Header.Get("ETag")
		assert.NotEmpty(t, tag, path)
		assert.Equal(t, "no-cache", answer.Header.Get("Cache-Control"), path)
		assert.Equal(t, http.StatusNotModified, get(path, "If-None-Match", tag).StatusCode, path)
	}
	for _, path := range []string{"/assets/", "/assets/vendor", "/assets/nothing.js", "/assets/vendor/LICENSE", "/index.html"} {
		assert.Equal(t, http.StatusNotFound, get(path).StatusCode, path)
	}
}

// pageSources returns the page's own files by name.
func pageSources(t *testing.T, pattern string) map[string]string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join("page", pattern))
	require.NoError(t, err)
	require.NotEmpty(t, found)
	out := map[string]string{}
	for _, name := range found {
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		out[name] = string(content)
	}
	return out
}

// The page loads its own files only, and never makes HTML of a text.
func TestPage_Sources(t *testing.T) {
	for name, content := range pageSources(t, "*.js") {
		assert.NotRegexp(t, `innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|javascript:`, content, name)
		assert.NotContains(t, content, "http://", name)
		assert.NotContains(t, content, "https://", name)
	}
	for name, content := range pageSources(t, "*.html") {
		assert.NotRegexp(t, `<style|style=|\son\w+=|https?://`, content, name)
		assert.NotRegexp(t, `<script(?: [^>]*)?>[^<]`, content, name)
	}
	for name, content := range pageSources(t, "*.css") {
		assert.NotRegexp(t, `url\(|@import`, content, name)
	}
}

// Each text has both languages and the same arguments in both, and each that is used is there.
func TestPage_Texts(t *testing.T) {
	sources := pageSources(t, "*.js")
	texts := map[string][2]string{}
	entry := regexp.MustCompile(`(?m)^  (\w+): \["((?:[^"\\]|\\.)*)",\s+"((?:[^"\\]|\\.)*)"\],?$`)
	for _, found := range entry.FindAllStringSubmatch(sources[filepath.Join("page", "text.js")], -1) {
		assert.Empty(t, texts[found[1]], "%s is there twice", found[1])
		texts[found[1]] = [2]string{found[2], found[3]}
	}
	require.Greater(t, len(texts), 100)
	assert.Equal(t, len(regexp.MustCompile(`(?m)^  \w+: \[`).FindAllString(sources[filepath.Join("page", "text.js")], -1)), len(texts), "the test reads all of them")
	argument := regexp.MustCompile(`\{\w+\}`)
	for key, text := range texts {
		assert.NotEmpty(t, text[0], key)
		assert.NotEmpty(t, text[1], key)
		assert.ElementsMatch(t, argument.FindAllString(text[0], -1), argument.FindAllString(text[1], -1), key)
		if key != "language" && key != "languageLabel" {
			assert.NotRegexp(t, `\p{Han}`, text[0], key)
			assert.NotRegexp(t, `\p{Han}[A-Za-z0-9]|[A-Za-z0-9]\p{Han}|\p{Han}[,;:?!]`, text[1], "%s: spaces and punctuation", key)
		}
	}
	used := map[string]bool{}
	for _, content := range sources {
		for _, found := range regexp.MustCompile(`\bt\("(\w+)"[,)]`).FindAllStringSubmatch(content, -1) {
			used[found[1]] = true
			assert.Contains(t, texts, found[1], "t(%q)", found[1])
		}
	}
	require.Greater(t, len(used), 80)
	// The others are found by a prefix and a value, or named in a list.
	for key := range texts {
		prefix, _, _ := strings.Cut(key, "_")
		composed := false
		for _, content := range sources {
			composed = composed || strings.Contains(content, `"`+prefix+`_"`) || regexp.MustCompile(`"`+key+`"`).MatchString(content)
		}
		assert.True(t, used[key] || composed || key == "pending" || key == "processing", "%s is not used", key)
	}
}

func TestPage_VendoredFiles(t *testing.T) {
	f, err := os.Open(filepath.Join("page", "vendor", "SHA256SUMS"))
	require.NoError(t, err)
	defer f.Close()
	recorded := map[string]string{"SHA256SUMS": ""}
	lines := bufio.NewScanner(f)
	require.True(t, lines.Scan())
	assert.Regexp(t, `^# uplot \d+\.\d+\.\d+$`, lines.Text())
	for lines.Scan() {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		require.True(t, ok, lines.Text())
		recorded[name] = sum
		content, err := os.ReadFile(filepath.Join("page", "vendor", name))
		require.NoError(t, err)
		actual := sha256.Sum256(content)
		assert.Equal(t, sum, hex.EncodeToString(actual[:]), name)
	}
	require.NoError(t, lines.Err())
	files, err := os.ReadDir(filepath.Join("page", "vendor"))
	require.NoError(t, err)
	for _, file := range files {
		assert.Contains(t, recorded, file.Name(), "it is not recorded")
	}
}
