package taskprocessor

import (
	"imagetasks/pkg/lang"
	"imagetasks/pkg/task"
)

var (
	titleNone      = lang.Text{}
	titleProcessor = lang.Text{EN: "processor", ZH: "处理器"}
	titleTasks     = lang.Text{EN: "tasks", ZH: "任务"}
	titleQueue     = lang.Text{EN: "queue", ZH: "队列"}
	titleLastHour  = lang.Text{EN: "last hour", ZH: "最近一小时"}
	titleRefunds   = lang.Text{EN: "refunds", ZH: "退款"}
	titleAPI       = lang.Text{EN: "api", ZH: "API"}
	titleProxies   = lang.Text{EN: "proxies", ZH: "代理"}
	titleRate      = lang.Text{EN: "rate", ZH: "速率"}
	titleMonitor   = lang.Text{EN: "monitor", ZH: "监控"}
	titleCron      = lang.Text{EN: "cron", ZH: "cron"}
	titleChecks    = lang.Text{EN: "checks", ZH: "检查"}
)

var stateNames = map[task.State]lang.Text{
	task.Pending:    {EN: "pending", ZH: "等待"},
	task.Processing: {EN: "processing", ZH: "处理中"},
	task.Completed:  {EN: "completed", ZH: "完成"},
	task.Failed:     {EN: "failed", ZH: "失败"},
	task.Cancelled:  {EN: "cancelled", ZH: "取消"},
}

