package app_test

import (
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/text/encoding/simplifiedchinese"

	"imagetasks/pkg/app/simpletest"
	"imagetasks/pkg/app/taskprocessor"
)

// What is printed is in the character set of the terminal: LC_ALL takes precedence over LC_CTYPE, and that over LANG.
func TestCharset(t *testing.T) {
	const han = "处理任务（默认命令）"
	inGBK, err := simplifiedchinese.GBK.NewEncoder().String(han)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		env  map[string]string
		want string
	}{
		"UTF-8":                     {map[string]string{"LANG": "zh_CN.UTF-8"}, han},
		"utf8 and a modifier":       {map[string]string{"LANG": "zh_CN.utf8@x"}, han},
		"no character set":          {map[string]string{"LANG": "zh_CN"}, han},
		"GBK":                       {map[string]string{"LANG": "zh_CN.GBK"}, inGBK},
		"GB18030":                   {map[string]string{"LANG": "zh_CN.gb18030"}, inGBK},
		"EUC-CN":                    {map[string]string{"LANG": "zh_CN.eucCN"}, inGBK},
		"Chinese messages, C":       {map[string]string{"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "process tasks (the default)"},
		"POSIX":                     {map[string]string{"LANG": "POSIX"}, "process tasks (the default)"},
		"Latin-1":                   {map[string]string{"LANG": "zh_CN.ISO-8859-1"}, "process tasks (the default)"},
		"the terminal is UTF-8":     {map[string]string{"LANG": "zh_CN.GBK", "LC_CTYPE": "zh_CN.UTF-8"}, han},
		"only messages are Chinese": {map[string]string{"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, han},
		"LC_ALL is English":         {map[string]string{"LC_ALL": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, "process tasks (the default)"},
		"none":                      {map[string]string{"LANG": ""}, "process tasks (the default)"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, _ := run(t, c.env, taskprocessor.New, "--help")
			assert.Zero(t, code)
			assert.Contains(t, stdout, c.want)
		})
	}
}

// In a character set without Chinese, --lang zh is not followed, and characters that it lacks are written so that they can be recognised.
func TestCharset_ASCII(t *testing.T) {
	env := map[string]string{"LC_ALL": "C"}
	for _, args := range [][]string{{"--help", "--lang", "zh"}, {"灯笼"}, {"help", "webhooks", "discard"}, {"help", "help"}} {
		_, stdout, stderr := run(t, env, taskprocessor.New, args...)
		for _, r := range stdout + stderr {
			require.LessOrEqual(t, r, rune(unicode.MaxASCII), stdout+stderr)
		}
	}
	_, _, stderr := run(t, env, taskprocessor.New, "灯笼")
	assert.Contains(t, stderr, `\u706f\u7b3c`)
	_, stdout, _ := run(t, env, simpletest.New, "--json", "灯笼")
	assert.Contains(t, stdout, "灯笼", "JSON is UTF-8")
}

// Arguments in GBK are understood.
func TestCharset_GBKArguments(t *testing.T) {
	argument, err := simplifiedchinese.GBK.NewEncoder().String("灯笼")
	require.NoError(t, err)
	_, _, stderr := run(t, map[string]string{"LANG": "zh_CN.GBK"}, taskprocessor.New, argument)
	decoded, err := simplifiedchinese.GBK.NewDecoder().String(stderr)
	require.NoError(t, err)
	assert.Contains(t, decoded, `未知的命令或参数 "灯笼"`)
}
