package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/imageapi"
)

// The CLI makes an idempotency key for each invocation and prints it; with it, a repeat changes nothing and prints the same.
func TestKeys_OfTheCommands(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	grant := w.run("task-processor", "credits", "grant", "--user", w.user, "--credits", "5")
	grant.ok()
	require.Contains(t, grant.stderr, "idempotency key: ")
	var granted struct {
		Credits int
		Key     string `json:"idempotency_key"`
	}
	w.run("task-processor", "credits", "grant", "--user", w.user, "--credits", "5", "--key", "order 7", "--json").json(&granted)
	assert.Equal(t, 10, granted.Credits)
	assert.Equal(t, "order 7", granted.Key)
	again := w.run("task-processor", "credits", "grant", "--user", w.user, "--credits", "5", "--key", "order 7")
	assert.Contains(t, again.ok(), "the balance is 10")
	assert.Contains(t, w.run("task-processor", "credits", "grant", "--user", w.user, "--credits", "6", "--key", "order 7").fails(1), "used before with other arguments")

	enqueue := []string{"enqueue", "--user", w.user, "--prompt", "a dot", "--count", "2", "--key", "form 1"}
	first := w.run("task-processor", enqueue...).ok()
	assert.Equal(t, first, w.run("task-processor", enqueue...).ok())
	assert.Equal(t, 8, w.credits())
	assert.Equal(t, 2, w.count("pending"))
	w.audit()
}

func TestEnqueue_ChecksOptions(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(5)
	picture := filepath.Join(w.dir, "in.png")
	require.NoError(t, os.WriteFile(picture, simapi.Draw("in"), 0o600))
	for want, args := range map[string][]string{
		"quality":  {"--model", "gpt-image-1", "--quality", "ultra"},
		"qualitty": {"--options", `{"qualitty": "high"}`},
		// The message shows the forms that are read.
		"must be a ratio such as 16:9, 1.91:1 or 16x9, one of square": {"--aspect-ratio", "wide"},
		`option aspect_ratio is "0:1"`:                                {"--aspect-ratio", "0:1"},
		`option aspect_ratio is "16-9"`:                               {"--options", `{"aspect_ratio": "16-9"}`},
		`option aspect_ratio is "16,9"`:                               {"--aspect-ratio", "16,9"},
		"aspect_ratio must be a string":                               {"--options", `{"aspect_ratio": 1.91}`},
		"contradict each other":                                       {"--model", "gpt-image-2", "--aspect-ratio", "16:9", "--size", "1024x1024"},
		`aspect_ratio is "1920x1080"`:                                 {"--model", "gpt-image-2", "--aspect-ratio", "1920x1080"},
		`there is no option "n"`:                                      {"--options", `{"n": 4}`},
		`option extra has the name "n"`:                               {"--options", `{"extra": {"n": 4}}`},
		`has the name "stream"`:                                       {"--options", `{"extra": {"stream": true}}`},
		`has the name "partial_images"`:                               {"--options", `{"extra": {"partial_images": 3}}`},
		"but gpt-image-2 has no such opt":                             {"--model", "gpt-image-2", "--options", `{"complexity": "low"}`},
		"must be a JSON object":                                       {"--options", `[1]`},
		"given twice":                                                 {"--size", "auto", "--options", `{"size": "auto"}`},
		"--mask needs --image":                                        {"--mask", picture},
		"--run-at":                                                    {"--run-at", "tomorrow"},
		"--priority":                                                  {"--priority", "10"},
		"is not a PNG":                                                {"--image", "/etc/hosts"},
		"--max-attempts must be":                                      {"--max-attempts", "0"},
	} {
		r := w.run("task-processor", append([]string{"enqueue", "--user", w.user, "--prompt", "x"}, args...)...)
		r.is(2)
		assert.Contains(t, r.stderr, want)
	}
	assert.Equal(t, 5, w.credits())
	assert.Zero(t, w.number(`select count(*) from imagetasks.tasks`))
	ids := w.enqueue("edit", "--model", "gpt-image-1", "--image", picture, "--image", picture, "--mask", picture, "--quality", "low",
		"--options", `{"background": "opaque"}`, "--max-attempts", "2")
	// What the CLI can't know, the processor refuses before anything is paid.
	_, err := w.db.Exec(`select imagetasks.enqueue($1, 'x', '{"brightness": "high"}')`, w.user)
	require.NoError(t, err)
	w.run("task-processor", "run", "--once").ok()
	require.Len(t, w.api.Calls(), 1)
	call := w.api.Calls()[0]
	assert.Len(t, call.Inputs, 2)
	assert.NotNil(t, call.Mask)
	assert.Equal(t, "low", call.Options["quality"])
	assert.Equal(t, 1, w.number(`select count(*) from imagetasks.tasks where task_id = $1 and status = 'completed' and max_attempts = 2`, ids[0]))
	assert.Equal(t, 1, w.number(`select count(*) from imagetasks.tasks where error_code = 'bad_options' and error_message like '%brightness%' and credits_refunded = 1`))
	w.audit()
}

