package imageapi

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the generated files")

const optionsPage = "../../docs/options.md"

// replaceBetween replaces the lines between the comment that begins with name and the one that ends it.
func replaceBetween(t *testing.T, page, name, text string) string {
	t.Helper()
	_, rest, found := strings.Cut(page, "<!-- "+name+": generated ")
	require.True(t, found)
	head := page[:len(page)-len(rest)]
	first, rest, found := strings.Cut(rest, "\n")
	require.True(t, found)
	_, tail, found := strings.Cut(rest, "<!-- end of "+name+" -->")
	require.True(t, found)
	return head + first + "\n\n" + text + "\n<!-- end of " + name + " -->" + tail
}

func TestOptionsPage_IsUpToDate(t *testing.T) {
	before, err := os.ReadFile(optionsPage)
	require.NoError(t, err)
	want := replaceBetween(t, string(before), "options", optionsTable())
	want = replaceBetween(t, want, "sizes", sizesTable())
	if *update {
		require.NoError(t, os.WriteFile(optionsPage, []byte(want), 0o600))
	}
	got, err := os.ReadFile(optionsPage)
	require.NoError(t, err)
	assert.Equal(t, want, string(got), "%s differs from the table of models; run: go test ./pkg/imageapi -run OptionsPage -update", optionsPage)
}

// optionsTable has a row for the models that take the same values.
func optionsTable() string {
	var b strings.Builder
	columns := []string{"size", "quality", "background", "output_format", "moderation", "input_fidelity", "complexity"}
	fmt.Fprintf(&b, "| model | `%s` | input pictures |\n|%s\n", strings.Join(columns, "` | `"), strings.Repeat("---|", len(columns)+2))
	groups := map[string][]string{}
	for name, m := range models {
		sizes := m.sizes
		if m.freeSize {
			sizes = []string{"auto", "free"}
		}
		row := ""
		for _, values := range [][]string{sizes, m.qualities, m.backgrounds, m.formats, m.moderations, m.fidelities, m.complexities} {
			cell := "no"
			if len(values) > 0 {
				cell = strings.Join(values, ", ")
			}
			row += " | " + cell
		}
		inputs := "none"
		switch {
		case m.squarePNGOnly:
			inputs = fmt.Sprintf("%d square PNG", m.inputs)
		case m.inputs > 0:
			inputs = fmt.Sprintf("up to %d", m.inputs)
		}
		row += " | " + inputs + " |\n"
		groups[row] = append(groups[row], name)
	}
	rows := []string{}
	for row, names := range groups {
		slices.Sort(names)
		rows = append(rows, "| "+strings.Join(names, ", ")+row)
	}
	slices.Sort(rows)
	slices.Reverse(rows)
	return b.String() + strings.Join(rows, "")
}

// sizesTable has a row for each usual ratio and a column for the models that have the same sizes.
func sizesTable() string {
	columns := map[string][]string{}
	for name, m := range models {
		key := strings.Join(m.sizes, " ")
		if m.freeSize {
			key = "free"
		}
		columns[key] = append(columns[key], name)
	}
	var names []string
	for _, group := range columns {
		slices.Sort(group)
		names = append(names, strings.Join(group, ", "))
	}
	slices.Sort(names)
	slices.Reverse(names)
	var b strings.Builder
	fmt.Fprintf(&b, "| ratio | %s |\n|%s\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)+1))
	for _, ratio := range []string{"1:1", "5:4", "4:3", "3:2", "16:10", "16:9", "1.91:1", "2:1", "21:9", "2.39:1", "3:1", "4:1",
		"4:5", "3:4", "2:3", "10:16", "9:16", "1:2", "9:21", "1:3", "1:4", "square", "landscape", "portrait"} {
		b.WriteString("| " + ratio)
		for _, group := range names {
			model, _, _ := strings.Cut(group, ", ")
			o := Options{AspectRatio: ratio}
			b.WriteString(" | " + o.size(model))
			if o.SizeNote(model) != "" {
				b.WriteString(" \\*")
			}
		}
		b.WriteString(" |\n")
	}
	return b.String()
}

// The table of models has nothing that a page or a test would leave out.
func TestModels_AreDocumented(t *testing.T) {
	page, err := os.ReadFile(optionsPage)
	require.NoError(t, err)
	for _, name := range slices.Sorted(maps.Keys(models)) {
		assert.Contains(t, string(page), name)
	}
	for _, name := range optionNames {
		assert.Contains(t, string(page), name)
	}
}
