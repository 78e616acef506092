package main

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ideal is a queue in which nothing but the API takes time, with tasks at a constant mean rate.
func ideal(perSecond float64, slots int, seconds, spread float64) config {
	const tasks = 150_000
	return config{Tasks: tasks, Peak: 1, Day: tasks / perSecond, Seed: 1, Processors: 1, Concurrency: slots, Seconds: seconds, Spread: spread,
		PostgresCores: 1, ProcessorCores: 1, Memory: 1024, Files: 100_000, Costs: costs{FilesPerTask: 1}}
}

// erlangC returns the part of tasks that wait for one of n servers, with so much work offered (arrivals × time of a task).
func erlangC(n int, offered float64) float64 {
	blocked := 1.0 // Erlang B
	for i := 1; i <= n; i++ {
		blocked = offered * blocked / (float64(i) + offered*blocked)
	}
	return blocked / (1 - offered/float64(n)*(1-blocked))
}

func TestErlangC_Known(t *testing.T) {
	assert.InDelta(t, 0.75, erlangC(1, 0.75), 1e-9, "M/M/1: the utilization")
	assert.InDelta(t, 1.0/3, erlangC(2, 1), 1e-9)
}

// Where the times of tasks are exponential, waiting times are those of Erlang C.
func TestSimulate_ErlangC(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		slots       int
		utilization float64
	}{{1, 0.5}, {3, 0.7}, {10, 0.8}} {
		const seconds = 2.0
		q := simulate(ideal(x.utilization*float64(x.slots)/seconds, x.slots, seconds, 1))
		waits := erlangC(x.slots, x.utilization*float64(x.slots))
		mean := waits * seconds / float64(x.slots) / (1 - x.utilization)
		assert.InEpsilon(t, mean, q.waits.mean(), 0.06, "mean wait for %+v", x)
		assert.InEpsilon(t, waits, 1-float64(q.waits.counts[0])/float64(q.waits.n), 0.03, "part that waits for %+v", x)
		// Those that wait do so for an exponential time.
		p99 := math.Log(waits/0.01) * seconds / float64(x.slots) / (1 - x.utilization)
		assert.InEpsilon(t, p99, q.waits.quantile(0.99), 0.1, "p99 for %+v", x)
		assert.InEpsilon(t, x.utilization, q.slots.total(hours)/q.conf.Day/float64(x.slots), 0.02)
		assert.Equal(t, q.arrived, q.completed)
	}
}

// Where all tasks take the same time, they wait half as long: Pollaczek and Khinchine for one slot. More slots are close to
// half of Erlang C.
func TestSimulate_ConstantTimes(t *testing.T) {
	t.Parallel()
	q := simulate(ideal(0.8, 1, 1, 0))
	assert.InEpsilon(t, 0.8/2/(1-0.8), q.waits.mean(), 0.05)
	many := simulate(ideal(9, 10, 1, 0))
	half := erlangC(10, 9) / 10 / (1 - 0.9) / 2
	// Cosmetatos' correction of the half.
	corrected := half * (1 + (1-0.9)*9*(math.Sqrt(4+5*10)-2)/(16*9))
	assert.InEpsilon(t, corrected, many.waits.mean(), 0.06)
}

// It does not matter how many processors have the slots, but how many slots there are.
func TestSimulate_SlotsOfAllProcessors(t *testing.T) {
	t.Parallel()
	one := simulate(ideal(4, 10, 2, 1))
	several := ideal(4, 2, 2, 1)
	several.Processors = 5
	five := simulate(several)
	assert.InEpsilon(t, one.waits.mean(), five.waits.mean(), 0.05)
	assert.Equal(t, 10, one.mostInFlight)
	assert.Equal(t, 2, five.mostInFlight)
	assert.Less(t, simulate(ideal(4, 20, 2, 1)).waits.mean(), one.waits.mean()/10)
}

// A proxy of 100 Mbit/s carries 2.9 answers of 4 MiB a second, however many slots there are.
func TestSimulate_BandwidthIsTheLimit(t *testing.T) {
	t.Parallel()
	c := ideal(5, 1000, 1, 0)
	c.Day, c.Tasks = 2000, 10_000
	c.Answer, c.Bandwidth = 4, 100
	q := simulate(c)
	assert.InDelta(t, 2.89, float64(q.completed)/q.lastCompleted, 0.03)
	r := newReport(q)
	assert.Equal(t, "proxy, to the processors", r.Limit)
	assert.Contains(t, r.Suggestion, "a proxy with 231 Mbit/s", "5 × 4 MiB × 8 × 1.03 / 0.75")
	assert.Positive(t, q.leftAtEnd)

	c.Bandwidth = 1000
	assert.InDelta(t, 5, float64(simulate(c).completed)/2000, 0.1)
}

