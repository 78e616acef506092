package processor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/task"
)

var (
	start   = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	refused = &task.Error{Code: task.CodeUnauthorized, Disposition: task.Pause}
	unsent  = &task.Error{Code: task.CodeProxyRefused, Disposition: task.Pause, NotSent: true}
	page    = &task.Error{Code: task.CodeWebPage, Disposition: task.Retry, Unknown: true}
	limited = &task.Error{Code: task.CodeRateLimited, Disposition: task.Release, RetryAfter: time.Minute}

	before  = start.Add(-time.Minute)
	someone = task.Lease{TaskID: "other", Epoch: 1}
	triedBy = task.Lease{TaskID: "trial", Epoch: 1}
)

func newCircuit() *circuit {
	return &circuit{scope: task.ScopeEndpoint, times: defaultCircuitTimes()}
}

// tryWith makes a half-open circuit have its trial.
func (c *circuit) tryWith(l task.Lease) { c.trial = &l }

func TestCircuit_CheckWaits(t *testing.T) {
	c := newCircuit()
	assert.True(t, c.open(start, unsent, opening{checkFailed: true}))
	assert.False(t, c.open(start, refused, opening{}), "already open")
	assert.Equal(t, start.Add(time.Second), c.nextCheck)
	now := start
	for _, want := range []time.Duration{4 * time.Second, 5 * time.Second, 5 * time.Second} {
		now = c.nextCheck
		c.checkStarted(now)
		assert.False(t, c.checked(now, c.opening, refused, false))
		assert.Equal(t, want, c.nextCheck.Sub(now))
		assert.Same(t, refused, c.cause, "today's reason")
	}
	c.checkStarted(now)
	silent := now.Add(3 * time.Second)
	c.checked(silent, c.opening, refused, false)
	assert.Equal(t, now.Add(5*time.Second), c.nextCheck, "a check that took long does not delay the next")
	c.checked(now, c.opening, limited, false)
	assert.Equal(t, time.Minute, c.nextCheck.Sub(now), "Retry-After of a rate limit")
	c.checkStarted(now)
	c.checked(now, c.opening, &task.Error{Code: task.CodeServer, RetryAfter: time.Hour}, false)
	assert.Equal(t, 5*time.Second, c.nextCheck.Sub(now), "no other Retry-After")
	assert.False(t, c.checked(now, c.opening-1, nil, false), "a check from before it opened says nothing")
	assert.True(t, c.isOpen())
}

// A check says something after one that failed: one task tries, and the others follow when it was answered.
func TestCircuit_CheckSeesTheCause(t *testing.T) {
	c := newCircuit()
	c.open(start, page, opening{checkFailed: true, paid: true})
	now := start.Add(time.Second)
	assert.True(t, c.checked(now, c.opening, nil, false))
	assert.Equal(t, CircuitHalfOpen, c.state)
	c.tryWith(triedBy)
	assert.True(t, c.fromBefore(someone, before))
	assert.False(t, c.answered(now, someone, before))
	assert.True(t, c.answered(now, triedBy, now))
	assert.True(t, c.isClosed())
}

func TestCircuit_ClosesAtOnceWhenNothingWasSent(t *testing.T) {
	for _, uncheckable := range []bool{false, true} {
		c := newCircuit()
		c.open(start, unsent, opening{})
		assert.True(t, c.checked(start.Add(time.Second), c.opening, nil, uncheckable))
		assert.True(t, c.isClosed())
	}
}

// Where tries fail although checks succeed, the next check is believed later each time.
func TestCircuit_FlappingWaitsLonger(t *testing.T) {
	c := newCircuit()
	now := start
	for i, want := range []time.Duration{0, 5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second,
		160 * time.Second, 5 * time.Minute, 5 * time.Minute} {
		if i == 0 {
			assert.True(t, c.open(now, unsent, opening{checkFailed: true}))
		} else {
			c.tryWith(triedBy)
			if c.isClosed() {
				c.open(now, unsent, opening{checkFailed: true})
			} else {
				c.tryFailed(now, unsent, opening{checkFailed: true})
			}
		}
		if want > 0 {
			assert.False(t, c.checked(now.Add(want-time.Millisecond), c.opening, nil, false), i)
			assert.LessOrEqual(t, c.nextCheck.Sub(now), want, "checked again by then")
		}
		now = now.Add(want)
		assert.True(t, c.checked(now, c.opening, nil, false), i)
		assert.Equal(t, i == 0, c.isClosed(), i)
	}
	c.tryWith(triedBy)
	assert.True(t, c.answered(now, triedBy, now))
	c.open(now, unsent, opening{checkFailed: true})
	assert.True(t, c.checked(now, c.opening, nil, false), "an answer ends the series")
}

