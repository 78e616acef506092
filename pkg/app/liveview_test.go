package app_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/app"
)

// A line is cut by what it takes on the terminal, and what a task or an error holds moves no cursor.
func TestCut(t *testing.T) {
	for _, c := range []struct {
		line    string
		columns int
		want    string
	}{
		{"abc", 5, "abc"},
		{"abcdef", 5, "abcde"},
		{"队列abc", 5, "队列a"},
		{"队列", 3, "队"},
		{"\x1b[31mabc\x1b[0mdef", 4, "\x1b[31mabc\x1b[0md"},
		{"a\x1b[2Jb", 10, "a [2Jb"},
		{"a\x1b[999Cb\r\nc\x07\u009bd", 20, "a [999Cb  c  d"},
		{"a\x1b[3", 10, "a [3"},
		{"bad \xff text", 20, "bad � text"},
		{"", 3, ""},
	} {
		assert.Equal(t, c.want, app.Cut(c.line, c.columns), "%q", c.line)
	}
}
