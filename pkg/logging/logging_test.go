package logging_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

func TestNew_UnknownLevel(t *testing.T) {
	_, _, err := logging.New(logging.Config{Stderr: &bytes.Buffer{}, Level: "loud", Redact: redact.New()})
	assert.ErrorContains(t, err, "log level")
}

// A file that can't be written is reported once, and used again when it can be.
func TestNew_UnwritableFile(t *testing.T) {
	obstacle := filepath.Join(t.TempDir(), "obstacle")
	for name, quiet := range map[string]bool{"stderr": false, "only to the file": true} {
		require.NoError(t, os.WriteFile(obstacle, nil, 0o600))
		var out bytes.Buffer
		conf := logging.Config{File: filepath.Join(obstacle, "x.log"), Fallback: &out, Redact: redact.New("hunter2hunter2")}
		if !quiet {
			conf.Stderr, conf.Fallback = &out, nil
		}
		log, closer, err := logging.New(conf)
		require.NoError(t, err, name)
		for range 3 {
			log.Info("an entry with hunter2hunter2")
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		require.Len(t, lines, 4, "%s: %s", name, out.String())
		assert.Contains(t, lines[0], "warning: the log file")
		assert.Contains(t, lines[0], "not a directory")
		assert.Equal(t, 3, strings.Count(out.String(), "an entry with"))
		assert.NotContains(t, out.String(), "hunter2")

		require.NoError(t, os.Remove(obstacle))
		log.Info("it works again")
		require.NoError(t, closer.Close())
		kept, err := os.ReadFile(conf.File)
		require.NoError(t, err)
		assert.Contains(t, string(kept), "3 entries are missing here")
		assert.Contains(t, string(kept), "it works again")
		assert.Equal(t, 2, strings.Count(string(kept), "\n"))
		if quiet {
			assert.NotContains(t, out.String(), "it works again")
		}
		require.NoError(t, os.RemoveAll(obstacle))
	}
}

// No field is empty, and in JSON a duration is a number of seconds.
func TestNew_Fields(t *testing.T) {
	for format, want := range map[string]string{
		"text": `level=info msg=done count=0 took=1.5s user=u` + "\n",
		"json": `{"count":0,"level":"info","msg":"done",`,
	} {
		var stderr bytes.Buffer
		log, _, err := logging.New(logging.Config{Format: format, Stderr: &stderr, Redact: redact.New()})
		require.NoError(t, err)
		fields := map[string]any{"user": "u", "request_id": "", "nothing": nil, "count": 0, "took": 1500 * time.Millisecond}
		log.WithFields(fields).Info("done")
		assert.Contains(t, stderr.String(), want)
		assert.Len(t, fields, 5, "the fields of the caller stay as they are")
		if format == "json" {
			var line map[string]any
			require.NoError(t, json.Unmarshal(stderr.Bytes(), &line))
			assert.Equal(t, 1.5, line["took"])
			assert.NotContains(t, line, "request_id")
			assert.NotContains(t, line, "nothing")
		}
	}
}