// Each way to write a ratio becomes the size that the model has for it.
func TestEnqueue_AspectRatios(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(10)
	want := map[string]string{}
	for ratio, size := range map[string]string{
		"16:9": "1536x864", "9x16": "864x1536", "16：9": "1536x864", " Landscape": "1536x1024", "1536 × 864": "1536x864",
	} {
		w.enqueue("a ratio: "+ratio, "--model", "gpt-image-2", "--aspect-ratio", ratio)
		want["a ratio: "+ratio] = size
	}
	noted := w.enqueue("three sizes", "--model", "gpt-image-1", "--aspect-ratio", "16:9")[0]
	want["three sizes"] = "1536x1024"
	// A row that another program has changed is checked by the processor, too, and refunded.
	row := w.enqueue("a row")[0]
	_, err := w.db.Exec(`update imagetasks.tasks set options = '{"aspect_ratio": "wide"}' where task_id = $1`, row)
	require.NoError(t, err)
	w.run("task-processor", "run", "--once").ok()
	got := map[string]string{}
	for _, call := range w.api.Calls() {
		got[call.Prompt] = call.Size
	}
	assert.Equal(t, want, got)
	const note = "aspect_ratio 16:9: gpt-image-1 has no such size; 1536x1024 was used"
	assert.Contains(t, w.run("task-processor", "tasks", "show", noted).ok(), note)
	assert.Equal(t, 1, w.number(`select count(*) from imagetasks.tasks where attempts::text like '%"note"%'`))
	assert.Equal(t, 1, w.number(`select count(*) from imagetasks.tasks where task_id = $1 and error_code = 'bad_options' and requests_sent = 0
		and credits_refunded = 1 and error_message like '%16:9, 1.91:1 or 16x9%'`, row))
	w.audit()
}

// The database accepts no aspect ratio that the processor does not read, and refuses none of the documented forms.
func TestEnqueue_DatabaseReadsRatiosLikeTheProcessor(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(100)
	for _, ratio := range []string{
		"16:9", "16x9", "16X9", "16×9", "16*9", "16/9", "16：9", " 16 : 9 ", "16\t:\n9", "1.91:1", "99999.9999:0.0001", "1536x1024", "Landscape", "PORTRAIT", "square", "auto",
		"", "  ", "00001:1", "0.5:0.25",
		"wide", "16", "16:", ":9", "16:9:4", "16-9", "16,9", "0:1", "1:0", "0.0000:1", "-16:9", "1e9:1", "NaN:1", "100000:1", "1.23456:1", "1.:1", ".5:1", "16：：9", "1,91:1",
		"１６:９", "16∶9", "16:9p", "16:9\n\nx", "a16:9", "1٣:9", "infinity", "　16:9", "16\u00a0:9", "ſquare", "16\v:9", "16:9\x1f",
	} {
		raw, err := json.Marshal(map[string]string{"aspect_ratio": ratio})
		require.NoError(t, err)
		options, readErr := imageapi.ParseOptions(raw)
		if readErr == nil {
			readErr = options.Check("gpt-image-2", 0, false)
		}
		_, err = w.db.Exec(`select imagetasks.enqueue($1, 'x', $2, cost => 1)`, w.user, string(raw))
		switch {
		case err == nil:
			assert.NoError(t, readErr, "%q is accepted by the database only", ratio)
		case readErr == nil:
			assert.ErrorContains(t, err, "aspect_ratio")
			assert.Contains(t, "　16:9 16\u00a0:9", ratio, "%q is accepted by the processor only", ratio)
		default:
			assert.ErrorContains(t, err, "aspect_ratio")
		}
	}
}

