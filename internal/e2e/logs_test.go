package e2e_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// documentedFields returns the names in the tables of docs/logs.md.
func documentedFields(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs/logs.md"))
	require.NoError(t, err)
	fields := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, found := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(cells[1], -1) {
				fields[found[1]] = true
			}
		}
	}
	return fields
}

// A processor works tasks that complete, are retried, released, failed and cancelled, and pictures that are downloaded and uploaded later: each line about one of
// them has the fields of docs/logs.md, none is empty, and no other name is used.
func TestLogs_FieldsOfEachLine(t *testing.T) {
	t.Parallel()
	var gets atomic.Int64
	h := startPictureHost(t, func(w http.ResponseWriter, r *http.Request) {
		if gets.Add(1) <= 3 { // the tries of the first claim
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		delivers(w, r)
	})
	w := newFixture(t, withPictureURLs(h))
	w.secrets = append(w.secrets, pictureSecret)
	s := inBucket(t, w)
	w.env["IMAGE_DOWNLOAD_HTTP"] = "on"
	w.env["LOG_FORMAT"], w.env["MAX_ATTEMPTS"], w.env["TASK_LEASE"], w.env["TASK_CONCURRENCY"] = "json", "2", "2s", "8"
	w.grant(20)
	hanging := w.enqueue("[hang] a lantern by the water")[0]
	for _, prompt := range []string{"a lantern by the water", "[500 once] a lantern by the water", "[500] a lantern by the water", "[moderation] a lantern by the water",
		"[429 once] a lantern by the water", "[cut once] a lantern by the water", "[url] a lantern by the water"} {
		w.enqueue(prompt)
	}
	p := w.start("task-processor", "run")
	w.waitFor("the hanging request", func() bool {
		return w.number(`select count(*) from imagetasks.tasks where task_id = $1 and requests_sent = 1 and status = 'processing'`, hanging) == 1
	})
	w.run("task-processor", "cancel", "--task", hanging).ok()
	w.waitFor("the ends of the tasks", func() bool { return w.count("completed") == 5 && w.count("failed") == 2 && w.count("cancelled") == 1 })
	w.waitFor("the lost lease", func() bool { return strings.Contains(p.stderr.String(), "the lease was lost") })
	s.Kill()
	w.enqueue("another lantern by the water")
	w.waitFor("an upload that fails", func() bool { return strings.Contains(p.stderr.String(), "not yet uploaded") })
	s.Restart()
	w.waitFor("the upload", func() bool { return w.count("completed") == 6 })
	r := p.stop(syscall.SIGTERM)
	r.ok()

	documented, seen := documentedFields(t), map[string]int{}
	for line := range strings.Lines(r.stderr) {
		if !strings.HasPrefix(line, "{") {
			continue // a warning before the settings were read
		}
		var fields map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &fields), line)
		for name, value := range fields {
			assert.True(t, documented[name], "%s is not documented: %s", name, line)
			assert.NotEqual(t, "", value, "%s is empty: %s", name, line)
		}
		if fields["task"] == nil {
			assert.NotContains(t, fields, "epoch", line)
			continue
		}
		for _, name := range []string{"user", "attempt", "epoch", "endpoint"} {
			assert.NotEmpty(t, fields[name], "%s is missing: %s", name, line)
		}
		message := fields["msg"].(string)
		for _, kind := range []string{"claimed", "completed", "retrying", "released", "failed", "the lease was lost", "waited in the spool was uploaded"} {
			if strings.Contains(message, kind) {
				seen[kind]++
			}
		}
		answered := message == "completed" || fields["code"] == "moderation_blocked" || fields["code"] == "api_server_error" || fields["code"] == "picture_download_failed" ||
			fields["code"] == "picture_store"
		if answered {
			assert.NotEmpty(t, fields["request_id"], line)
		}
	}
	for _, kind := range []string{"claimed", "completed", "retrying", "released", "failed", "the lease was lost", "waited in the spool was uploaded"} {
		assert.Positive(t, seen[kind], kind)
	}
	assert.Equal(t, 6, seen["completed"])
}
