package dashboard_test

import (
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Each number on the page is the one that the tables have, computed another way: whether its minutes are recorded, only some of them are, or none.
func TestReader_NumbersEqualTheDatabase(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*fixture){
		"recorded": func(f *fixture) {
			_, err := f.store.RecordFigures(t.Context(), 24*time.Hour)
			require.NoError(t, err)
		},
		"recorded until an hour ago": func(f *fixture) {
			_, err := f.store.RecordFigures(t.Context(), 24*time.Hour)
			require.NoError(t, err)
			f.exec(`delete from imagetasks.figures where minute > now() - interval '1 hour'`)
		},
		"minutes are missing": func(f *fixture) {
			_, err := f.store.RecordFigures(t.Context(), 24*time.Hour)
			require.NoError(t, err)
			f.exec(`delete from imagetasks.figures where minute between now() - interval '5 hours' and now() - interval '1 hour'`)
		},
		"not recorded": func(*fixture) {},
	} {
		t.Run(name, func(t *testing.T) {
			zone := time.FixedZone("X", -3*3600-30*60)
			f := newFixture(t, func(c *dashboard.Config) { c.Zone = zone })
			f.work()
			prepare(f)
			d := f.until("all days", func(d dashboard.Document) bool { return len(d.Days) == 14 })
			// The window begins with a whole minute.
			const window = `completed_at >= date_bin('1 minute', $1::timestamptz - interval '24 hours', 'epoch')`
			state := func(condition string) int {
				return f.number(`select count(*) from imagetasks.tasks where ` + condition)
			}
			assert.Equal(t, dashboard.Tasks{
				Due: state(`status = 'pending' and run_after <= now()`), Later: state(`status = 'pending' and run_after > now()`),
				Processing: state(`status = 'processing' and processing_started_at > now() - interval '20 minutes'`),
				Stuck:      state(`status = 'processing' and processing_started_at < now() - interval '20 minutes'`),
				Completed:  f.number(`select count(*) from imagetasks.tasks where status = 'completed' and `+window, d.AsOf),
				Failed:     f.number(`select count(*) from imagetasks.tasks where status = 'failed' and `+window, d.AsOf),
				Cancelled:  f.number(`select count(*) from imagetasks.tasks where status = 'cancelled' and `+window, d.AsOf), ClosedWindow: "24h",
			}, d.Tasks)
			assert.Equal(t, []int{80, 7, 19, 1}, []int{d.Tasks.Due, d.Tasks.Later, d.Tasks.Processing, d.Tasks.Stuck})
			assert.Positive(t, d.Tasks.Failed)
			assert.InDelta(t, 90, d.OldestDue, 30)
			assert.WithinDuration(t, time.Now(), d.AsOf, time.Minute)
			assert.Equal(t, dashboard.TimeZone{Name: "X", OffsetMinutes: -210}, d.TimeZone)

			if name == "minutes are missing" { // their causes are not known, except of the last hour
				assert.NotEmpty(t, d.Failures)
			} else {
				failed := 0
				for _, g := range d.Failures {
					failed += g.Count
					assert.Equal(t, f.number(`select count(*) from imagetasks.tasks where status = 'failed' and error_code = $2 and `+window, d.AsOf, g.Code), g.Count, g.Code)
					require.NotEmpty(t, g.Examples)
					for _, e := range g.Examples {
						assert.Equal(t, g.Code, f.text(`select error_code from imagetasks.tasks where task_id = $1`, e.TaskID))
						assert.Equal(t, "failed for "+g.Code, e.Message)
					}
				}
				assert.Equal(t, d.Tasks.Failed, failed)
			}
			// As the hints of simple-test.
			blocked := d.Failures[0]
			require.Equal(t, string(task.CodeModeration), blocked.Code, "the most frequent")
			h, _ := finding.HintFor(task.CodeModeration)
			assert.Equal(t, h.Fix.EN, blocked.Hint.EN)
			assert.Equal(t, h.Fix.ZH, blocked.Hint.ZH)
			assert.Equal(t, h.Cause.ZH, blocked.What.ZH)

			var recent []string
			for _, r := range d.Recent {
				recent = append(recent, r.TaskID)
				assert.Equal(t, r.Status == task.Completed, r.HasPicture)
			}
			assert.Len(t, recent, 12)
			assert.Equal(t, f.text(`select jsonb_agg(task_id)::text from (select task_id from imagetasks.tasks where completed_at is not null
				order by completed_at desc, task_id limit 12) t`), list(t, recent))

			charged := int64(0)
			for i, day := range d.Days {
				start := store.StartOfDay(d.AsOf.In(zone).Year(), d.AsOf.In(zone).Month(), d.AsOf.In(zone).Day()-i, zone)
				between := func(column string) string { return column + ` >= $1 and ` + column + ` < $2` }
				assert.Equal(t, start.Format(time.DateOnly), day.Day)
				sum := func(query, column string) int { return f.number(query+between(column), start, start.AddDate(0, 0, 1)) }
				assert.Equal(t, dashboard.Day{
					Day:       day.Day,
					Completed: sum(`select count(*) from imagetasks.tasks where status = 'completed' and `, "completed_at"),
					Failed:    sum(`select count(*) from imagetasks.tasks where status = 'failed' and `, "completed_at"),
					Charged:   int64(sum(`select coalesce(- sum(amount), 0) from imagetasks.ledger where kind = 'charge' and `, "created_at")),
					Refunded:  int64(sum(`select coalesce(sum(amount), 0) from imagetasks.ledger where kind = 'refund' and `, "created_at")),
					Costs:     day.Costs,
				}, plain(t, day), day.Day)
				for _, c := range day.Costs {
					assert.Equal(t, f.text(`select (sum(cost) / 1000000.0)::numeric(30, 6)::text from imagetasks.results where currency = $3 and `+between("at"), start, start.AddDate(0, 0, 1), c.Currency), c.Amount)
				}
				assert.Len(t, day.Costs, sum(`select count(distinct currency) from imagetasks.results where `, "at"))
				charged += day.Charged
			}
			assert.EqualValues(t, 300*5+7, charged)
			require.NotNil(t, d.Webhooks)
			assert.Nil(t, d.Bridge)
			assert.False(t, d.Well)
			assert.Equal(t, []string{string(finding.TasksStuck)}, codes(d))
		})
	}
}