var (
	textPlain = lang.Text{EN: "%s"}
	textComma = lang.Text{EN: ", ", ZH: "，"}

	textSemicolon = lang.Text{EN: "; ", ZH: "；"}
	textCount     = lang.Text{EN: "%d %s", ZH: "%d 个%s"}

	textOnPurpose = lang.Text{EN: "stopped by an operator (%s) at %s", ZH: "由操作者（%s）于 %s 停止"}
	textNever     = lang.Text{EN: "never started in the background here", ZH: "从未在本机后台启动"}
	textDead      = lang.Text{EN: "dead", ZH: "已死"}
	textRunning   = lang.Text{EN: "running", ZH: "正在运行"}
	textHung      = lang.Text{EN: "hung", ZH: "已挂起"}
	textHere      = lang.Text{EN: "%s, pid %d, since %s, version %s, last heartbeat %s ago; %d of %d in hand",
		ZH: "%s，进程号 %d，启动于 %s，版本 %s，最近一次心跳在 %s 之前；手上 %d / %d 个任务"}
	textNoBeat = lang.Text{EN: "%s, pid %d, no heartbeat yet", ZH: "%s，进程号 %d，尚无心跳"}
	textAlso   = lang.Text{EN: "also %s, pid %d, since %s, last heartbeat %s ago", ZH: "另有 %s，进程号 %d，启动于 %s，最近一次心跳在 %s 之前"}

	textQueue    = lang.Text{EN: "%d due, the oldest for %s; %d stuck", ZH: "%d 个到期，最早的已等 %s；%d 个卡住"}
	textLastHour = lang.Text{EN: "%d %s, median %s, p95 %s", ZH: "%d 个%s，中位数 %s，p95 %s"}
	textRefunds  = lang.Text{EN: "%d today, %d credits", ZH: "今天 %d 笔，%d 个积分"}

	textReached    = lang.Text{EN: "reached %s", ZH: "%s"}
	textThrough    = lang.Text{EN: "through %s", ZH: "经由代理 %s"}
	textDirectly   = lang.Text{EN: "directly, without a proxy", ZH: "直接连接，不经代理"}
	textNotAtAll   = lang.Text{EN: "not at all: %s", ZH: "无法连接：%s"}
	textShutSince  = lang.Text{EN: "; shut since %s", ZH: "；自 %s 起不通"}
	textAnsweredAt = lang.Text{EN: "; answered at %s", ZH: "；%s 有回答"}
	textSilentAt   = lang.Text{EN: "; did not answer at %s", ZH: "；%s 没有回答"}

	textServes    = lang.Text{EN: "%s  %d answers", ZH: "%s  %d 次应答"}
	textLeftOut   = lang.Text{EN: "%s  left out since %s, tried again from %s: %s", ZH: "%s  自 %s 起停用，%s 起再试：%s"}
	textOurRate   = lang.Text{EN: "at most %d pictures a minute are asked for", ZH: "每分钟最多请求 %d 张图片"}
	textPaused    = lang.Text{EN: "the API's limit is reached: nothing is claimed until %s", ZH: "已达到 API 的速率限制：%s 之前不领取任务"}
	textAPILimits = lang.Text{EN: "the API said at %s: %s", ZH: "API 于 %s 告知：%s"}

	textNoRound      = lang.Text{EN: "no round was made here", ZH: "本机尚未运行过监控"}
	textNoChecks     = lang.Text{EN: "none: no processor here to tell of them", ZH: "没有：本机没有处理器可以报告"}
	textCronThere    = lang.Text{EN: "installed", ZH: "已安装"}
	textCronMissing  = lang.Text{EN: "cron is not installed", ZH: "没有安装 cron"}
	textCronNoTable  = lang.Text{EN: "this user has no crontab; install it with scripts/monitoring-setup.sh", ZH: "该用户没有 crontab；请用 scripts/monitoring-setup.sh 安装"}
	textCronNotThere = lang.Text{EN: "not in this user's crontab; install it with scripts/monitoring-setup.sh", ZH: "不在该用户的 crontab 中；请用 scripts/monitoring-setup.sh 安装"}

	textAllWell = lang.Text{EN: "All is well.", ZH: "一切正常。"}
	textNext    = lang.Text{EN: "next: %s", ZH: "下一步：%s"}

	textLeftStopped   = lang.Text{EN: "left alone: stopped by an operator (%s) at %s", ZH: "未作改动：由操作者（%s）于 %s 停止"}
	textRunsAlready   = lang.Text{EN: "the processor runs already, as pid %d", ZH: "处理器已在运行，进程号 %d"}
	textRunsNow       = lang.Text{EN: "the processor runs as pid %d; its log: %s", ZH: "处理器已运行，进程号 %d；日志：%s"}
	textWasNotRunning = lang.Text{EN: "the processor was not running; the monitor will not start it", ZH: "处理器本来就没有运行；监控不会启动它"}
	textStopped       = lang.Text{EN: "the processor (pid %d) has stopped; the monitor will not start it", ZH: "处理器（进程号 %d）已停止；监控不会启动它"}
	textNoneRuns      = lang.Text{EN: "left alone: no background processor runs here", ZH: "未作改动：本机没有后台处理器在运行"}
	textKilled        = lang.Text{
		EN: "the processor (pid %d) did not end in time and was killed; its tasks are claimed again when their leases have run out",
		ZH: "处理器（进程号 %d）没有按时结束，已被强制终止；它的任务在租约到期后会被重新领取"}
	textCancelled = lang.Text{EN: "cancelled %s; %d credits went back to %s", ZH: "已取消 %s；%d 个积分已退还给 %s"}
	textGranted   = lang.Text{EN: "granted %d credits to %s; the balance is %d", ZH: "已发放 %d 个积分给 %s；余额 %d"}
	textBalance   = lang.Text{EN: "%s has %d credits", ZH: "%s 有 %d 个积分"}
	textSchema    = lang.Text{EN: "the schema is up to date", ZH: "数据库结构已是最新"}

	textProblemShut    = lang.Text{EN: "the way to the API is shut since %s: %s", ZH: "到 API 的路自 %s 起不通：%s"}
	textProblemProxy   = lang.Text{EN: "proxy %s is left out since %s, another serves: %s", ZH: "代理 %s 自 %s 起停用，由另一个代理服务：%s"}
	textProblemDead    = lang.Text{EN: "the processor is dead", ZH: "处理器已死"}
	textProblemHung    = lang.Text{EN: "the processor (pid %d) hangs: silent for %.0fs", ZH: "处理器（进程号 %d）已挂起：沉默 %.0f 秒"}
	textProblemStopped = lang.Text{EN: "%d tasks wait, and the processor was stopped by %s", ZH: "%d 个任务在等，而处理器已由 %s 停止"}
	textProblemNone    = lang.Text{EN: "%d tasks wait and no processor runs", ZH: "%d 个任务在等，而没有处理器在运行"}
	textProblemStuck   = lang.Text{EN: "%d tasks are stuck", ZH: "%d 个任务卡住"}
	textProblemAPI     = lang.Text{EN: "the monitor could not use the API at %s: %s", ZH: "监控于 %s 无法使用 API：%s"}
	textProblemRound   = lang.Text{EN: "the monitor's last round was at %s", ZH: "监控最近一次运行是在 %s"}
	textLookAtCron     = "look at task-monitor.log and at cron"
)