// trials returns when trials are made until end, if each fails at once with cause and checks succeed.
func trials(c *circuit, from, end time.Time, cause *task.Error, o opening) (at []time.Duration) {
	for now := from; now.Before(end); now = now.Add(time.Second) {
		if c.isOpen() && !now.Before(c.nextCheck) {
			c.checked(now, c.opening, nil, false)
		}
		c.tryDue(now)
		if c.state == CircuitHalfOpen {
			at = append(at, now.Sub(from))
			c.tryWith(triedBy)
			c.tryFailed(now, cause, o)
		}
	}
	return at
}

// Where the check says nothing, an hour has at most 12 trials that may be billed.
func TestCircuit_TrialsOfAnHour(t *testing.T) {
	minutes := func(at []time.Duration) (out []float64) {
		for _, d := range at {
			out = append(out, d.Minutes())
		}
		return out
	}
	paid := opening{byRow: true, paid: true}
	c := newCircuit()
	c.open(start, page, paid)
	at := trials(c, start, start.Add(time.Hour), page, paid)
	assert.Len(t, at, 12)
	assert.InDeltaSlice(t, []float64{2, 6, 11, 16, 21, 26}, minutes(at[:6]), 0.01)

	c = newCircuit()
	c.open(start, refused, opening{})
	at = trials(c, start, start.Add(time.Hour), refused, opening{})
	assert.InDeltaSlice(t, []float64{0.25, 0.75, 1.75, 3.75, 7.75, 12.75}, minutes(at[:6]), 0.01)

	c = newCircuit()
	broke := opening{byRow: true, believe: true, paid: true}
	c.open(start, page, broke)
	at = trials(c, start, start.Add(time.Hour), page, broke)
	assert.Equal(t, time.Second, at[0], "where the connection broke, a check is believed once")
	assert.LessOrEqual(t, len(at), 12)
}

// While a check fails, tasks are tried seldom, so that a check that always fails does not stop the queue for ever; and never where no
// connection can be made.
func TestCircuit_TrialsWhileTheCheckFails(t *testing.T) {
	c := newCircuit()
	c.open(start, page, opening{checkFailed: true, paid: true})
	assert.Equal(t, start.Add(5*time.Minute), c.trialAt())
	c.checked(start.Add(time.Second), c.opening, unsent, false)
	assert.Zero(t, c.trialAt())
	c.close(start, true)
	c.checked(start, 0, nil, false)
	c.open(start, page, opening{checkFailed: true, paid: true})
	assert.Equal(t, start.Add(30*time.Minute), c.trialAt(), "the check is known to work")
}

func TestCircuit_UncheckableSaysNothing(t *testing.T) {
	c := newCircuit()
	c.open(start, page, opening{checkFailed: true})
	assert.False(t, c.checked(start.Add(time.Second), c.opening, nil, true))
	assert.True(t, c.isOpen())
}

// After failures in a row, an answer to a request from before shows that the API works; after a refusal it does not.
func TestCircuit_AnswerFromBefore(t *testing.T) {
	c := newCircuit()
	c.open(start, page, opening{byRow: true, paid: true})
	assert.True(t, c.answered(start, someone, before))
	c = newCircuit()
	c.open(start, refused, opening{})
	assert.False(t, c.answered(start, someone, before))
	assert.True(t, c.isOpen())
}

func TestCircuit_PauseGrowsOncePerLimit(t *testing.T) {
	c := newCircuit()
	first := c.pause(start, 0)
	assert.LessOrEqual(t, first, task.BackoffBase)
	assert.LessOrEqual(t, c.pause(start, 0), task.BackoffBase, "the same limit")
	assert.True(t, c.isPaused(start))
	now := start.Add(time.Minute)
	assert.False(t, c.isPaused(now))
	assert.Greater(t, c.pause(now, 0), task.BackoffBase, "the second limit in a row")
	now = now.Add(time.Minute)
	c.answered(now, someone, now)
	assert.LessOrEqual(t, c.pause(now, 0), task.BackoffBase)
	assert.GreaterOrEqual(t, c.pause(now, time.Hour), time.Hour)
}

func TestCircuit_PictureStoreChecksEveryFiveSecondsAtMost(t *testing.T) {
	c := &circuit{scope: task.ScopeAll, times: defaultCircuitTimes()}
	full := &task.Error{Code: task.CodePictureStore, Disposition: task.Pause, NotSent: true}
	now := start
	for range 10 {
		c.open(now, full, opening{})
		assert.LessOrEqual(t, c.nextCheck.Sub(now), 5*time.Second)
		assert.Zero(t, c.trialAt())
		now = c.nextCheck
		assert.True(t, c.checked(now, c.opening, nil, false))
		assert.True(t, c.isClosed())
	}
}
