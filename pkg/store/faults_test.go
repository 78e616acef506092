package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgfault"
	"imagetasks/pkg/store"
)

// faultBench is a database with one Store beside a pgfault.Proxy and one through it. Cases use it one after the other.
type faultBench struct {
	*testStore
	proxy   *pgfault.Proxy
	faulted *store.Store
}

func newFaultBench(t *testing.T) *faultBench {
	t.Helper()
	b := &faultBench{testStore: fresh(t)}
	var through string
	var err error
	b.proxy, through, err = pgfault.StartFor(b.url)
	require.NoError(t, err)
	b.faulted, err = store.Open(store.Config{URL: through, MaxConns: 2, StatementTimeout: time.Minute})
	require.NoError(t, err)
	b.faulted.RepeatSoon()
	t.Cleanup(func() { assert.NoError(t, b.faulted.Close()); assert.NoError(t, b.proxy.Close()) })
	return b
}

// faultTables are the tables that scenarios write to. Those of the bridge are emptied by bridged.
var faultTables = []string{"tasks", "inputs", "credits", "ledger", "keys", "calls", "processors", "control", "set_aside", "pending_results", "models", "endpoints",
	"results", "events", "operations", "figures", "alert_told", "alert_receivers", "alerts"}

// reset empties the tables.
func (b *faultBench) reset() {
	b.tb.Helper()
	statement := "begin; set local session_replication_role = replica;"
	for _, table := range faultTables {
		statement += "delete from imagetasks." + table + ";"
	}
	statement += "insert into imagetasks.control (database_identity) values (imagetasks.database_identity());"
	for priority := range 10 {
		statement += fmt.Sprintf("select setval('imagetasks.virtual_time_%d', 0, false);", priority)
	}
	b.exec(statement + "commit")
}

// faultResult is what a call returned and left behind, in a form that is the same for each run of a case.
type faultResult struct{ Result, Err, State string }

var (
	faultTime  = regexp.MustCompile(`"\d{4}-\d\d-\d\d[T ][^"]*"`)
	faultUUID  = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	faultAge   = regexp.MustCompile(`"(age|seconds|age_seconds|expected_wait_seconds|Median|P95)": ?(\[[^\]]*\]|-?[0-9.e-]+)`)
	faultEvent = regexp.MustCompile(`evt_[0-9a-f]{32}`)
	faultBytea = regexp.MustCompile(`\\\\x[0-9a-f]{64}`)
)

// plain removes times, and names tasks by their prompts.
func (b *faultBench) plain(text string, tasks []string) string {
	for n, id := range tasks {
		text = strings.ReplaceAll(text, id, fmt.Sprintf("task%d", n+1))
	}
	text = faultTime.ReplaceAllString(text, `"TIME"`)
	text = faultEvent.ReplaceAllString(text, "EVENT")
	text = faultAge.ReplaceAllString(text, `"$1": AGE`)
	return faultBytea.ReplaceAllString(faultUUID.ReplaceAllString(text, "UUID"), "HASH")
}

// read returns all rows, table by table, and the tasks in the order of their prompts. One statement: there are thousands of cases.
func (b *faultBench) read() (rows map[string]string, tasks []string) {
	b.tb.Helper()
	parts := []string{"'tasks in order', coalesce((select string_agg(task_id, e'\n' order by prompt, task_id) from imagetasks.tasks), '')"}
	for _, table := range faultTables {
		// A statement that was rolled back uses up an id; installation and secret are new in each run.
		drop := map[string]string{"ledger": " - 'id'", "operations": " - 'id'", "control": " - 'installation_id' - 'picture_secret'"}[table]
		parts = append(parts, fmt.Sprintf(`'%s', coalesce((select string_agg((to_jsonb(t)%s)::text, e'\n') from imagetasks.%[1]s t), '')`, table, drop))
	}
	var text string
	require.NoError(b.tb, b.raw.QueryRowContext(b.ctx, "select json_build_object("+strings.Join(parts, ", ")+")").Scan(&text))
	require.NoError(b.tb, json.Unmarshal([]byte(text), &rows))
	if all := rows["tasks in order"]; all != "" {
		tasks = strings.Split(all, "\n")
	}
	return rows, tasks
}

// state returns all rows.
func (b *faultBench) state() string { b.tb.Helper(); return b.stateOf(b.read()) }

func (b *faultBench) stateOf(rows map[string]string, tasks []string) string {
	var lines []string
	for _, table := range faultTables {
		part := strings.Split(b.plain(rows[table], tasks), "\n")
		slices.Sort(part)
		lines = append(append(lines, table+":"), part...)
	}
	return strings.Join(lines, "\n")
}

func (b *faultBench) result(result any, err error) faultResult {
	b.tb.Helper()
	text, jsonErr := json.Marshal(result)
	require.NoError(b.tb, jsonErr)
	rows, tasks := b.read()
	r := faultResult{Result: b.plain(string(text), tasks), State: b.stateOf(rows, tasks)}
	if err != nil {
		r.Err = b.plain(err.Error(), tasks)
	}
	return r
}

