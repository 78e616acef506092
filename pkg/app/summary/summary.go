// Package summary describes the state of this host's processor and the result of a monitor pass, in English or Chinese.
package summary

import (
	"time"

	"imagetasks/pkg/app/render"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/monitor"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/supervise"
)

// Pass describes a pass of the monitor in one line.
func Pass(s monitor.Summary) lang.Message {
	msg := lang.NewMessage
	repaired := msg(textRepaired, msg(textStuckFailed, s.StuckFailed), msg(textCredits, s.CreditsRefunded), msg(textStuckRemain, s.StuckRemaining))
	if s.DryRun {
		repaired = msg(textWouldRepair, msg(textStuckWouldFail, s.StuckFailed), msg(textCredits, s.CreditsRefunded))
	}
	if s.OverdueFailed > 0 {
		overdue := textOverdueFailed
		if s.DryRun {
			overdue = textOverdueWouldFail
		}
		repaired = msg(textList, repaired, msg(overdue, s.OverdueFailed))
	}
	if s.SetAsideFailed > 0 {
		repaired = msg(textList, repaired, msg(textSetAsideFailed, s.SetAsideFailed))
	}
	if b := s.Bridge; b.Active {
		repaired = msg(textList, repaired, msg(textBridge, b.Applied, msg(textCredits, b.Refunded), b.Owed))
	}
	pending := msg(textPending, s.Pending)
	if s.Due > 0 {
		pending = msg(textPendingDue, s.Pending, time.Duration(s.OldestDueSeconds*float64(time.Second)).Round(time.Second))
	}
	if !s.PausedAt.IsZero() {
		pending = msg(textList, pending, msg(textPaused, s.PausedBy))
	}
	if s.Pruned.Tasks > 0 {
		repaired = msg(textList, repaired, msg(textPruned, s.Pruned.Tasks))
	}
	return msg(textPass, repaired, pending, msg(textProcessing, s.Processing), monitoredProcessor(s.Processor), api(s))
}

func monitoredProcessor(p monitor.Processor) lang.Message {
	state := LocalProcessor(p.LocalProcessor)
	action, ok := actionTexts[p.Action]
	if !ok {
		return state
	}
	if p.Action == monitor.ActionRestarted {
		return lang.NewMessage(textList, state, lang.NewMessage(action, p.RestartPID))
	}
	return lang.NewMessage(textList, state, lang.NewMessage(action))
}

// LocalProcessor describes the state of this host's processor.
func LocalProcessor(p overview.LocalProcessor) lang.Message {
	switch p.Verdict {
	case supervise.Running:
		return lang.NewMessage(textRunning, p.PID)
	case supervise.Hung:
		return lang.NewMessage(textHung, p.PID, p.Silence().Round(time.Second))
	case supervise.StoppedByOperator:
		return lang.NewMessage(textStopped, p.Stopped.By, render.DateTime(p.Stopped.At))
	case supervise.NeverStarted:
		return lang.NewMessage(textNeverStarted)
	}
	return lang.NewMessage(textDead)
}

func api(s monitor.Summary) lang.Message {
	at := s.API.At.Local().Format(time.TimeOnly)
	switch {
	case !s.APIUnreachableSince.IsZero():
		return lang.NewMessage(textAPIUnreachable, s.APIUnreachableSince.Local().Format(time.TimeOnly))
	case s.API.At.IsZero():
		return lang.NewMessage(textAPIUnchecked)
	case s.API.OK:
		return lang.NewMessage(textAPIResponded, at)
	}
	return lang.NewMessage(textAPIFailed, at)
}

var actionTexts = map[monitor.Action]lang.Text{
	monitor.ActionUnchanged:        {EN: "left unchanged", ZH: "未做处理"},
	monitor.ActionRestarted:        {EN: "restarted (pid %d)", ZH: "已重启（进程 %d）"},
	monitor.ActionRestartFailed:    {EN: "restart failed", ZH: "重启失败"},
	monitor.ActionRestartLimit:     {EN: "not restarted again", ZH: "不再重启"},
	monitor.ActionHandledElsewhere: {EN: "already handled by another process", ZH: "已由其他进程处理"},
}

var (
	textPass = lang.Text{EN: "pass: %s; %s, %s; processor %s; %s", ZH: "本次监控：%s；%s，%s；处理器%s；%s"}
	textList = lang.Text{EN: "%s, %s", ZH: "%s，%s"}

	textRepaired         = lang.Text{EN: "%s, %s refunded, %s", ZH: "%s，退还%s，%s"}
	textWouldRepair      = lang.Text{EN: "dry run: %s, %s would be refunded", ZH: "试运行：%s，将退还%s"}
	textStuckFailed      = lang.Text{EN: "%d stuck tasks failed", One: "%d stuck task failed", ZH: "%d 个卡住的任务已判为失败"}
	textStuckWouldFail   = lang.Text{EN: "%d stuck tasks would fail", One: "%d stuck task would fail", ZH: "将有 %d 个卡住的任务判为失败"}
	textStuckRemain      = lang.Text{EN: "%d remaining", ZH: "剩余 %d 个"}
	textCredits          = lang.Text{EN: "%d credits", One: "%d credit", ZH: " %d 个积分"}
	textOverdueFailed    = lang.Text{EN: "%d overdue tasks failed", One: "%d overdue task failed", ZH: "%d 个超时未开始的任务已判为失败"}
	textOverdueWouldFail = lang.Text{EN: "%d overdue tasks would fail", One: "%d overdue task would fail", ZH: "将有 %d 个超时未开始的任务判为失败"}
	textSetAsideFailed   = lang.Text{EN: "%d tasks that were set aside failed", One: "%d task that was set aside failed", ZH: "%d 个已搁置的任务已判为失败"}
	textPending          = lang.Text{EN: "%d pending", ZH: "%d 个待处理"}
	textPendingDue       = lang.Text{EN: "%d pending (oldest due for %s)", ZH: "%d 个待处理（最早的已等待 %s）"}
	textPaused           = lang.Text{EN: "claiming paused by %s", ZH: "%s 已暂停领取任务"}
	textPruned           = lang.Text{EN: "%d old tasks deleted", One: "%d old task deleted", ZH: "已删除 %d 个旧任务"}
	textBridge           = lang.Text{EN: "bridge: the ends of %d tasks written, %s refunded, %d still to be written", One: "bridge: the end of %d task written, %s refunded, %d still to be written", ZH: "桥接：已写入 %d 个任务结果，退还%s，待写入 %d 个"}
	textProcessing       = lang.Text{EN: "%d processing", ZH: "%d 个处理中"}

	textRunning      = lang.Text{EN: "running (pid %d)", ZH: "正在运行（进程 %d）"}
	textHung         = lang.Text{EN: "hung (pid %d, no heartbeat for %s)", ZH: "已挂起（进程 %d，%s没有心跳）"}
	textDead         = lang.Text{EN: "not running (ended unexpectedly)", ZH: "未运行（意外退出）"}
	textNeverStarted = lang.Text{EN: "never started in the background on this host", ZH: "从未在本机后台启动"}
	textStopped      = lang.Text{EN: "stopped by %s at %s", ZH: "由 %s 于 %s 停止"}

	textAPIUnchecked   = lang.Text{EN: "API not checked yet", ZH: "API 尚未检查"}
	textAPIResponded   = lang.Text{EN: "API responded at %s", ZH: "API 于 %s 有响应"}
	textAPIFailed      = lang.Text{EN: "API check failed at %s", ZH: "API 于 %s 检查失败"}
	textAPIUnreachable = lang.Text{EN: "API unreachable since %s", ZH: "API 自 %s 起不可达"}
)