func TestTasks_ListAndShow(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(5)
	good, bad := w.enqueue("fine", "--quality", "low")[0], w.enqueue("[moderation]")[0]
	w.run("task-processor", "run", "--once").ok()
	waiting := w.enqueue("later", "--run-at", "2h")[0]

	list := w.run("task-processor", "tasks", "list").ok()
	for _, id := range []string{good, bad, waiting} {
		assert.Contains(t, list, id)
	}
	failed := w.run("task-processor", "tasks", "list", "--state", "failed", "--user", w.user, "--newer-than", "1h").ok()
	assert.Contains(t, failed, bad)
	assert.Contains(t, failed, "moderation_blocked")
	assert.NotContains(t, failed, good)
	assert.Contains(t, w.run("task-processor", "tasks", "list", "--older-than", "1h").ok(), "no task matches")
	w.run("task-processor", "tasks", "list", "--state", "lost").is(2)

	shown := w.run("task-processor", "tasks", "show", good).ok()
	for _, part := range []string{good, w.user, "completed", `"quality": "low"`, "charge", good + "-1-", w.api.URL(), "completed  "} {
		assert.Contains(t, shown, part)
	}
	assert.NotContains(t, shown, "fine")
	assert.Contains(t, w.run("task-processor", "tasks", "show", "--prompt", good).ok(), "fine")
	shown = w.run("task-processor", "tasks", "show", bad).ok()
	for _, part := range []string{"failed", "moderation_blocked", "charge", "refund", "req_"} {
		assert.Contains(t, shown, part)
	}
	assert.Contains(t, w.run("task-processor", "tasks", "show", "--lang", "zh", waiting).ok(), "等待")
	var details struct {
		Attempts []struct{ Outcome, Code, Endpoint string }
		Results  []struct {
			Run                      int
			Outcome, Endpoint, Model string
			Seconds                  float64
		}
		Ledger []struct{ Kind string }
		Files  []string
		Prompt *string
	}
	w.run("task-processor", "tasks", "show", "--json", good).json(&details)
	require.Len(t, details.Results, 1)
	assert.Equal(t, "completed", details.Results[0].Outcome)
	assert.Equal(t, w.api.URL(), details.Results[0].Endpoint)
	assert.NotEmpty(t, details.Results[0].Model)
	assert.Positive(t, details.Results[0].Seconds)
	w.run("task-processor", "tasks", "show", "--json", bad).json(&details)
	require.Len(t, details.Attempts, 1)
	assert.Equal(t, "failed", details.Attempts[0].Outcome)
	assert.Equal(t, w.api.URL(), details.Attempts[0].Endpoint)
	assert.Len(t, details.Ledger, 2)
	assert.Nil(t, details.Prompt)
	assert.Contains(t, w.run("task-processor", "tasks", "show", "nothing").fails(1), "not found")
	w.run("task-processor", "tasks", "show").is(2)
}

