package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

// TestMain lets the contenders' processes be started from the test binary, as they are from the program.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && (os.Args[1] == "contender" || os.Args[1] == "latency") {
		if err := dispatch(context.Background(), os.Args[1:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// What is measured with a database, small and without durable writes, which the measurements themselves have.
func TestMeasurements(t *testing.T) {
	settings := maps.Clone(serverSettings)
	settings["fsync"], settings["full_page_writes"] = "off", "off"
	s, err := startServer(t.Context(), settings)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.stop()) })
	t.Run("contenders work all tasks", func(t *testing.T) { testContenders(t, s) })
	t.Run("a copied history passes the audit", func(t *testing.T) { testHistory(t, s) })
	t.Run("the limit of the sweep keeps the same books", func(t *testing.T) { testSweepLimit(t, s) })
}

// Each contender works all of its tasks, and what it did is measured and audited.
func testContenders(t *testing.T, s *server) {
	const n = 100
	ctx := t.Context()
	ours, err := newOurs(ctx, s, n, users)
	require.NoError(t, err)
	river, err := newRiver(ctx, s, n)
	require.NoError(t, err)
	two := load{Kind: "ours", Concurrency: 50}
	for _, c := range []struct {
		template string
		loads    []load
	}{
		{ours, []load{two, two}},
		{ours, []load{{Kind: "ours", Concurrency: 100, Paid: true}}},
		{river, []load{{Kind: "river-pgx"}}},
		{river, []load{{Kind: "river-pq"}}},
	} {
		r, err := s.workCopy(ctx, c.template, n, c.loads...)
		require.NoError(t, err, c.loads)
		assert.Equal(t, n, r.Tasks)
		assert.Positive(t, r.Elapsed)
		assert.Positive(t, r.CPU)
	}
	_, err = newContender(ctx, load{Kind: "nothing"})
	assert.ErrorContains(t, err, "unknown contender")

	limit, err := s.limit(ctx, ours, n, 1)
	require.NoError(t, err)
	assert.Equal(t, n, limit.Tasks)
	values, err := latencyChild(ctx, load{Kind: "ours", Name: "bench", URL: s.URL(ours), Concurrency: 1, Samples: 2})
	require.NoError(t, err)
	assert.Len(t, values, 2)
}

// A copied history passes the audit: the copy has all columns that tasks and their ledger have.
func testHistory(t *testing.T, s *server) {
	ctx := t.Context()
	name, err := newHistory(ctx, s, 2*workedTasks)
	require.NoError(t, err)
	require.NoError(t, auditOurs(ctx, s, name))
	st, err := store.Open(store.Config{URL: s.URL(name)})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, st.Close()) })
	states, err := st.CountByState(ctx)
	require.NoError(t, err)
	assert.EqualValues(t, map[string]int{"completed": 2 * workedTasks}, toText(states))
}

func toText[K ~string](counts map[K]int) map[string]int {
	out := map[string]int{}
	for k, n := range counts {
		if n > 0 {
			out[string(k)] = n
		}
	}
	return out
}

// The plain statement that is the limit of the sweep does what the sweep does.
func testSweepLimit(t *testing.T, s *server) {
	const n = 60
	ctx := t.Context()
	template, err := newOurs(ctx, s, n, 7)
	require.NoError(t, err)
	require.NoError(t, s.abandonAll(ctx, template, n))
	for _, sweep := range []func(database string) error{
		func(database string) error { return s.sweepAll(ctx, database, n) },
		func(database string) error { return s.exec(ctx, database, sweepLimit) },
	} {
		name, err := copyOurs(ctx, s, template)
		require.NoError(t, err)
		require.NoError(t, sweep(name))
		require.NoError(t, s.requireSwept(ctx, name, n))
	}
	assert.ErrorContains(t, s.requireSwept(ctx, template, n), "0 refunds")
}

