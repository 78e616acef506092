package store

import (
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func testNames(t *testing.T) names {
	t.Helper()
	n, err := newNames("")
	require.NoError(t, err)
	return n
}

// embeddedSQL returns a copy of the SQL files that a test may change.
func embeddedSQL(t *testing.T) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	names, err := fs.Glob(sqlFiles, "sql/*.sql")
	require.NoError(t, err)
	for _, name := range names {
		text, err := fs.ReadFile(sqlFiles, name)
		require.NoError(t, err)
		files[path.Base(name)] = &fstest.MapFile{Data: text}
	}
	return files
}

func TestLoadStatements_Embedded(t *testing.T) {
	s, err := loadStatements(embeddedSQL(t), testNames(t))
	require.NoError(t, err)
	assert.Len(t, s.audits, 8)
	for file, fields := range s.files() {
		for name, st := range fields {
			assert.Equal(t, name, st.name, file)
			assert.NotRegexp(t, `\{\{|;$`, st.text(), name)
		}
	}
	assert.Len(t, embeddedSQL(t), len(s.files())+1, "every SQL file is read")
}

// An error about a lost answer leaves out that its effect is unknown where there is none.
func TestLoadStatements_Writes(t *testing.T) {
	s, err := loadStatements(embeddedSQL(t), testNames(t))
	require.NoError(t, err)
	var reading []string
	for _, fields := range s.files() {
		for name, st := range fields {
			if !st.writes() {
				reading = append(reading, name)
			}
		}
	}
	slices.Sort(reading)
	assert.Equal(t, []string{"abandoned", "balance", "booked_between", "bridge_check", "bridge_due", "bridge_problems", "bridge_state", "claimable", "closed_between", "closed_figures",
		"closed_since", "closed_within", "completed", "control", "count_by_state", "count_overdue", "count_stuck", "event_counts", "failed_ids", "failing_receivers",
		"failure_figures", "failures_within", "figures", "figures_bounds", "find_ids", "find_prefix", "find_user", "forgotten", "has_pending", "has_pending_for",
		"has_suspect", "held_users", "inputs", "installation", "ledger", "list_events", "list_tasks", "live_tasks_of", "next_due", "operations", "overdue", "permit_wait", "picture_tasks",
		"processors", "prunable", "queue_stats", "recent_closed", "recorded_count", "recorded_failure", "recorded_outcomes", "recorded_result", "refunds_today",
		"report", "report_since", "resolved", "results_within", "stuck", "stuck_ids", "task", "task_details", "task_ledger", "task_results", "tasks_aside", "unsettled",
		"worked_models"}, reading)
}

func TestLoadStatements_InvalidFiles(t *testing.T) {
	for name, test := range map[string]struct{ file, old, new, want string }{
		"missing":           {"stats.sql", "-- name: next_due\n", "", `stats.sql: statement "next_due" is missing`},
		"unknown":           {"stats.sql", "-- name: has_pending\n", "-- name: tusk\n", `stats.sql: unknown statement "tusk"`},
		"in another file":   {"stats.sql", "-- name: has_pending\n", "-- name: claim\nselect 1;\n-- name: has_pending\n", `stats.sql: unknown statement "claim"`},
		"twice":             {"lease.sql", "-- name: retry\n", "-- name: claim\nselect 1;\n-- name: retry\n", `lease.sql: statement "claim" is defined twice`},
		"empty":             {"lease.sql", "-- name: retry\n", "-- name: claim2\n-- Locks: none.\n-- name: retry\n", `lease.sql: statement "claim2" is empty`},
		"template":          {"close.sql", `{{overdue "$1"}}`, `{{overdoe "$1"}}`, `function "overdoe" not defined`},
		"audit twice":       {"audit.sql", "audit: missing_refund\n", "audit: balance_mismatch\n", `audit.sql: rule "balance_mismatch" is defined twice`},
		"audit with a text": {"audit.sql", "audit: missing_refund\n", "audit: A refund is missing\n", `audit.sql: unknown statement "audit: A refund is missing"`},
		"no audit":          {"audit.sql", "-- name: ", "-- ", "audit.sql: no rule is defined"},
	} {
		t.Run(name, func(t *testing.T) {
			files := embeddedSQL(t)
			text := string(files[test.file].Data)
			require.Contains(t, text, test.old)
			files[test.file].Data = []byte(strings.ReplaceAll(text, test.old, test.new))
			_, err := loadStatements(files, testNames(t))
			assert.ErrorContains(t, err, test.want)
		})
	}
	t.Run("file missing", func(t *testing.T) {
		files := embeddedSQL(t)
		delete(files, "credits.sql")
		_, err := loadStatements(files, testNames(t))
		assert.ErrorIs(t, err, fs.ErrNotExist)
	})
}

// The conditions of stuck and overdue tasks are defined once, in statements.go.
func TestSQLFiles_UseSharedConditions(t *testing.T) {
	age := regexp.MustCompile(`< now\(\) - \$`)
	for name, file := range embeddedSQL(t) {
		assert.NotRegexp(t, age, string(file.Data), name)
	}
}