func TestCredits_Report(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.env["TZ"] = "Asia/Shanghai"
	w.grant(5)
	w.enqueue("fine", "--count", "2", "--cost", "2")
	w.enqueue("[moderation]")
	w.run("task-processor", "run", "--once").ok()
	type sums struct {
		Pictures int
		Charged  int `json:"credits_charged"`
		Refunded int `json:"credits_refunded"`
		Income   int `json:"credits_income"`
		Refunds  int
	}
	want := sums{Pictures: 2, Charged: 5, Refunded: 1, Income: 4, Refunds: 1}
	var report struct {
		Zone   string `json:"time_zone"`
		Groups []struct {
			Key string
			sums
		}
		Total sums
	}
	shanghai, err := time.LoadLocation("Asia/Shanghai")
	require.NoError(t, err)
	for by, key := range map[string]string{"user": w.user, "day": time.Now().In(shanghai).Format(time.DateOnly)} {
		report.Groups = nil
		w.run("task-processor", "credits", "report", "--by", by, "--json").json(&report)
		require.Len(t, report.Groups, 1)
		assert.Equal(t, key, report.Groups[0].Key)
		assert.Equal(t, want, report.Groups[0].sums)
		assert.Equal(t, want, report.Total)
		assert.Equal(t, "Asia/Shanghai", report.Zone)
	}
	text := w.run("task-processor", "credits", "report", "--by", "endpoint").ok()
	assert.Regexp(t, `(?m)^total +2 +0 +\d+ +5 +1 +4 +1 +0$`, text)
	assert.Contains(t, text, w.api.URL())
	assert.Contains(t, w.run("task-processor", "credits", "report", "--lang", "zh").ok(), "合计")
	empty := w.run("task-processor", "credits", "report", "--from", "2020-01-01", "--to", "2020-01-31", "--time-zone", "UTC").ok()
	assert.Regexp(t, `(?m)^total( +0){8}$`, empty)
	for _, wrong := range [][]string{{"--by", "month"}, {"--from", "yesterday"}, {"--from", "2026-02-02", "--to", "2026-02-01"}, {"--time-zone", "Here"}, {"--limit", "0"}} {
		w.run("task-processor", append([]string{"credits", "report"}, wrong...)...).is(2)
	}
}

func TestRedrive_Command(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(3)
	ids := []string{w.enqueue("[moderation]")[0], w.enqueue("[moderation]")[0]}
	w.run("task-processor", "run", "--once").ok()
	assert.Contains(t, w.run("task-processor", "redrive", "--error-code", "moderation_blocked", "--dry-run").ok(), "would begin run 2")
	assert.Equal(t, 2, w.count("failed"))
	assert.Contains(t, w.run("task-processor", "redrive", "--task", ids[0], "--run", "1").ok(), "begins run 2")
	assert.Contains(t, w.run("task-processor", "redrive", "--task", ids[0], "--run", "1").ok(), "begins run 2", "a repeat says the same")
	assert.Equal(t, 2, w.credits())
	r := w.run("task-processor", "redrive", "--task", ids[0])
	assert.Contains(t, r.is(3), "is pending; only failed tasks can be redriven")
	assert.Contains(t, w.run("task-processor", "redrive", "--error-code", "moderation_blocked").ok(), ids[1])
	w.run("task-processor", "run", "--once").ok()
	assert.Equal(t, 3, w.credits())
	assert.Equal(t, 4, w.number(`select count(*) from imagetasks.ledger where kind = 'charge'`))
	assert.Equal(t, 4, w.number(`select count(*) from imagetasks.ledger where kind = 'refund'`))
	w.run("task-processor", "redrive").is(2)
	w.audit()
}

func TestPause_AllProcessors(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(2)
	assert.Contains(t, w.run("task-processor", "pause", "--reason", "maintenance of the relay").ok(), "claiming is paused since")
	w.enqueue("wait")
	r := w.run("task-processor", "run", "--once")
	r.is(3)
	assert.Contains(t, r.stderr, "claiming is paused")
	assert.Empty(t, w.api.Calls())
	status := w.run("task-processor", "status").is(3)
	assert.Contains(t, status, "claiming was paused by")
	assert.Contains(t, status, "maintenance of the relay")
	assert.Regexp(t, `next: \S*task-processor resume\n`, status)
	assert.Contains(t, w.run("task-processor", "resume").ok(), "claiming is resumed")
	w.run("task-processor", "run", "--once").ok()
	assert.Equal(t, 1, w.count("completed"))
}

