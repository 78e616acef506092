package logging_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/logging"
	"imagetasks/pkg/redact"
)

func TestNew_StderrAndFileWithoutSecrets(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var stderr bytes.Buffer
		file := filepath.Join(t.TempDir(), "new", "x.log")
		r := redact.New("top\"secret")
		r.AddURL("http://u:pass%20word@h:1")
		log, closer, err := logging.New(logging.Config{Format: format, Stderr: &stderr, File: file, Redact: r})
		require.NoError(t, err)
		log.WithField("key", "top\"secret").Info("through http://u:pass%20word@h:1 with 'pass word'")
		log.Debug("unseen")
		require.NoError(t, closer.Close())
		kept, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Equal(t, stderr.String(), string(kept))
		assert.Equal(t, 1, strings.Count(string(kept), "\n"))
		assert.Contains(t, string(kept), "through http://")
		for _, secret := range []string{"secret", "pass word", "pass%20word"} {
			assert.NotContains(t, string(kept), secret, format)
		}
		if format == "json" {
			assert.True(t, json.Valid(kept), "%s", kept)
		}
		info, err := os.Stat(file)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
}

func TestNew_RotatesBySize(t *testing.T) {
	dir := t.TempDir()
	var stderr bytes.Buffer
	log, closer, err := logging.New(logging.Config{Stderr: &stderr, File: filepath.Join(dir, "x.log"),
		MaxMegabytes: 1, Redact: redact.New()})
	require.NoError(t, err)
	line := strings.Repeat("x ", 50<<10)
	for range 12 {
		log.Info(line)
	}
	require.NoError(t, closer.Close())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Greater(t, len(entries), 1)
	info, err := os.Stat(filepath.Join(dir, "x.log"))
	require.NoError(t, err)
	assert.Less(t, info.Size(), int64(1<<20))
}

func TestNew_ReportsAnUnwritableFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	_, _, err := logging.New(logging.Config{Stderr: &bytes.Buffer{}, File: filepath.Join(path, "x.log"), Redact: redact.New()})
	assert.ErrorContains(t, err, "log file")
	_, _, err = logging.New(logging.Config{Stderr: &bytes.Buffer{}, Level: "loud", Redact: redact.New()})
	assert.ErrorContains(t, err, "log level")
}
