package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const scalingPage = "../../docs/scaling.md"

// The page has the tables that follow from the measured values. To write them: ./scripts/simulate.sh --write docs/scaling.md
func TestTables_UpToDate(t *testing.T) {
	page, err := os.ReadFile(scalingPage)
	require.NoError(t, err)
	section, err := tables("../../docs/benchmarks/values.json")
	require.NoError(t, err)
	replaced, err := replaceSection(string(page), section)
	require.NoError(t, err)
	assert.Equal(t, replaced, string(page), "run ./scripts/simulate.sh --write docs/scaling.md")
}

func TestReplaceSection_KeepsTheRest(t *testing.T) {
	page := "before\n" + sectionBegin + "\nold\n" + sectionEnd + "\nafter\n"
	once, err := replaceSection(page, "new")
	require.NoError(t, err)
	assert.Equal(t, "before\n"+sectionBegin+"\n\nnew\n\n"+sectionEnd+"\nafter\n", once)
	_, err = replaceSection("no markers", "new")
	assert.Error(t, err)
}

func TestFigures_FromTheFile(t *testing.T) {
	type series struct {
		Name   string    `json:"name"`
		Values []float64 `json:"values"`
	}
	type row struct {
		Name   string   `json:"name"`
		Title  string   `json:"title"`
		Series []series `json:"series"`
	}
	path := filepath.Join(t.TempDir(), "values.json")
	text, err := json.Marshal(map[string]any{"date": "2026-01-02", "cores": 4, "rows": []row{
		{"noop", "", []series{{"ours", []float64{30_000, 10_000, 20_000}}, {"River, pgx", []float64{1}}, {"ours, CPU of its processes", []float64{20}}}},
		{"paid", "", []series{{"ours, with a paid request", []float64{10_000}}, {"ours", []float64{1}}}},
		{"memory", "peak memory, 200 tasks in flight", []series{{"4 MiB base64", []float64{70, 90}}}},
	}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o600))
	f, err := readFigures(path)
	require.NoError(t, err)
	assert.Equal(t, "2026-01-02", f.Date)
	c := f.costs()
	assert.InDelta(t, 4.0/20_000-20e-6, c.Claim+c.Complete, 1e-12)
	assert.InDelta(t, 4.0/10_000-4.0/20_000, c.Request, 1e-12)
	assert.InDelta(t, 4/builtIn.Single, c.Enqueue, 1e-12, "a row that is missing is built in")
	assert.InDelta(t, (80-memoryIdle)/200.0, c.MemoryTask, 1e-12)

	missing, err := readFigures(filepath.Join(t.TempDir(), "values.json"))
	require.NoError(t, err)
	assert.Equal(t, builtIn, missing)
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, err = readFigures(path)
	assert.ErrorContains(t, err, "write them again with ./scripts/bench.sh")
}

// The names of rows and series are those that bench writes.
func TestFigures_NamesOfBench(t *testing.T) {
	sources, err := filepath.Glob("../*.go")
	require.NoError(t, err)
	all := ""
	for _, path := range sources {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		all += string(text)
	}
	var f figures
	for name := range f.series() {
		assert.True(t, strings.Contains(all, `Name: "`+name[0]+`"`), name)
		contender, value, _ := strings.Cut(name[1], ",") // bench may add the value to the contender's name
		assert.True(t, strings.Contains(all, `"`+name[1]+`"`) || strings.Contains(all, `"`+contender+`"`) && strings.Contains(all, `",`+value+`"`), name)
	}
}