func TestUsers_Forget(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(4)
	w.enqueue("a secret wish", "--count", "2")
	w.run("task-processor", "run", "--once").ok()
	require.Len(t, w.pictures(), 2)
	w.enqueue("another wish of mine")
	var done struct{ Tasks, Pictures int }
	w.run("task-processor", "users", "forget", "--user", w.user, "--json").json(&done)
	assert.Equal(t, 3, done.Tasks)
	assert.Equal(t, 2, done.Pictures)
	assert.Empty(t, w.pictures())
	assert.Zero(t, w.number(`select count(*) from imagetasks.tasks where prompt <> '' or options <> '{}' or image_url is not null`))
	assert.Equal(t, 2, w.credits(), "the task that was pending is refunded")
	assert.Positive(t, w.number(`select count(*) from imagetasks.ledger`))
	assert.Contains(t, w.run("task-processor", "users", "forget", "--user", w.user).ok(), "0 tasks cancelled")
	w.run("task-processor", "users", "forget").is(2)
	w.audit()
}

// An owed refund is repaired; a task that says it was charged is never called refunded, and a person settles it.
func TestAudit_RepairAndResolve(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(10)
	owed, unpaid, other := w.enqueue("owed")[0], w.enqueue("unpaid")[0], w.enqueue("other")[0]
	_, err := w.db.Exec(`update imagetasks.tasks set status = 'failed', completed_at = now() where task_id = $1`, owed)
	require.NoError(t, err)
	// The charge is missing, as after a restore of one table.
	_, err = w.db.Exec(`alter table imagetasks.ledger disable trigger append_only; delete from imagetasks.ledger where kind = 'charge' and task_id in (` +
		pq.QuoteLiteral(unpaid) + `, ` + pq.QuoteLiteral(other) + `); alter table imagetasks.ledger enable trigger append_only`)
	require.NoError(t, err)
	report := w.run("fix-stuck-tasks", "audit").is(3)
	assert.Contains(t, report, owed)
	assert.Contains(t, report, unpaid)

	// Wherever the task is met, it is named, and the exit code is 3.
	r := w.run("task-processor", "cancel", "--task", other)
	assert.Contains(t, r.is(3), "nothing can be refunded: the task says it was charged, and the ledger has no charge")
	_, err = w.db.Exec(`update imagetasks.tasks set status = 'processing', processing_started_at = now() - interval '1 hour' where task_id = $1`, unpaid)
	require.NoError(t, err)
	fixed := w.run("fix-stuck-tasks").is(3)
	assert.Contains(t, fixed, unpaid+": nothing can be refunded")
	assert.Contains(t, fixed, "0 credits refunded")
	assert.NotContains(t, w.file("fix-stuck-tasks.log"), "failed and refunded")
	assert.Contains(t, w.run("task-processor", "tasks", "show", unpaid).is(3), "the ledger has no charge")
	w.run("task-processor", "tasks", "list").is(3)

	repaired := w.run("fix-stuck-tasks", "audit", "--repair").is(3)
	assert.Contains(t, repaired, "repaired: task "+owed)
	assert.Contains(t, w.run("fix-stuck-tasks", "audit", "--repair").is(3), "no refund is owed")
	w.run("fix-stuck-tasks", "audit", "--resolve", unpaid).is(2)
	w.run("fix-stuck-tasks", "audit", "--resolve", unpaid, "--credits", "1").is(2)
	w.run("fix-stuck-tasks", "audit", "--resolve", owed, "--credits", "1", "--reason", "x").fails(1)
	resolved := w.run("fix-stuck-tasks", "audit", "--resolve", unpaid, "--credits", "1", "--reason", "paid by card, order 7")
	assert.Contains(t, resolved.is(3), "resolved: task "+unpaid)
	w.run("fix-stuck-tasks", "audit", "--resolve", other, "--credits", "0", "--reason", "never paid").is(3)
	assert.Equal(t, 2, w.number(`select count(*) from imagetasks.ledger where kind = 'adjust'`))
	// The balance is still the one that the missing charges changed: that is for a person, too.
	rest := w.run("fix-stuck-tasks", "audit").is(3)
	assert.Contains(t, rest, "✓ every charged run that failed or was cancelled is refunded")
	assert.Contains(t, rest, "✓ every task that says it was charged has a charge")
}

