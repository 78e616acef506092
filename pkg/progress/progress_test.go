package progress_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/progress"
)

func TestBar_Terminal(t *testing.T) {
	var out bytes.Buffer
	b := progress.New(&out, true, 4)
	b.Add(1)
	b.Add(3)
	b.Close()
	shown := out.String()
	assert.Contains(t, shown, "  0% [")
	assert.Contains(t, shown, "100% ["+strings.Repeat("=", 40)+"] 4/4 tasks")
	assert.True(t, strings.HasSuffix(shown, "\n"))
	assert.Equal(t, 1, strings.Count(shown, "\n"))
}

func TestBar_File(t *testing.T) {
	var out bytes.Buffer
	b := progress.New(&out, false, 4)
	b.Add(1)
	b.Add(3)
	b.Close()
	assert.Equal(t, "4 of 4 tasks done\n", out.String())
}

func TestBar_NothingToDo(t *testing.T) {
	var out bytes.Buffer
	progress.New(&out, true, 0).Close()
	assert.Contains(t, out.String(), "0/0 tasks")
}
