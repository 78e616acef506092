package status

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What docs/page-access.md shows can be used as it stands.
func TestDocs_PageAccess(t *testing.T) {
	content, err := os.ReadFile("../../docs/page-access.md")
	require.NoError(t, err)
	doc := string(content)
	scrape := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(doc)
	require.Len(t, scrape, 2)
	file := filepath.Join(t.TempDir(), "prometheus.yml")
	require.NoError(t, os.WriteFile(file, []byte(scrape[1]), 0o600))
	out, err := exec.Command("promtool", "check", "config", "--syntax-only", file).CombinedOutput()
	require.NoError(t, err, string(out))

	// A request as the example for nginx passes it on, and one as nginx does by default.
	s := newSite(t, AccessConfig{Token: testToken, Hosts: []string{"status.example.com"}})
	assert.Contains(t, doc, "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;")
	assert.Contains(t, doc, "proxy_set_header Host $http_host;")
	forwarded := []string{"Host: status.example.com", "X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https"}
	assert.Equal(t, http.StatusUnauthorized, s.code(t, "GET", "/status.json", forwarded...))
	assert.Equal(t, http.StatusOK, s.code(t, "GET", "/", forwarded...))
	answer := s.ask(t, "POST", "/api/session", `{"token":"`+testToken+`"}`, append(forwarded, "Content-Type: application/json", "Origin: https://status.example.com")...)
	require.Equal(t, http.StatusOK, answer.StatusCode)
	assert.True(t, answer.Cookies()[0].Secure)
	assert.Contains(t, s.log.String(), "203.0.113.7")
}