// The monitor names tasks without a charge, and deletes closed tasks after RETENTION.
func TestMonitor_MissingChargeAndRetention(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(3)
	done := w.enqueue("done")[0]
	w.run("task-processor", "run", "--once").ok()
	_, err := w.db.Exec(`insert into imagetasks.tasks (task_id, user_id, prompt, status, credits_cost, credits_deducted, processing_started_at)
		values ('no charge', $1, 'x', 'processing', 1, 1, now() - interval '1 hour')`, w.user)
	require.NoError(t, err)
	r := w.run("monitor-tasks")
	assert.Contains(t, r.is(3), "the ledger has no charge")
	assert.Contains(t, r.stdout, "no charge")
	w.run("monitor-tasks").is(3)
	assert.Contains(t, w.run("task-processor", "status").is(3), "no charge", "until it is settled")
	w.run("fix-stuck-tasks", "audit", "--resolve", "no charge", "--credits", "0", "--reason", "never paid").ok()
	_, err = w.db.Exec(`update imagetasks.tasks set completed_at = now() - interval '91 days' where task_id = $1`, done)
	require.NoError(t, err)
	w.run("monitor-tasks").ok()
	assert.Equal(t, 2, w.number(`select count(*) from imagetasks.tasks`), "RETENTION is off")
	w.env["RETENTION"] = "90d"
	w.run("monitor-tasks").ok()
	assert.Equal(t, 1, w.number(`select count(*) from imagetasks.tasks`))
	assert.Len(t, w.pictures(), 1, "pictures stay")
	assert.Equal(t, 3, w.number(`select count(*) from imagetasks.ledger`))
}

// role creates a role for the test, and returns the DATABASE_URL for it.
func (w *fixture) role(name string) string {
	w.t.Helper()
	_, err := w.db.Exec("create role " + name + " login")
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		_, err := w.db.Exec("drop owned by " + name + "; drop role " + name)
		assert.NoError(w.t, err)
	})
	u, err := url.Parse(w.env["DATABASE_URL"])
	require.NoError(w.t, err)
	u.User = url.UserPassword(name, databasePassword)
	return u.String()
}

// Everything that the four programs do, as the worker role.
func TestPrograms_AsWorkerRole(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	worker := w.role("e2e_worker")
	assert.Contains(t, w.run("task-processor", "migrate", "--worker-role", "e2e_worker").ok(), "the worker role e2e_worker may run the four programs")
	w.env["DATABASE_URL"] = worker
	w.env["USER_CONCURRENCY"], w.env["USER_MAX_WAITING"], w.env["RETENTION"] = "2", "100", "30d"
	w.run("monitor-tasks").ok()
	w.grant(20)
	picture := filepath.Join(w.dir, "in.png")
	require.NoError(t, os.WriteFile(picture, simapi.Draw("in"), 0o600))
	w.enqueue("a dot", "--count", "5", "--image", picture)
	w.enqueue("[500 once]")
	failing := w.enqueue("[moderation]")[0]
	cancelled := w.enqueue("no")[0]
	w.run("task-processor", "cancel", "--task", cancelled).ok()
	w.run("task-processor", "run", "--once").ok()
	w.run("task-processor", "redrive", "--task", failing).ok()
	w.run("task-processor", "pause").ok()
	w.run("task-processor", "resume").ok()
	withDaemon(w)
	w.run("task-processor", "start").ok()
	w.waitFor("the redriven task", func() bool { return w.count("failed") == 1 })
	w.run("task-processor", "status").ok()
	w.run("monitor-tasks").ok()
	w.run("task-processor", "stop").ok()
	w.insertStuck(3, 30)
	w.run("fix-stuck-tasks", "--limit", "1", "--requeue").is(3)
	w.run("fix-stuck-tasks").ok()
	w.run("task-processor", "tasks", "list").ok()
	w.run("task-processor", "tasks", "show", failing).ok()
	w.run("fix-stuck-tasks", "audit", "--repair").ok()
	w.run("task-processor", "users", "forget", "--user", w.user).ok()
	w.audit()
	r := w.run("task-processor", "migrate", "--plan")
	assert.Contains(t, r.fails(1), `does not own the schema "imagetasks"; run it with a DATABASE_URL of the role postgres`)
}

