package e2e_test

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgfault"
	"imagetasks/pkg/task"
)

// lossy puts a man in the middle between the programs and the database.
func (w *fixture) lossy() *pgfault.Proxy {
	w.t.Helper()
	p, through, err := pgfault.StartFor(w.env["DATABASE_URL"])
	require.NoError(w.t, err)
	w.t.Cleanup(func() { assert.NoError(w.t, p.Close()) })
	w.env["DATABASE_URL"] = through
	return p
}

// tries is how often a program sends a statement whose answer is lost.
const tries = 4

func TestGrant_LostAnswersGrantOnce(t *testing.T) {
	w := newFixture(t)
	p := w.lossy()
	want := 0
	for _, fault := range []pgfault.Fault{pgfault.LostFIN, pgfault.LostRST, pgfault.Fatal} {
		for times := 1; times < tries; times++ {
			injection := p.Add(pgfault.Rule{Fault: fault, Contains: "grant_credits", Times: times})
			out := w.run("task-processor", "credits", "grant", "--user", w.user, "--credits", "10").ok()
			injection.Remove()
			want += 10
			assert.Equal(t, times, injection.Hits(), "%s", fault)
			assert.Equal(t, fmt.Sprintf("granted 10 credits to %s; the balance is %d\n", w.user, want), out)
		}
	}
	assert.Equal(t, want, w.credits())
	w.audit()
}

var keyOption = regexp.MustCompile(`so that it takes effect once, repeat the command with --key (\S+)`)

// Where the outcome stays unknown, the error says so, and what it says to repeat takes effect once.
func TestGrant_UnknownOutcomeSaysHowToRepeat(t *testing.T) {
	w := newFixture(t)
	p := w.lossy()
	for i, more := range [][]string{nil, {"--json"}, {"--key", "order 1"}} {
		args := append([]string{"credits", "grant", "--user", w.user, "--credits", "10"}, more...)
		injection := p.Add(pgfault.Rule{Fault: pgfault.LostFIN, Contains: "grant_credits"})
		r := w.run("task-processor", args...)
		r.is(1)
		assert.Equal(t, tries, injection.Hits())
		injection.Remove()
		assert.Contains(t, r.stderr, "whether it took effect is unknown")
		said := r.stderr
		if r.stdout != "" {
			var document struct{ Error struct{ Message string } }
			r.json(&document)
			said = document.Error.Message
		}
		if i == 2 {
			assert.Contains(t, said, "repeat the command with --key order 1")
			w.run("task-processor", args...).ok()
		} else {
			key := keyOption.FindStringSubmatch(said)
			require.NotNil(t, key, said)
			w.run("task-processor", append(args, "--key", key[1])...).ok()
		}
		assert.Equal(t, 10*(i+1), w.credits())
	}
	w.audit()
}

func TestEnqueue_UnknownOutcomeSaysHowToRepeat(t *testing.T) {
	w := newFixture(t)
	w.grant(10)
	p := w.lossy()
	injection := p.Add(pgfault.Rule{Fault: pgfault.LostFIN, Contains: "enqueue_many"})
	args := []string{"enqueue", "--user", w.user, "--prompt", "a lantern by the river", "--count", "2"}
	r := w.run("task-processor", append(args, "--run-at", "2h")...)
	r.is(1)
	injection.Remove()
	said := regexp.MustCompile(`repeat the command with --key (\S+) --run-at (\S+)`).FindStringSubmatch(r.stderr)
	require.NotNil(t, said, r.stderr)
	w.run("task-processor", append(args, "--key", said[1], "--run-at", said[2])...).ok()
	assert.Equal(t, 8, w.credits())
	assert.Equal(t, 2, w.count("pending"))
	w.audit()
}

func TestCancelAndRedrive_UnknownOutcomeSaysHowToRepeat(t *testing.T) {
	w := newFixture(t)
	w.grant(10)
	ids := w.enqueue("a lantern by the river", "--count", "3")
	w.env["TASK_LEASE"] = "1s" // nothing is closed for so long after the start of the server
	p := w.lossy()
	lose := func(text string, skip int) *pgfault.Injection {
		return p.Add(pgfault.Rule{Fault: pgfault.LostFIN, Contains: text, Skip: skip})
	}

	injection := lose(".cancel(", 0)
	r := w.run("task-processor", "cancel", "--task", ids[0])
	r.is(1)
	injection.Remove()
	assert.Contains(t, r.stderr, "whether it took effect is unknown; repeat the command: the task is refunded once")
	assert.Contains(t, w.run("task-processor", "cancel", "--task", ids[0]).ok(), "1 credit refunded; the balance is 8")

	_, err := w.db.Exec(`update imagetasks.tasks set status = 'processing', processing_started_at = now() - interval '1 hour' where status = 'pending'`)
	require.NoError(t, err)
	w.waitFor("the refunds", func() bool { return w.run("fix-stuck-tasks").code == 0 })
	assert.Equal(t, 10, w.credits())

	// The tasks before it are reported.
	injection = lose(".redrive(", 1)
	r = w.run("task-processor", "redrive", "--error-code", string(task.CodeStuck))
	assert.Contains(t, r.is(1), "begins run 2; the balance is 9")
	said := regexp.MustCompile(`repeat with --task (\S+) --run (\d)`).FindStringSubmatch(r.stderr)
	require.NotNil(t, said, r.stderr)
	for range 2 {
		r = w.run("task-processor", "redrive", "--json", "--task", said[1], "--run", said[2])
		r.is(1)
		var document struct{ Error struct{ Message string } }
		r.json(&document)
		assert.Contains(t, document.Error.Message, "so that it is charged once, repeat with --task "+said[1]+" --run 1")
	}
	injection.Remove()
	assert.Contains(t, w.run("task-processor", "redrive", "--task", said[1], "--run", said[2]).ok(), "begins run 2; the balance is 8")
	assert.Equal(t, 8, w.credits())
	w.audit()
}
