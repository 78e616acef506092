package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/appshapes"
)

// The steps of docs/adopting.md, with the description that stands there, print what stands there.
func TestAdopting_Runbook(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	withDaemon(w)
	w.env["IMAGE_BASE_URL"] = "https://app.example.com/pictures"
	shape := appshapes.Named("supabase")
	require.NoError(t, shape.Install(t.Context(), w.env["DATABASE_URL"]))
	require.NoError(t, shape.Seed(t.Context(), w.env["DATABASE_URL"], appshapes.Rows{Users: 4, History: 100, Pending: 3, Processing: 1, Balance: 10}))
	page := readDoc(t, "docs/adopting.md")
	documented := func(output string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			assert.Contains(t, output, part)
			assert.Contains(t, page, part)
		}
	}
	file := filepath.Join(w.dir, "imagetasks.toml")

	documented(w.run("task-processor", "adopt").is(3), "public.ai_images_creator_tasks: row-level security is on",
		"IMAGE_BASE_URL must make URLs that pass it", "the part [bridge] of imagetasks.toml is written (lines: ",
		" questions are open; answer them in the file, and remove them there:", "credits.cost: what does the application charge for a task?")
	unanswered := w.run("task-processor", "adopt", "--plan")
	unanswered.is(2)
	documented(unanswered.stderr, "questions: a question is open: credits.cost")
	require.NoError(t, os.WriteFile(file, []byte(blocks(page, "toml")[0]), 0o644))
	edited := w.run("task-processor", "adopt")
	edited.is(1)
	assert.Contains(t, edited.stderr, "was edited by hand")
	documented(strings.ReplaceAll(w.run("task-processor", "adopt", "--plan").ok(), "\n", "\n   "),
		"-- create the function app_live\n   -- The keys of all tasks", "where t.\"status\" in ('pending', 'processing')\n")
	w.run("task-processor", "pause", "--reason", "moving in").ok()
	documented(w.run("task-processor", "adopt", "--apply").ok(), "done: create the function app_key\n", "done: record the description\n",
		"done: create the triggers on public.ai_images_creator_tasks\n", "done: note the tasks that are waiting\n", "the bridge is in place (")
	documented(w.run("task-processor", "adopt", "--apply").ok(), "the bridge is in place (0 steps)\n")
	w.run("task-processor", "start").ok()
	w.waitFor("the rows are taken over", func() bool { return w.count("pending") == 3 && w.count("processing") == 1 })
	documented(w.run("task-processor", "adopt", "--check").ok(), "both sides agree\n")
	documented(w.run("task-processor", "resume").ok(), "claiming is resumed\n")
	const seen = `select count(*) from public.ai_images_creator_tasks t join public.ai_images_creator_history h on h.image_url = t.result_url
		where t.status = 'completed' and t.result_url like 'https://app.example.com/pictures/%'`
	w.waitFor("users see their pictures", func() bool { return w.number(seen) == 3 })
	documented(w.run("task-processor", "status").ok(), "changes of the application to read: 0, ends of tasks to write: 0, failing: 0\n", "All is well.\n")
	w.audit()

	w.run("task-processor", "pause", "--reason", "moving out").ok()
	documented(w.run("task-processor", "stop").ok(), "has stopped; the monitor will not start it\n")
	documented(w.run("task-processor", "adopt", "--check").ok(), "both sides agree\n")
	documented(w.run("task-processor", "adopt", "--remove").ok(), "done: drop the triggers on public.ai_images_creator_tasks\n",
		"done: hand waiting tasks back\n", "done: remove the description\n", "of these set back to waiting: 0")
	assert.Equal(t, 0, w.number(`select count(*) from pg_trigger where tgname like 'imagetasks%'`))
	assert.Equal(t, 1, w.number(`select count(*) from public.ai_images_creator_tasks where status = 'processing'`), "as the application left it")
	w.audit()
}
