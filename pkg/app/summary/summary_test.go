package summary_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/app/summary"
	"imagetasks/pkg/bridgesync"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/monitor"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/supervise"
)

func TestPass(t *testing.T) {
	at := time.Date(2026, 11, 24, 15, 31, 27, 0, time.Local)
	running := monitor.Processor{LocalProcessor: overview.LocalProcessor{Verdict: supervise.Running, PID: 4159}}
	for name, c := range map[string]struct {
		figures monitor.Summary
		en, zh  string
	}{
		"nothing to do": {
			monitor.Summary{Processor: running, API: overview.APICheck{At: at, OK: true}},
			"pass: 0 stuck tasks failed, 0 credits refunded, 0 remaining; 0 pending, 0 processing; processor running (pid 4159); API responded at 15:31:27",
			"本次监控：0 个卡住的任务已判为失败，退还 0 个积分，剩余 0 个；0 个待处理，0 个处理中；处理器正在运行（进程 4159）；API 于 15:31:27 有响应",
		},
		"one of each": {
			monitor.Summary{StuckFailed: 1, CreditsRefunded: 1, OverdueFailed: 1, SetAsideFailed: 1, Pending: 3, Due: 2, OldestDueSeconds: 11, Processing: 1,
				Processor: monitor.Processor{LocalProcessor: overview.LocalProcessor{Verdict: supervise.Dead}, Action: monitor.ActionRestarted, RestartPID: 7}},
			"pass: 1 stuck task failed, 1 credit refunded, 0 remaining, 1 overdue task failed, 1 task that was set aside failed; 3 pending (oldest due for 11s), 1 processing; " +
				"processor not running (ended unexpectedly), restarted (pid 7); API not checked yet",
			"本次监控：1 个卡住的任务已判为失败，退还 1 个积分，剩余 0 个，1 个超时未开始的任务已判为失败，1 个已搁置的任务已判为失败；3 个待处理（最早的已等待 11 秒），1 个处理中；" +
				"处理器未运行（意外退出），已重启（进程 7）；API 尚未检查",
		},
		"bridge": {
			monitor.Summary{Processor: running, Bridge: bridgesync.Report{Active: true, Applied: 1, Refunded: 2, Owed: 3}},
			"pass: 0 stuck tasks failed, 0 credits refunded, 0 remaining, bridge: the end of 1 task written, 2 credits refunded, 3 still to be written; " +
				"0 pending, 0 processing; processor running (pid 4159); API not checked yet",
			"本次监控：0 个卡住的任务已判为失败，退还 0 个积分，剩余 0 个，桥接：已写入 1 个任务结果，退还 2 个积分，待写入 3 个；0 个待处理，0 个处理中；" +
				"处理器正在运行（进程 4159）；API 尚未检查",
		},
		"dry run": {
			monitor.Summary{DryRun: true, StuckFailed: 2, CreditsRefunded: 2, APIUnreachableSince: at,
				Processor: monitor.Processor{LocalProcessor: overview.LocalProcessor{Verdict: supervise.Hung, PID: 7, SilentSeconds: 190}, Action: monitor.ActionUnchanged}},
			"pass: dry run: 2 stuck tasks would fail, 2 credits would be refunded; 0 pending, 0 processing; processor hung (pid 7, no heartbeat for 3m10s), " +
				"left unchanged; API unreachable since 15:31:27",
			"本次监控：试运行：将有 2 个卡住的任务判为失败，将退还 2 个积分；0 个待处理，0 个处理中；处理器已挂起（进程 7，3 分 10 秒没有心跳），" +
				"未做处理；API 自 15:31:27 起不可达",
		},
	} {
		assert.Equal(t, c.en, summary.Pass(c.figures).In(lang.EN), name)
		assert.Equal(t, c.zh, summary.Pass(c.figures).In(lang.ZH), name)
	}
}