// Every statement of the store goes through every fault of a connection: the caller gets the same result, and the rows are the same, as
// without a fault. Where that can't be, the error says so, and a repeat of the call gets there.
func TestStatements_SurviveFaults(t *testing.T) {
	scenarios := faultScenarios()
	probe := fresh(t)
	texts := probe.Statements()
	for name := range texts {
		_, ok := scenarios[name]
		require.True(t, ok, "the statement %q has no scenario here", name)
	}
	names := make(chan string, len(scenarios))
	for name := range scenarios {
		names <- name
	}
	close(names)
	// Most of the time is spent waiting, so that more run at a time than t.Parallel would let.
	var workers sync.WaitGroup
	for range 6 {
		b := newFaultBench(t)
		workers.Go(func() {
			for name := range names {
				t.Run(name, func(t *testing.T) {
					c := &faultCase{faultBench: b, t: t, name: name, scenario: scenarios[name], match: func(sql string) bool { return sql == texts[name] }}
					if contains, ok := strings.CutPrefix(name, "contains: "); ok {
						c.match = func(sql string) bool { return strings.Contains(sql, contains) }
					}
					c.run()
				})
			}
		})
	}
	workers.Wait()
}

// faultCase is one statement with its scenario.
type faultCase struct {
	*faultBench
	t        *testing.T
	name     string
	scenario faultScenario
	match    func(sql string) bool
	golden   faultResult
}

func (c *faultCase) run() {
	c.golden, _ = c.call(c.t, nil, time.Minute)
	for _, m := range []struct {
		fault pgfault.Fault
		times int
		lost  bool // the server executes the statement
	}{
		{pgfault.LostFIN, 1, true}, {pgfault.LostFIN, 3, true}, {pgfault.LostRST, 1, true}, {pgfault.LostRST, 3, true},
		{pgfault.Fatal, 1, true}, {pgfault.Fatal, 3, true}, {pgfault.Cut, 1, false}, {pgfault.Cut, 3, false},
	} {
		c.t.Run(fmt.Sprintf("%s %d", m.fault, m.times), func(t *testing.T) {
			got, _ := c.call(t, &pgfault.Rule{Fault: m.fault, Times: m.times}, time.Minute)
			c.compare(t, got, m.lost)
		})
	}
	c.t.Run("silence", c.silence)
	c.t.Run("error", c.refused)
}

// call runs the scenario from the start, with the fault.
func (c *faultCase) call(t *testing.T, rule *pgfault.Rule, limit time.Duration) (faultResult, error) {
	t.Helper()
	call := c.begin(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if rule != nil {
		rule.Match = c.match
		injection := c.proxy.Add(*rule)
		defer injection.Remove()
		defer func() { assert.Equal(t, max(rule.Times, 1), injection.Hits(), "the fault was applied") }()
	}
	result, err := call(ctx, c.faulted)
	return c.result(result, err), err
}

// begin prepares the rows.
func (c *faultCase) begin(t *testing.T) faultCall {
	t.Helper()
	c.tb, c.ctx = t, t.Context()
	c.reset()
	return c.scenario(c.faultBench)
}

func (c *faultCase) compare(t *testing.T, got faultResult, lost bool) {
	t.Helper()
	assert.Equal(t, c.golden.Result, got.Result)
	assert.Equal(t, c.golden.Err, got.Err)
	assert.Equal(t, c.golden.State, got.State)
}

func (c *faultCase) silence(t *testing.T) {
	call := c.begin(t)
	injection := c.proxy.Add(pgfault.Rule{Fault: pgfault.LostSilence, Match: c.match, Times: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := call(ctx, c.faulted)
	took := time.Since(began)
	injection.Remove()
	assert.Less(t, took, 5*time.Second)
	lost, ok := errors.AsType[*store.LostAnswerError](err)
	require.True(t, ok, "%T: %v", err, err)
	assert.Positive(t, lost.Silence, "%v", err)
	assert.True(t, store.IsUnavailable(err))
	assert.Equal(t, 1, injection.Hits())
	result, err := call(t.Context(), c.faulted)
	c.compare(t, c.result(result, err), true)
}

func (c *faultCase) refused(t *testing.T) {
	call := c.begin(t)
	before := c.state()
	injection := c.proxy.Add(pgfault.Rule{Fault: pgfault.Error, SQLState: "55P03", Match: c.match})
	defer injection.Remove()
	_, err := call(t.Context(), c.faulted)
	require.Error(t, err)
	assert.True(t, store.IsTransient(err), "%v", err)
	assert.False(t, store.IsUnavailable(err), "%v", err)
	assert.Equal(t, 1, injection.Hits(), "an error with which the database answers is not repeated")
	assert.Equal(t, before, c.state())
}
