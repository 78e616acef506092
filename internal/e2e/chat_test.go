package e2e_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/realproxy"
	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
)

// newChatFixture returns a fixture whose API is the chat endpoint of a relay, behind tinyproxy.
func newChatFixture(t *testing.T, stream bool) *fixture {
	t.Helper()
	w := newFixture(t, func(c *simapi.Config, _ *simproxy.Config) { c.TLS = nil })
	w.env["OPENAI_PROXY"] = realproxy.Tinyproxy(t, realproxy.Config{User: "wei", Password: "rightlogin"})
	w.env["OPENAI_API_MODE"], w.env["OPENAI_MODEL"], w.env["IMAGE_DOWNLOAD_HTTP"] = "chat", "gpt-4o-image-vip", "on"
	if !stream {
		w.env["OPENAI_STREAM"] = "off"
	}
	return w
}

// The relay of the original application, streamed and not, with an input picture: every task has its picture and one paid request, and the row says
// how far the relay is.
func TestChat_RelayThroughProxy(t *testing.T) {
	t.Parallel()
	const tasks = 20
	input := simapi.Draw("the input")
	for _, streamed := range []bool{true, false} {
		t.Run(fmt.Sprintf("streamed %t", streamed), func(t *testing.T) {
			t.Parallel()
			w := newChatFixture(t, streamed)
			w.grant(tasks)
			prompts := make([]string, tasks)
			for i := range prompts {
				prompts[i] = fmt.Sprintf("a lantern by river number %d", i)
			}
			w.prompts = prompts
			_, err := w.db.Exec(`select * from imagetasks.enqueue_many($1, (select jsonb_agg(jsonb_build_object('prompt', p, 'cost', 1,
				'options', '{"aspect_ratio": "3:4"}'::jsonb, 'inputs', jsonb_build_array(jsonb_build_object('base64', $3::text)))) from unnest(string_to_array($2, '|')) p))`,
				w.user, strings.Join(prompts, "|"), base64.StdEncoding.EncodeToString(input))
			require.NoError(t, err)
			if !streamed {
				w.run("task-processor", "run", "--once").ok()
			} else {
				release := w.api.HoldChats()
				p := w.start("task-processor", "run", "--once")
				w.waitFor("the progress of a relay in the row", func() bool {
					return w.number(`select count(*) from imagetasks.tasks where status = 'processing' and current_stage = 'generating' and progress_percentage between 25 and 59`) > 0
				})
				release()
				p.result().ok()
			}
			assert.Equal(t, tasks, w.count("completed"))
			assert.Len(t, w.pictures(), tasks)
			assert.Equal(t, tasks, w.api.Paid())
			assert.Equal(t, tasks, w.number(`select count(*) from imagetasks.tasks where requests_sent = 1 and request_id <> ''`))
			made := map[string]bool{}
			for _, path := range w.pictures() {
				content, err := os.ReadFile(path)
				require.NoError(t, err)
				made[string(content)] = true
			}
			for _, c := range w.api.Calls() {
				assert.Equal(t, []any{"/v1/chat/completions", "gpt-4o-image-vip", fmt.Sprint(streamed), input},
					[]any{c.Path, c.Model, c.Options["stream"], c.Input})
				assert.Contains(t, c.Text, "Aspect ratio: 3:4 (portrait)")
				assert.True(t, made[string(simapi.Draw(c.Prompt))], "the picture of %s", c.Prompt)
			}
			w.audit()
		})
	}
}

// A chat that ends early may be paid for: its ids are on the task, and the operator sees them. simple-test tests this mode.
func TestChat_EndsEarly(t *testing.T) {
	t.Parallel()
	w := newChatFixture(t, true)
	w.env["RETRY_UNKNOWN"] = "0"
	details := map[string]string{}
	for _, s := range w.diagnose(0, "--image").Steps {
		details[s.Step] = s.Detail
	}
	assert.Contains(t, details["endpoint"], "the chat endpoint")
	assert.NotEmpty(t, details["image"])
	require.Len(t, w.api.Calls(), 1)
	assert.Equal(t, []any{"/v1/chat/completions", 1}, []any{w.api.Calls()[0].Path, w.api.Incomplete()})

	w.grant(2)
	id := w.enqueue("[early] a lantern by a river")[0]
	refused := w.enqueue("[refusal] a lantern by another river")[0]
	p := w.start("task-processor", "run")
	w.waitFor("both tasks", func() bool { return w.count("failed") == 2 })
	p.stop(syscall.SIGTERM).ok()
	shown := w.run("task-processor", "tasks", "show", id).ok()
	assert.Contains(t, shown, "outcome_unknown")
	assert.Regexp(t, `id chatcmpl-\d+, task task_\d+`, shown)
	shown = w.run("task-processor", "tasks", "show", refused).ok()
	assert.Contains(t, shown, "moderation_blocked")
	assert.Equal(t, 3, w.api.Paid())
	assert.Equal(t, 2, w.credits(), "both are refunded")
	w.audit()
}