// A role that can't see or do what it needs must not take the queue for empty: every program says so and ends with 1.
func TestPrograms_RoleWithoutAccess(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(1)
	w.enqueue("a dot")
	blind := w.role("e2e_blind")
	w.run("task-processor", "migrate", "--worker-role", "e2e_blind").ok()
	commands := [][]string{{"task-processor", "run", "--once"}, {"task-processor", "status"}, {"monitor-tasks"}, {"fix-stuck-tasks"}, {"fix-stuck-tasks", "audit"},
		{"task-processor", "tasks", "list"}, {"task-processor", "credits", "show", "--user", w.user}}
	owner := w.env["DATABASE_URL"]
	for name, c := range map[string]struct{ fault, fix, want string }{
		"hidden rows":       {`drop policy "imagetasks worker e2e_blind" on imagetasks.tasks`, `create policy "imagetasks worker e2e_blind" on imagetasks.tasks to e2e_blind using (true) with check (true)`, "row-level security"},
		"missing privilege": {`revoke update on imagetasks.tasks from e2e_blind`, `grant update on imagetasks.tasks to e2e_blind`, `grant update on table "imagetasks".tasks to "e2e_blind"`},
		"read-only":         {`alter role e2e_blind set default_transaction_read_only = on`, `alter role e2e_blind reset default_transaction_read_only`, "read-only"},
		"old schema":        {`update imagetasks.schema_versions set version = version - 100`, `update imagetasks.schema_versions set version = version + 100`, "task-processor migrate"},
		"newer schema":      {`insert into imagetasks.schema_versions (version, name, compatible_with) values (99, 'x', 99)`, `delete from imagetasks.schema_versions where version = 99`, "install a newer imagetasks"},
	} {
		_, err := w.db.Exec(c.fault)
		require.NoError(t, err)
		w.env["DATABASE_URL"] = blind
		for _, command := range commands {
			r := w.run(command[0], command[1:]...)
			assert.Equal(t, 1, r.code, "%s: %v\n%s%s", name, command, r.stdout, r.stderr)
			assert.Contains(t, r.stderr, c.want, "%s: %v", name, command)
			assert.NotContains(t, strings.ToLower(r.stdout), "all is well")
		}
		w.env["DATABASE_URL"] = owner
		_, err = w.db.Exec(c.fix)
		require.NoError(t, err)
	}
	w.env["DATABASE_URL"] = blind
	w.run("task-processor", "run", "--once").ok()
	assert.Equal(t, 1, w.count("completed"))
}

// Two installations in one database, and what migrate prints about them.
func TestMigrate_TwoSchemas(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.grant(2)
	w.enqueue("a dot")
	w.env["DATABASE_SCHEMA"] = "second"
	r := w.run("task-processor", "status")
	assert.Contains(t, r.fails(1), "there is no schema")
	plan := w.run("task-processor", "migrate", "--plan", "--app-role", "nobody_there")
	assert.Equal(t, 1, plan.code)
	assert.Contains(t, plan.stdout, `create table "second".tasks`)
	assert.Contains(t, plan.stdout, "-- The last statement above would fail.")
	assert.Contains(t, plan.stderr, "create the role first")
	assert.Zero(t, w.number(`select count(*) from pg_namespace where nspname = 'second'`))
	assert.Contains(t, w.run("task-processor", "migrate").ok(), "the schema second is up to date")
	assert.Contains(t, w.run("task-processor", "migrate", "--plan").ok(), "nothing to do")
	w.grant(1)
	w.enqueue("a dot")
	w.run("task-processor", "run", "--once").ok()
	w.audit()
	assert.Equal(t, 1, w.number(`select count(*) from second.tasks where status = 'completed'`))
	assert.Equal(t, 1, w.count("pending"), "the first installation is not touched")
	delete(w.env, "DATABASE_SCHEMA")
	w.run("task-processor", "run", "--once").ok()
	w.audit()
}

// fails requires an exit code and returns the error.
func (r result) fails(code int) string {
	r.t.Helper()
	require.Equal(r.t, code, r.code, "%s\n%s", r.line, fmt.Sprint(r.stdout, r.stderr))
	return r.stderr
}
