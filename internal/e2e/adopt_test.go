package e2e_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/appshapes"
)

// withApplication installs an application with closed tasks only.
func withApplication(t *testing.T, name string) *fixture {
	t.Helper()
	w := newFixture(t)
	w.env["IMAGE_BASE_URL"] = "https://app.example.com/pictures"
	shape := appshapes.Named(name)
	require.NoError(t, shape.Install(t.Context(), w.env["DATABASE_URL"]))
	if len(shape.Fixed) > 0 {
		require.NoError(t, shape.Seed(t.Context(), w.env["DATABASE_URL"], appshapes.Rows{Users: 5, History: 60, Balance: 100}))
	}
	return w
}

// fakeCrontab makes the crontab of this user one with these lines.
func (w *fixture) fakeCrontab(lines string) {
	w.t.Helper()
	dir := w.t.TempDir()
	require.NoError(w.t, os.WriteFile(filepath.Join(dir, "crontab"), []byte("#!/bin/sh\ncat <<'END'\n"+lines+"\nEND\n"), 0o755))
	w.env["PATH"] = dir + ":" + w.env["PATH"]
}

// From the first look at an application's tables to a bridge and back.
func TestAdopt(t *testing.T) {
	w := withApplication(t, "profiles")
	w.fakeCrontab("*/5 * * * * cd /srv/app && node scripts/report.mjs")
	file := filepath.Join(w.dir, "imagetasks.toml")
	require.NoError(t, os.WriteFile(file, []byte("# mine\n[alerts]\nwhen = \"always\"\n"), 0o644))

	assert.Contains(t, w.run("task-processor", "adopt", "--plan").stderr+w.run("task-processor", "adopt", "--plan").stdout, "there is no part [bridge]")
	out := w.run("task-processor", "adopt").ok()
	assert.Contains(t, out, "the part [bridge] of imagetasks.toml is written")
	assert.Contains(t, out, "public.generations: 60 rows")
	assert.Contains(t, out, "task-processor adopt --plan")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Contains(t, string(text), "# mine\n[alerts]\nwhen = \"always\"\n\n[bridge]")
	assert.Contains(t, string(text), `tasks = "public.generations"  # the table of tasks, schema.table; certain; 60 rows`)
	assert.Contains(t, w.run("task-processor", "adopt", "--lang", "zh").ok(), "已写入 imagetasks.toml 的 [bridge] 部分", "again, as nothing was edited")

	base := w.env["IMAGE_BASE_URL"]
	w.env["IMAGE_BASE_URL"] = ""
	refused := w.run("task-processor", "adopt", "--apply")
	refused.is(2)
	assert.Contains(t, refused.stderr, "IMAGE_BASE_URL is not set, so the application's rows would get names of files instead of URLs")
	assert.Contains(t, w.run("task-processor", "adopt", "--plan").ok(), "-- IMAGE_BASE_URL is not set")
	w.env["IMAGE_BASE_URL"] = base
	plan := w.run("task-processor", "adopt", "--plan").ok()
	assert.NotContains(t, plan, "IMAGE_BASE_URL")
	assert.Contains(t, plan, "create or replace trigger imagetasks_update")
	assert.Contains(t, w.run("task-processor", "adopt", "--check").stderr, "this database has no bridge")
	out = w.run("task-processor", "adopt", "--apply").ok()
	assert.Contains(t, out, "done: ")
	assert.Contains(t, out, "the bridge is in place")
	assert.Contains(t, w.run("task-processor", "adopt", "--apply").ok(), "the bridge is in place (0 steps)")
	assert.Contains(t, w.run("task-processor", "adopt", "--plan").ok(), "nothing to do")
	assert.Contains(t, w.run("task-processor", "adopt", "--check").ok(), "both sides agree")
	var check struct {
		Healthy bool `json:"healthy"`
	}
	r := w.run("task-processor", "adopt", "--check", "--json")
	r.ok()
	r.json(&check)
	assert.True(t, check.Healthy)

	_, err = w.db.ExecContext(t.Context(), `insert into imagetasks.lost_updates (user_id, at, before, after, ours, note) values ('ann', now(), 10, 8, '[]', 'a note')`)
	require.NoError(t, err)
	r = w.run("task-processor", "adopt", "--check", "--acknowledge")
	assert.Equal(t, 3, r.code)
	assert.Contains(t, r.stdout, "lost_update  ann")
	w.run("task-processor", "adopt", "--check").ok()

	assert.Contains(t, w.run("task-processor", "adopt", "--remove").stderr, "the queue is not paused")
	w.run("task-processor", "pause").ok()
	assert.Contains(t, w.run("task-processor", "adopt", "--remove").ok(), "the bridge is removed")
	var triggers int
	require.NoError(t, w.db.QueryRowContext(t.Context(), "select count(*) from pg_trigger where tgname like 'imagetasks_%' and not tgisinternal").Scan(&triggers))
	assert.Zero(t, triggers)
}