// Transfers that share a line are there, in the mean, as long as in M/G/1 with processor sharing, whatever their size is.
func TestLine_SharedEqually(t *testing.T) {
	t.Parallel()
	var c clock
	l := line{clock: &c, rate: 1, busy: gauge{clock: &c, window: 1e6}}
	random := rand.New(rand.NewPCG(1, 1))
	total, n, at := 0.0, 100_000, 0.0
	for range n {
		at += random.ExpFloat64() / 0.7
		began, bytes := at, 0.5+float64(random.IntN(2))
		c.after(at, func() { l.send(bytes, func() { total += c.now - began }) })
	}
	c.run()
	assert.InEpsilon(t, 1/(1-0.7), total/float64(n), 0.05)
	assert.InEpsilon(t, 0.7, l.busy.total(math.MaxInt)/c.now, 0.02)
}

// Three transfers: two share the line until the shorter one ends, the third has it alone.
func TestLine_TimesOfTransfers(t *testing.T) {
	var c clock
	l := line{clock: &c, rate: 10, busy: gauge{clock: &c, window: 1}}
	var ends []float64
	ended := func() { ends = append(ends, c.now) }
	l.send(100, ended)
	c.after(2, func() { l.send(20, ended) })   // 20 of 100 are sent; both at 5/s
	c.after(100, func() { l.send(10, ended) }) // alone
	c.run()
	require.Len(t, ends, 3)
	assert.InDeltaSlice(t, []float64{6, 12, 101}, ends, 1e-9)
	assert.InDelta(t, 13, l.busy.total(math.MaxInt), 1e-9)
	assert.InDelta(t, 1, l.busy.busiest(), 1e-9)
}

// What PostgreSQL can do is a limit of its own. Grouping makes more of it than one statement for each task would.
func TestSimulate_PostgresIsTheLimit(t *testing.T) {
	t.Parallel()
	c := ideal(500, 10_000, 1, 0)
	c.Day, c.Tasks = 100, 50_000
	c.Costs.Enqueue, c.Costs.Statement, c.Costs.Complete = 0.0002, 0.0005, 0.0001
	q := simulate(c)
	assert.Less(t, q.waits.mean(), 0.1, "50,000 times three statements would take 75 s, enqueue and completion 15 s")
	assert.Equal(t, "", newReport(q).Limit)
	c.Costs.Complete = 0.003
	q = simulate(c)
	assert.InDelta(t, 50_000*0.0032, q.lastCompleted, 10)
	r := newReport(q)
	assert.Equal(t, "PostgreSQL CPU", r.Limit)
	assert.Contains(t, r.Suggestion, "give PostgreSQL 3 cores, or divide the users among 3 installations")
}

func TestSimulate_ProcessorCPUIsTheLimit(t *testing.T) {
	t.Parallel()
	c := ideal(30, 1000, 1, 0)
	c.Day, c.Tasks, c.Answer = 100, 3000, 4
	c.Costs.Picture = 0.015 // 60 ms for an answer: 16.7/s on one core
	q := simulate(c)
	assert.InDelta(t, 3000*0.06, q.lastCompleted, 5)
	r := newReport(q)
	assert.Equal(t, "processor CPU", r.Limit)
	assert.Contains(t, r.Suggestion, "run processors on 3 hosts of 1 core")
}

func TestSimulate_SeedDecides(t *testing.T) {
	c := ideal(1, 3, 2, 1)
	c.Day, c.Tasks = 1000, 1000
	first, again := newReport(simulate(c)), newReport(simulate(c))
	assert.Equal(t, first.text(), again.text())
	c.Seed = 2
	assert.NotEqual(t, first.text(), newReport(simulate(c)).text())
}

func TestArrivals_FollowTheCurve(t *testing.T) {
	for _, peak := range []float64{1, 3, 20} {
		a := newArrivals(config{Tasks: 240_000, Peak: peak, Day: 24, Seed: 7})
		n, around := 0, 0
		for at, ok := a.next(); ok; at, ok = a.next() {
			n++
			if math.Abs(at-14) < 0.1 {
				around++
			}
		}
		assert.InEpsilon(t, 240_000, n, 0.01, peak)
		assert.InEpsilon(t, peak, float64(around)/2000, 0.04, "tasks of 12 minutes around 14:00")
	}
	assert.InDelta(t, 1.2660658777520084, bessel(1), 1e-12)
}

