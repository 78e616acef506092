package e2e_test

import (
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
)

// Texts for operators follow the language; documents for programs are always in English.
func TestOutput_Chinese(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.env["LANG"] = "zh_CN.UTF-8"
	w.insertStuck(2, 30)
	assert.Contains(t, w.run("fix-stuck-tasks", "--dry-run").is(3), "将有 2 个卡住的任务判为失败")
	assert.Contains(t, w.run("fix-stuck-tasks", "--limit", "1").is(3), "1 个卡住的任务已判为失败，退还 1 个积分，剩余 1 个")
	output := w.run("monitor-tasks").ok()
	assert.Contains(t, output, "本次监控：1 个卡住的任务已判为失败，退还 1 个积分，剩余 0 个；0 个待处理，0 个处理中；处理器从未在本机后台启动；API 于")
	screen := w.run("task-processor", "status").ok()
	for _, part := range []string{"处理器", "从未在本机后台启动", "任务", "2 个失败", "最近一小时", "经由代理 http://127", "本次监控：1 个", "一切正常。"} {
		assert.Contains(t, screen, part)
	}
	assert.Contains(t, w.run("task-processor", "status", "--lang", "en").ok(), "All is well.")

	for line := range strings.Lines(w.run("fix-stuck-tasks", "audit").ok()) {
		assert.Regexp(t, `^(✓ )?\p{Han}`, line, "each rule, and the result")
	}
	assert.Contains(t, w.run("task-processor", "credits", "grant", "--user", w.user, "--credits", "5").ok(), "已发放 5 个积分给")
	assert.Contains(t, w.run("task-processor", "credits", "show", "--user", w.user).ok(), "的余额：5 个积分")
	assert.Contains(t, w.run("task-processor", "migrate").ok(), "schema imagetasks 已是最新")
	assert.Contains(t, w.run("task-processor", "stop").ok(), "处理器未在运行")

	for _, program := range [][]string{{"fix-stuck-tasks", "--json"}, {"monitor-tasks", "--json"}} {
		for _, r := range w.run(program[0], program[1:]...).ok() {
			if unicode.Is(unicode.Han, r) {
				assert.Fail(t, "JSON is in English, whatever the language", "%s", program)
				break
			}
		}
	}
	assert.NotRegexp(t, `\p{Han}`, w.file("task-monitor.log"), "and so is the log")
}