// What is wrong in the file is said with its line, before anything is done.
func TestAdopt_EditedFile(t *testing.T) {
	w := withApplication(t, "profiles")
	file := filepath.Join(w.dir, "imagetasks.toml")
	w.run("task-processor", "adopt")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	edit := func(more string) {
		require.NoError(t, os.WriteFile(file, append(text[:len(text):len(text)], more...), 0o644))
	}

	edit("Nonsense = \"{user}\"\n")
	r := w.run("task-processor", "adopt", "--plan")
	r.is(2)
	assert.Regexp(t, `imagetasks\.toml:\d+: log\.columns\.Nonsense: public\.credit_transactions has no column Nonsense`, r.stderr)
	var document struct {
		File     string `json:"file"`
		Problems []struct {
			Line    int    `json:"line"`
			Key     string `json:"key"`
			Problem string `json:"problem"`
			Fix     string `json:"fix"`
		} `json:"problems"`
	}
	r = w.run("task-processor", "adopt", "--apply", "--json")
	r.is(2)
	r.json(&document)
	require.Len(t, document.Problems, 1)
	assert.Equal(t, "log.columns.Nonsense", document.Problems[0].Key)
	assert.Positive(t, document.Problems[0].Line)

	r = w.run("task-processor", "adopt")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.stderr, "was edited by hand and stays as it is")
	w.run("task-processor", "adopt", "--force")
	again, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(text), string(again))

	edit("[bridge.statuss]\n")
	r = w.run("task-processor", "adopt", "--plan")
	r.is(2)
	assert.Contains(t, r.stderr, "[bridge] has no key statuss; did you mean status?")
}

func TestAdopt_Questions(t *testing.T) {
	w := withApplication(t, "lots")
	var document struct {
		Written   bool           `json:"written"`
		Bridge    map[string]any `json:"bridge"`
		Questions []string       `json:"questions"`
		Old       struct {
			Lines []struct {
				Line int    `json:"line"`
				Text string `json:"text"`
			} `json:"crontab_lines"`
		} `json:"old_scripts"`
	}
	w.fakeCrontab("# tasks\n*/5 * * * * cd /srv/app && TOKEN=secret node scripts/monitor-tasks.mjs >> logs/monitor.log 2>&1")
	r := w.run("task-processor", "adopt", "--json")
	r.is(3)
	r.json(&document)
	assert.True(t, document.Written)
	assert.Len(t, document.Questions, 1)
	assert.Equal(t, "public.picture_orders", document.Bridge["tasks"])
	require.Len(t, document.Old.Lines, 1)
	assert.Equal(t, 2, document.Old.Lines[0].Line)
	assert.Equal(t, "monitor-tasks.mjs", document.Old.Lines[0].Text)
	r = w.run("task-processor", "adopt", "--apply")
	r.is(2)
	assert.Contains(t, r.stderr, "a question is open")

	out := w.run("task-processor", "adopt", "--lang", "zh").is(3)
	assert.Contains(t, out, "cron 会启动旧脚本：crontab 第 2 行：monitor-tasks.mjs")
}

// Old scripts and a bridge would work the same rows.
func TestAdopt_OldScripts(t *testing.T) {
	w := withApplication(t, "profiles")
	w.fakeCrontab("*/5 * * * * cd /srv/app && node scripts/monitor-tasks.mjs")
	w.run("task-processor", "adopt").is(3)
	out := w.run("task-processor", "adopt", "--apply").is(3)
	assert.Contains(t, out, "an old script is started by cron: crontab, line 1: monitor-tasks.mjs")
	assert.Contains(t, out, "the bridge is not put in place")
	assert.Contains(t, w.run("task-processor", "adopt", "--check").stderr, "this database has no bridge")
	out = w.run("task-processor", "adopt", "--apply", "--force").is(3)
	assert.Contains(t, out, "the bridge is in place")
}

func TestAdopt_WithoutTasks(t *testing.T) {
	w := withApplication(t, "shop")
	w.fakeCrontab("")
	out := w.run("task-processor", "adopt").is(3)
	assert.Contains(t, out, "no file is written")
	assert.Contains(t, out, "no table of this database looks like one of image tasks")
	assert.NotContains(t, out, "in the file", "there is none")
	assert.NoFileExists(t, filepath.Join(w.dir, "imagetasks.toml"))
	r := w.run("task-processor", "adopt", "--tasks", "orders")
	r.is(2)
	assert.Contains(t, r.stderr, "must have the form schema.table")
	w.run("task-processor", "adopt", "--plan", "--apply").is(2)
}

func TestDatabaseURL_OfSupabase(t *testing.T) {
	w := newFixture(t)
	env := filepath.Join(w.dir, "app.env")
	require.NoError(t, os.WriteFile(env, []byte("NEXT_PUBLIC_SUPABASE_URL=https://abcdef.supabase.co\n"), 0o600))
	delete(w.env, "DATABASE_URL")
	for _, program := range []string{"task-processor", "monitor-tasks", "fix-stuck-tasks"} {
		r := w.run(program, "--env-file", env)
		assert.Contains(t, r.stdout+r.stderr, "https://supabase.com/dashboard/project/abcdef, click Connect, choose Session pooler", program)
	}
}