func TestGamma_MeanAndSpread(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	for _, spread := range []float64{0, 0.2, 0.5, 1, 2} {
		const n = 100_000
		sum, squares := 0.0, 0.0
		for range n {
			x := gamma(random, 10, spread)
			sum, squares = sum+x, squares+x*x
		}
		mean := sum / n
		assert.InEpsilon(t, 10, mean, 0.02, spread)
		assert.InDelta(t, spread, math.Sqrt(max(0, squares/n-mean*mean))/mean, 0.02+spread*spread/50, spread)
	}
}

func TestHistogram_Quantiles(t *testing.T) {
	var h histogram
	for i := range 1000 {
		h.add(float64(i) / 100)
	}
	assert.InEpsilon(t, 5, h.quantile(0.5), 0.02)
	assert.InEpsilon(t, 9.9, h.quantile(0.99), 0.02)
	assert.InDelta(t, 9.99, h.quantile(1), 0.1)
	assert.InDelta(t, 4.995, h.mean(), 1e-9)
	assert.Zero(t, h.quantile(0))
	assert.Zero(t, (&histogram{}).quantile(0.5))
}

// What is suggested is enough, and not much more than that.
func TestReport_SuggestionIsEnough(t *testing.T) {
	var out bytes.Buffer
	arguments := []string{"--values", "none.json", "--tasks", "20000"}
	require.Equal(t, exitProblems, run(t.Context(), append(arguments, "--json"), &out, &out), out.String())
	var r report
	require.NoError(t, json.Unmarshal(out.Bytes(), &r))
	assert.Equal(t, "slots", r.Limit)
	concurrency, ok := strings.CutPrefix(r.Suggestion, "set TASK_CONCURRENCY=")
	require.True(t, ok, r.Suggestion)
	out.Reset()
	require.Equal(t, 0, run(t.Context(), append(arguments, "--concurrency", concurrency), &out, &out), out.String())
	assert.Contains(t, out.String(), "limit: none")
	assert.Contains(t, out.String(), "to change: nothing: slots is full first")

	// Memory and open files bound the slots of one processor.
	c := ideal(1, 3, 1, 0)
	c.Costs.MemoryTask, c.Memory = 1, 100
	assert.Equal(t, "run 5 processors with TASK_CONCURRENCY=100", c.suggestSlots(500))
	c.Memory, c.Files = 10_000, 250
	assert.Equal(t, "run 2 processors with TASK_CONCURRENCY=250", c.suggestSlots(500))
	c.Files = 10_000
	assert.Equal(t, "run 2 processors with TASK_CONCURRENCY=600", c.suggestSlots(1200))
}

func TestReport_MemoryAndFiles(t *testing.T) {
	c := ideal(10, 100, 5, 0)
	c.Day, c.Tasks = 100, 1000
	c.Costs.MemoryIdle, c.Costs.MemoryTask, c.Memory = 30, 1, 60
	r := newReport(simulate(c))
	assert.Equal(t, "memory", r.Limit)
	assert.Contains(t, r.Suggestion, "130 MiB")
	c.Memory, c.Files = 1000, 20
	r = newReport(simulate(c))
	assert.Equal(t, "open files", r.Limit)
	assert.Contains(t, r.Suggestion, "open files of each processor to 100")
}

func TestRun_WrongUsage(t *testing.T) {
	for _, arguments := range [][]string{{"--tasks", "0"}, {"--tasks", "NaN"}, {"--peak", "0.5"}, {"--concurrency", "1001"}, {"--processors", "0"}, {"--what"}, {"more"},
		{"--enqueue-ms", "-1"}, {"--seconds", "x"}} {
		var out, errs bytes.Buffer
		assert.Equal(t, exitUsage, run(t.Context(), arguments, &out, &errs), arguments)
		assert.Empty(t, out.String())
		assert.Contains(t, errs.String(), "wrong usage")
		require.Equal(t, exitUsage, run(t.Context(), append([]string{"--json"}, arguments...), &out, &errs))
		var document struct {
			Error struct {
				Message string
				Code    int `json:"exit_code"`
			}
		}
		require.NoError(t, json.Unmarshal(out.Bytes(), &document), out.String())
		assert.Equal(t, exitUsage, document.Error.Code)
		assert.NotEmpty(t, document.Error.Message)
	}
}

func TestScript_Help(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "../../scripts/simulate.sh", "--help").CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Contains(t, string(out), "./scripts/simulate.sh [--tasks 20000]")
	assert.Contains(t, string(out), "--check  ")
	assert.Contains(t, string(out), "--picture-ms N")
}