func list(t *testing.T, values []string) string {
	t.Helper()
	var text []byte
	for i, v := range values {
		one, err := json.Marshal(v)
		require.NoError(t, err)
		if i > 0 {
			text = append(text, ", "...)
		}
		text = append(text, one...)
	}
	return "[" + string(text) + "]"
}

// plain returns a day as its JSON has it.
func plain(t *testing.T, d dashboard.Day) (out dashboard.Day) {
	t.Helper()
	text, err := json.Marshal(d)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &out))
	return out
}

func codes(d dashboard.Document) (out []string) {
	for _, p := range d.Problems {
		out = append(out, p.Code)
	}
	return out
}

// However many browsers ask, the database is asked every two seconds, and not at all when nobody does.
func TestReader_OneReadForAll(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	began := time.Now()
	var browsers sync.WaitGroup
	for range 50 {
		browsers.Go(func() {
			for range 100 {
				s := f.Snapshot(t.Context())
				if assert.NotNil(t, s) {
					assert.Equal(t, "here", s.Document.Host)
				}
			}
			_, err := f.Series(t.Context(), 24)
			assert.NoError(t, err)
		})
	}
	browsers.Wait()
	assert.LessOrEqual(t, f.store.reads.Load(), int64(time.Since(began)/(2*time.Second))+1)
	assert.Positive(t, f.store.reads.Load())
}