func TestOptions_RowsAndSizes(t *testing.T) {
	o, err := parseOptions(nil, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, options{pairs: 5, write: "docs"}, o)
	o, err = parseOptions([]string{"--quick", "--rows", "noop,cpu"}, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, options{quick: true, pairs: 3, rows: []string{"noop", "cpu"}}, o)
	var help bytes.Buffer
	_, err = parseOptions([]string{"--help"}, &help)
	require.ErrorIs(t, err, flag.ErrHelp)
	for _, arguments := range [][]string{{"--rows", "what"}, {"--quick", "--full"}, {"--pairs", "-1"}, {"more"}, {"--unknown"}} {
		_, err := parseOptions(arguments, io.Discard)
		require.Error(t, err, arguments)
		assert.NotErrorIs(t, err, flag.ErrHelp)
	}
	var all []string
	for _, g := range groups {
		all = append(all, g.rows...)
	}
	assert.ElementsMatch(t, tableOrder, all)
	for _, name := range all {
		assert.Contains(t, help.String(), name)
	}
}

func TestScript_Help(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "../scripts/bench.sh", "--help").CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Contains(t, string(out), "./scripts/bench.sh [--quick | --full]")
	assert.Contains(t, string(out), "--pairs N")
}

func TestQuantile_Interpolates(t *testing.T) {
	values := []float64{4, 1, 3, 2}
	assert.InDelta(t, 2.5, quantile(values, 0.5), 1e-9)
	assert.InDelta(t, 1, quantile(values, 0), 1e-9)
	assert.InDelta(t, 4, quantile(values, 1), 1e-9)
	assert.InDelta(t, 3.97, quantile(values, 0.99), 1e-9)
	assert.True(t, math.IsNaN(quantile(nil, 0.5)))
}

var exampleReport = report{Pairs: 2, Rows: []row{{
	Name: "noop", Title: "no-op `tasks` < 2", Detail: "the detail", Audited: true,
	Series: []series{{"ours", "tasks/s", []float64{30000, 36000}}, {"River, pgx", "tasks/s", []float64{11000}}, {"ours, CPU", "µs", []float64{7.126}}},
	Aims: []aim{
		{What: "ratio", Value: 2.999, Bound: 3, Against: "River, pgx"},
		{What: "peak", Value: 127, Unit: "MiB", Bound: 128, AtMost: true},
		{What: "ratio", Value: 0.5, Stated: true, Against: "graphile-worker"},
	},
}}}

func TestReport_SaysWhatIsNotMet(t *testing.T) {
	page := exampleReport.markdown("benchmarks")
	assert.Contains(t, page, "| no-op `tasks` < 2 | ours: 33,000 tasks/s (30,000 to 36,000)<br>River, pgx: 11,000 tasks/s<br>ours, CPU: 7.13 µs | "+
		"≥ 3 × River, pgx<br>peak ≤ 128 MiB<br>stated: × graphile-worker | **3.00, not met**<br>127, met<br>0.50 |")
	assert.Contains(t, page, "- *no-op `tasks` < 2*: the detail. The audit passed at the end.")
	assert.Contains(t, page, "](benchmarks/noop.svg)")
	assert.NotContains(t, exampleReport.markdown(""), ".svg")
}

func TestReplaceSection_KeepsTheRest(t *testing.T) {
	page := "before\n" + sectionBegin + "\nold\n" + sectionEnd + "\nafter\n"
	once, err := replaceSection(page, "new")
	require.NoError(t, err)
	assert.Equal(t, "before\n"+sectionBegin+"\n\nnew\n\n"+sectionEnd+"\nafter\n", once)
	twice, err := replaceSection(once, "new\n")
	require.NoError(t, err)
	assert.Equal(t, once, twice)
	_, err = replaceSection("no markers", "new")
	assert.Error(t, err)
}

func TestPlot_IsValid(t *testing.T) {
	plot := exampleReport.Rows[0].plot()
	decoder := xml.NewDecoder(strings.NewReader(plot))
	for {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err, plot)
	}
	assert.Contains(t, plot, ">33,000</text>")
	assert.NotContains(t, plot, "CPU", "a series of another unit is left out")
	assert.Equal(t, 3, strings.Count(plot, "<circle"))
}
