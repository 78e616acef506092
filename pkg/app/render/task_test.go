package render_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/app/render"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/store"
)

// What users and APIs name does not control the terminal of whoever looks at a task.
func TestTask_TextsDoNotControlTheTerminal(t *testing.T) {
	evil := "gpt\x1b]52;c;cm0gLXJm\x07\x1b[2J\u009b2J\u202e"
	var out strings.Builder
	render.Task(&out, store.TaskDetails{Model: evil, Prompt: "two\nlines " + evil, Outcomes: []store.Outcome{{Message: evil}}, TaskRow: store.TaskRow{Error: evil}}, nil, lang.EN)
	assert.Contains(t, out.String(), "gpt\ufffd]52;c;")
	assert.Contains(t, out.String(), "two\nlines")
	for _, c := range []string{"\x1b", "\x07", "\u009b", "\u202e"} {
		assert.NotContains(t, out.String(), c)
	}
	assert.Equal(t, "\x1b[31mred\x1b[0m", lang.Printable("\x1b[31mred\x1b[0m"), "the programs' own colors")
}