// While the database does not respond, the page says so and since when, shows what was known last with its time, and what this host knows of itself.
func TestReader_DatabaseDown(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.work()
	require.NoError(t, f.store.RecordHeartbeat(t.Context(), store.Processor{Worker: "there:2:x", Host: "there", PID: 2, Version: "9", Report: []byte(`{"worker": "there:2:x", "in_flight": 3}`)}))
	before := f.until("a processor of another host", func(d dashboard.Document) bool { return d.Tasks.Due == 80 && len(d.Processors) == 2 })
	require.True(t, before.Database.OK)
	f.store.down.Store(true)
	down := f.until("the database is down", func(d dashboard.Document) bool { return !d.Database.OK })
	assert.Equal(t, "password=***: connection refused", down.Database.Error)
	assert.WithinDuration(t, time.Now(), down.Database.Since, 30*time.Second)
	assert.False(t, down.AsOf.After(time.Now()))
	assert.Equal(t, before.Tasks, down.Tasks)
	assert.False(t, down.Well)
	require.NotEmpty(t, down.Problems)
	assert.Equal(t, string(finding.DatabaseUnavailable), down.Problems[0].Code)
	assert.Equal(t, dashboard.SeverityError, down.Problems[0].Severity)
	require.Len(t, down.Processors, 2)
	assert.Equal(t, 4, down.Processors[0].InFlight)
	assert.GreaterOrEqual(t, down.Processors[1].SilentSeconds, before.Processors[1].SilentSeconds)
	first := down.AsOf
	f.store.down.Store(false)
	up := f.until("the database is back", func(d dashboard.Document) bool { return d.Database.OK })
	assert.True(t, up.AsOf.After(first))
	assert.True(t, up.Database.Since.IsZero())
}

// A database that never responded leaves a document without numbers, and without a time.
func TestReader_DatabaseNeverUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.store.down.Store(true)
	s := f.Snapshot(t.Context())
	require.NotNil(t, s)
	assert.True(t, s.Document.AsOf.IsZero())
	assert.NotContains(t, string(s.JSON), "as_of")
	assert.False(t, s.Document.Database.OK)
	require.Len(t, s.Document.Processors, 1)
	assert.True(t, s.Document.Processors[0].Alive)
}

// What changed is another version; that time has passed is none.
func TestReader_Version(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.until("the slow part", func(d dashboard.Document) bool { return d.Webhooks != nil && len(d.Days) == 14 })
	first := f.Snapshot(t.Context())
	var later *dashboard.Snapshot
	require.Eventually(t, func() bool {
		later = f.Snapshot(t.Context())
		return later.Document.AsOf.After(first.Document.AsOf)
	}, 30*time.Second, 50*time.Millisecond)
	assert.Equal(t, first.Version, later.Version)
	_, err := f.store.Enqueue(t.Context(), store.EnqueueRequest{UserID: "ann", Prompt: "x", Cost: 0})
	require.NoError(t, err)
	f.until("one is due", func(d dashboard.Document) bool { return d.Tasks.Due == 1 })
	assert.NotEqual(t, first.Version, f.Snapshot(t.Context()).Version)
}

func TestReader_Pauses(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	_, err := f.store.Pause(t.Context(), "ops", "backup")
	require.NoError(t, err)
	_, err = f.store.PauseScope(t.Context(), store.By("ann"), store.ScopeModel, "flux", "price")
	require.NoError(t, err)
	_, err = f.store.PauseScope(t.Context(), store.By("ann"), store.ScopeEndpoint, "openai", "")
	require.NoError(t, err)
	d := f.until("pauses", func(d dashboard.Document) bool { return len(d.Paused) == 3 })
	assert.Equal(t, "queue", d.Paused[0].Scope)
	assert.Equal(t, "backup", d.Paused[0].Reason)
	require.Len(t, d.Endpoints, 1)
	assert.True(t, d.Endpoints[0].Paused)
	require.Len(t, d.Models, 1)
	assert.Equal(t, "flux", d.Models[0].Name)
	assert.True(t, d.Models[0].Paused)
	assert.Equal(t, []string{"claiming_paused", "claiming_paused", "claiming_paused"}, codes(d))
	for _, p := range d.Problems {
		assert.Equal(t, dashboard.SeverityWarning, p.Severity)
		assert.Contains(t, p.Do, "resume")
	}
}

