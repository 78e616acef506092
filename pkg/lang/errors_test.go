package lang_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/lang"
)

func TestErrorIn(t *testing.T) {
	full := lang.Errorf(lang.Text{EN: "the disk is full", ZH: "磁盘已满"})
	reading := lang.Errorf(lang.Text{EN: "read %s: %w", ZH: "读取 %s：%w"}, "a.txt", io.EOF)
	nested := lang.Errorf(lang.Text{EN: "job %d: %w", ZH: "作业 %d：%w"}, 7, full)
	for name, c := range map[string]struct {
		err    error
		en, zh string
	}{
		"a text":                 {full, "the disk is full", "磁盘已满"},
		"with a cause of Go":     {reading, "read a.txt: EOF", "读取 a.txt：EOF"},
		"one in the other":       {nested, "job 7: the disk is full", "作业 7：磁盘已满"},
		"wrapped by fmt":         {fmt.Errorf("save: %w; try again", nested), "save: job 7: the disk is full; try again", "save: 作业 7：磁盘已满; try again"},
		"joined":                 {errors.Join(full, io.EOF), "the disk is full\nEOF", "磁盘已满\nEOF"},
		"two of them":            {fmt.Errorf("%w and %w", full, reading), "the disk is full and read a.txt: EOF", "磁盘已满 and 读取 a.txt：EOF"},
		"without a text":         {io.EOF, "EOF", "EOF"},
		"without Chinese of its": {lang.Errorf(lang.Text{EN: "x %d"}, 1), "x 1", "x 1"},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, c.en, c.err.Error())
			assert.Equal(t, c.en, lang.ErrorIn(c.err, lang.EN))
			assert.Equal(t, c.zh, lang.ErrorIn(c.err, lang.ZH))
		})
	}
	assert.ErrorIs(t, nested, full)
	assert.ErrorIs(t, fmt.Errorf("save: %w", reading), io.EOF)
}
