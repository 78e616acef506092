package monitor

import "imagetasks/pkg/lang"

// What a round says.
var (
	textSummary     = lang.Text{EN: "%s; %s, %d processing; processor %s; %s", ZH: "%s；%s，%d 个处理中；处理器%s；%s"}
	textRound       = lang.Text{EN: "round: %d stuck tasks failed, %d credits refunded, %d stuck left", ZH: "本轮：%d 个卡住的任务判为失败，退还 %d 个积分，还剩 %d 个卡住"}
	textDryRun      = lang.Text{EN: "dry run: %d stuck tasks would fail, %d credits would be refunded", ZH: "试运行：将有 %d 个卡住的任务判为失败，将退还 %d 个积分"}
	textExpired     = lang.Text{EN: "%d that waited for too long failed, %d credits refunded", ZH: "%d 个等待过久的任务判为失败，退还 %d 个积分"}
	textWouldExpire = lang.Text{EN: "%d that waited for too long would fail", ZH: "将有 %d 个等待过久的任务判为失败"}
	textPending     = lang.Text{EN: "%d pending", ZH: "%d 个等待"}
	textPendingDue  = lang.Text{EN: "%d pending (the oldest due for %s)", ZH: "%d 个等待（最早的已等 %s）"}
	textAndAction   = lang.Text{EN: "%s, %s", ZH: "%s，%s"}
	textBroken      = lang.Text{EN: "round: broken off; %s", ZH: "本轮中断：%s"}

	textAPIUnchecked = lang.Text{EN: "api not checked yet", ZH: "API 尚未检查"}
	textAPIAnswered  = lang.Text{EN: "api answered at %s", ZH: "API 于 %s 有回答"}
	textAPIFailed    = lang.Text{EN: "api failed at %s", ZH: "API 于 %s 没有回答"}

	textRunning   = lang.Text{EN: "running as pid %d", ZH: "正在运行，进程号 %d"}
	textHung      = lang.Text{EN: "hung: pid %d is silent for %s", ZH: "已挂起：进程 %d 已沉默 %s"}
	textDead      = lang.Text{EN: "dead", ZH: "已死"}
	textNever     = lang.Text{EN: "never started in the background here", ZH: "从未在本机后台启动"}
	textOnPurpose = lang.Text{EN: "stopped by an operator (%s) at %s", ZH: "由操作者（%s）于 %s 停止"}

	textLeft         = lang.Text{EN: "left as it is", ZH: "未作改动"}
	textNoMore       = lang.Text{EN: "no more restarts", ZH: "不再重启"}
	textNotRestarted = lang.Text{EN: "could not be restarted", ZH: "未能重启"}
	textSeenTo       = lang.Text{EN: "somebody else saw to it", ZH: "已由别人处理"}
	textRestarted    = lang.Text{EN: "restarted as pid %d", ZH: "已重启，进程号 %d"}

	textAsIs           = lang.Text{EN: "%s"}
	textStuckStill     = lang.Text{EN: "%d tasks are stuck still; run: fix-stuck-tasks", ZH: "还有 %d 个任务卡住；请运行：fix-stuck-tasks"}
	textRestartIt      = lang.Text{EN: "the processor is %s; run: task-processor restart", ZH: "处理器%s；请运行：task-processor restart"}
	textHungForeground = lang.Text{
		EN: "the processor is hung, and was not started by task-processor start; end process %d and start it as you did",
		ZH: "处理器已挂起，而且不是由 task-processor start 启动的；请结束进程 %d，并用原来的方式启动它"}
	textAPISilent   = lang.Text{EN: "the API did not answer at %s: %s; run: simple-test", ZH: "API 于 %s 没有回答：%s；请运行：simple-test"}
	textAPIUnusable = lang.Text{EN: "the API can't be used: %s; run: simple-test", ZH: "API 无法使用：%s；请运行：simple-test"}
)