func TestReader_Series(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.work()
	text, err := f.Series(t.Context(), 1)
	require.NoError(t, err)
	assert.Contains(t, string(text), `"minutes":[]`)
	_, err = f.store.RecordFigures(t.Context(), 24*time.Hour)
	require.NoError(t, err)
	f.exec(`delete from imagetasks.figures where minute between now() - interval '5 hours' and now() - interval '4 hours'`)
	for hours, step := range map[int]int{24: 60, 25: 60, 26: 120, 50: 120, 51: 300, 125: 300, 126: 600, 168: 600} {
		text, err := f.Series(t.Context(), hours)
		require.NoError(t, err)
		var s dashboard.Series
		require.NoError(t, json.Unmarshal(text, &s))
		assert.Equal(t, step, s.StepSeconds, hours)
		assert.LessOrEqual(t, len(s.Minutes), 1501)
		total, missing := int64(0), 0
		for i, at := range s.Minutes {
			assert.Zero(t, at%int64(step))
			if i > 0 {
				assert.EqualValues(t, step, at-s.Minutes[i-1])
			}
			if s.Completed[i] == nil {
				missing++
				assert.Nil(t, s.Arrived[i])
				continue
			}
			total += *s.Completed[i]
		}
		assert.InDelta(t, 3600/step, missing, 1)
		assert.EqualValues(t, f.number(`select sum(completed) from imagetasks.figures where minute >= $1`, time.Unix(s.Minutes[0], 0)), total)
		for _, column := range []int{len(s.Arrived), len(s.Failed), len(s.Cancelled), len(s.Charged), len(s.Refunded), len(s.P50), len(s.P95), len(s.Depth), len(s.Processing), len(s.Oldest)} {
			assert.Len(t, s.Minutes, column)
		}
	}
}

func TestReader_FindAndTask(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *dashboard.Config) {
		c.Files = nil
	})
	f.work()
	_, err := f.store.RecordFigures(t.Context(), 24*time.Hour)
	require.NoError(t, err)
	f.until("read", func(d dashboard.Document) bool { return d.Tasks.Due == 80 })
	id := f.text(`select task_id from imagetasks.tasks where error_code = 'moderation_blocked' and completed_at > now() - interval '23 hours' limit 1`)
	for _, text := range []string{id, " " + id + " "} {
		found, err := f.Find(t.Context(), text, 10)
		require.NoError(t, err)
		require.Len(t, found.Tasks, 1)
		assert.Equal(t, id, found.Tasks[0].TaskID)
		assert.Equal(t, "failed for moderation_blocked", found.Tasks[0].Error)
		assert.EqualValues(t, 5, found.Tasks[0].Refunded)
	}
	found, err := f.Find(t.Context(), id[:35], 200)
	require.NoError(t, err)
	assert.Len(t, found.Tasks, f.number(`select count(*) from imagetasks.tasks where starts_with(task_id, $1)`, id[:35]))
	found, err = f.Find(t.Context(), "ann", 50)
	require.NoError(t, err)
	assert.Len(t, found.Tasks, 50)
	assert.True(t, found.More)
	of := f.text(`update imagetasks.tasks set user_id = ' ann' where task_id = (select task_id from imagetasks.tasks where user_id = 'ann' and status = 'completed' limit 1) returning task_id`)
	found, err = f.Find(t.Context(), " ann", 50)
	require.NoError(t, err)
	require.Len(t, found.Tasks, 1, "another user, whose tasks a link on the page asks for")
	assert.Equal(t, of, found.Tasks[0].TaskID)
	found, err = f.Find(t.Context(), "moderation_blocked", 200)
	require.NoError(t, err)
	assert.Len(t, found.Tasks, f.number(`select count(*) from imagetasks.tasks where error_code = 'moderation_blocked' and completed_at > now() - interval '24 hours'`))
	for _, nothing := range []string{"", "0", "'; drop table", "%", "nobody"} {
		found, err = f.Find(t.Context(), nothing, 50)
		require.NoError(t, err)
		assert.Equal(t, dashboard.Found{Tasks: []dashboard.FoundTask{}}, found, nothing)
	}

	document, err := f.Task(t.Context(), id)
	require.NoError(t, err)
	assert.Empty(t, document.Prompt)
	text, err := json.Marshal(document)
	require.NoError(t, err)
	assert.NotContains(t, string(text), "a cat")
	details, err := f.store.TaskDetails(t.Context(), id)
	require.NoError(t, err)
	details.Prompt = ""
	want, err := json.Marshal(struct {
		store.TaskDetails
		Files []string `json:"files"`
	}{details, []string{}})
	require.NoError(t, err)
	assert.JSONEq(t, string(want), string(text), "as tasks show --json")
	_, err = f.Task(t.Context(), "none")
	assert.ErrorIs(t, err, task.ErrNotFound)
}
