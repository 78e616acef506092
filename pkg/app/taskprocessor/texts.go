package taskprocessor

import (
	"imagetasks/pkg/lang"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Titles of the status screen.
var (
	titleNone      = lang.Text{}
	titleProcessor = lang.Text{EN: "processor", ZH: "处理器"}
	titleTasks     = lang.Text{EN: "tasks", ZH: "任务"}
	titleQueue     = lang.Text{EN: "queue", ZH: "队列"}
	titleLastHour  = lang.Text{EN: "last hour", ZH: "最近一小时"}
	titleRefunds   = lang.Text{EN: "refunds", ZH: "退款"}
	titleResults   = lang.Text{EN: "last day", ZH: "最近一天"}
	titleBridge    = lang.Text{EN: "bridge", ZH: "桥接"}
	titleWebhooks  = lang.Text{EN: "webhooks", ZH: "回调"}
	titleAPI       = lang.Text{EN: "api", ZH: "API"}
	titleProxies   = lang.Text{EN: "proxies", ZH: "代理"}
	titleCircuits  = lang.Text{EN: "circuits", ZH: "熔断"}
	titleRate      = lang.Text{EN: "rate", ZH: "速率"}
	titleMonitor   = lang.Text{EN: "monitor", ZH: "监控"}
	titleCron      = lang.Text{EN: "cron", ZH: "cron"}
	titleChecks    = lang.Text{EN: "checks", ZH: "健康检查"}
)

var stateNames = map[task.State]lang.Text{
	task.Pending:    {EN: "pending", ZH: "待处理"},
	task.Processing: {EN: "processing", ZH: "处理中"},
	task.Completed:  {EN: "completed", ZH: "已完成"},
	task.Failed:     {EN: "failed", ZH: "失败"},
	task.Cancelled:  {EN: "cancelled", ZH: "已取消"},
}

// The status screen.
var (
	textComma     = lang.Text{EN: ", ", ZH: "，"}
	textSemicolon = lang.Text{EN: "; ", ZH: "；"}
	textCount     = lang.Text{EN: "%d %s", ZH: "%d 个%s"}

	textLocal       = lang.Text{EN: "%s, %s, last heartbeat %s ago, since %s, version %s", ZH: "%s，%s，最近心跳 %s前，启动于 %s，版本 %s"}
	textInFlight    = lang.Text{EN: "processing %d/%d", ZH: "正在处理 %d/%d"}
	textNoHeartbeat = lang.Text{EN: "%s, no heartbeat yet", ZH: "%s，尚无心跳"}
	textOther       = lang.Text{EN: "also on %s, pid %d, since %s, last heartbeat %s ago", ZH: "另有 %s，进程 %d，启动于 %s，最近心跳 %s前"}

	textQueue      = lang.Text{EN: "%d due, oldest due for %s; %s", ZH: "%d 个待领取，最早的已等待 %s；%s"}
	textQueueEmpty = lang.Text{EN: "no tasks due; %s", ZH: "没有待领取的任务；%s"}
	textStuckCount = lang.Text{EN: "%d stuck", ZH: "%d 个卡住"}
	textLastHour   = lang.Text{EN: "%d %s, median %s, p95 %s", ZH: "%d 个%s，中位数 %s，p95 %s"}
	textRefunds    = lang.Text{EN: "%d today, %s", ZH: "今天 %d 笔，%s"}
	textResults    = lang.Text{EN: "%s: %s, median %s, p95 %s", ZH: "%s：%s，中位数 %s，p95 %s"}
	textPictures   = lang.Text{EN: "%d pictures", One: "%d picture", ZH: "%d 张图片"}
	textLost       = lang.Text{EN: "%d paid for without a picture", ZH: "%d 个已付费但没有图片"}
	textCredits    = lang.Text{EN: "%d credits", One: "%d credit", ZH: "%d 个积分"}

	textBridge         = lang.Text{EN: "%s; changes of the application to read: %d, ends of tasks to write: %d, failing: %d", ZH: "%s；待读取的应用变更 %d 个，待写入的任务结果 %d 个，失败 %d 个"}
	textBridgeActive   = lang.Text{EN: "active since %s", ZH: "自 %s 起启用"}
	textBridgeInactive = lang.Text{EN: "not active, applied at %s", ZH: "未启用，设置于 %s"}

	textWebhooks = lang.Text{EN: "completion events waiting: %d, failing: %d, given up: %d", ZH: "等待发送的完成事件 %d 个，失败 %d 个，已放弃 %d 个"}

	textNoRoute          = lang.Text{EN: "not usable: %s", ZH: "无法使用：%s"}
	textUnreachableSince = lang.Text{EN: "; unreachable since %s", ZH: "；自 %s 起不可达"}
	textRespondedAt      = lang.Text{EN: "; last response at %s", ZH: "；最近于 %s 有响应"}
	textCheckFailedAt    = lang.Text{EN: "; check failed at %s", ZH: "；%s 检查失败"}

	textServing             = lang.Text{EN: "%s  %d responses", ZH: "%s  %d 次响应"}
	textEjected             = lang.Text{EN: "%s  ejected since %s, next retry at %s: %s", ZH: "%s  自 %s 起停用，%s 重试：%s"}
	textCircuitOpen         = lang.Text{EN: "%s: open since %s: %s", ZH: "%s：自 %s 起熔断：%s"}
	textOwnRate             = lang.Text{EN: "API_RATE allows %d requests per minute over all processors", ZH: "API_RATE 限制所有处理器合计每分钟 %d 个请求"}
	textEndpointCount       = lang.Text{EN: "%d endpoints", ZH: "%d 个端点"}
	textEndpointInFlight    = lang.Text{EN: "%d in flight here", ZH: "本机正在处理 %d 个"}
	textEndpointConcurrency = lang.Text{EN: "at most %d over all processors", ZH: "所有处理器合计最多 %d 个"}
	textEndpointRate        = lang.Text{EN: "%d requests per minute over all processors", ZH: "所有处理器合计每分钟 %d 个请求"}
	textEndpointLimited     = lang.Text{EN: "rate limited by the API until %s", ZH: "已达到 API 的速率限制，%s 恢复"}
	textAtEndpoint          = lang.Text{EN: "%s at %s", ZH: "%s（端点 %s）"}
	textRateLimited         = lang.Text{EN: "rate limited by the API: claiming is paused until %s", ZH: "已达到 API 的速率限制：%s 之前暂停领取任务"}
	textAPILimits           = lang.Text{EN: "limits reported by the API at %s: %s", ZH: "API 于 %s 报告的限制：%s"}

	textNoPass   = lang.Text{EN: "has never run on this host", ZH: "从未在本机运行"}
	textNoChecks = lang.Text{EN: "none: no processor is running on this host", ZH: "无：本机没有处理器在运行"}
	textHealthy  = lang.Text{EN: "All is well.", ZH: "一切正常。"}
	textNext     = lang.Text{EN: "next: %s", ZH: "下一步：%s"}
)

// start, stop and restart.
var (
	textLeftStopped    = lang.Text{EN: "not started: the processor was stopped by %s at %s", ZH: "未启动：处理器已由 %s 于 %s 停止"}
	textAlreadyRunning = lang.Text{EN: "the processor is already running (pid %d)", ZH: "处理器已在运行（进程 %d）"}
	textStarted        = lang.Text{EN: "the processor is running (pid %d); log: %s", ZH: "处理器正在运行（进程 %d）；日志：%s"}
	textWasNotRunning  = lang.Text{EN: "the processor was not running; %s", ZH: "处理器未在运行；%s"}
	textStopped        = lang.Text{EN: "the processor (pid %d) has stopped; %s", ZH: "处理器（进程 %d）已停止；%s"}
	textWaiting        = lang.Text{EN: "waiting for paid requests to finish, at most %s; to cut them: %s", ZH: "正在等待已付费的请求完成，最多 %s；如需立即中断：%s"}
	textBusy           = lang.Text{EN: "waiting for another program that starts or stops the processor", ZH: "正在等待另一个启动或停止处理器的程序"}

	textNotStartedAgain = lang.Text{EN: "the monitor will not start it", ZH: "监控不会启动它"}
	textMayBeStarted    = lang.Text{EN: "the monitor may start it again", ZH: "监控可能会再次启动它"}
	textNotRestarted    = lang.Text{EN: "not restarted: no background processor is running on this host", ZH: "未重启：本机没有后台处理器在运行"}
	textKilled          = lang.Text{
		EN: "the processor (pid %d) did not stop in time and was killed; its tasks are claimed again after their leases expire",
		ZH: "处理器（进程 %d）未按时停止，已强制结束；它的任务在租约到期后会重新领取"}
)

// reload.
var (
	textReloaded        = lang.Text{EN: "the processor (pid %d) has read its env file again: %s", ZH: "处理器（进程 %d）已重新读取 env 文件：%s"}
	textReloadedPartly  = lang.Text{EN: "the processor (pid %d) has read its env file again: %s; not in use until a restart: %s", ZH: "处理器（进程 %d）已重新读取 env 文件：%s；以下设置需要重启才能生效：%s"}
	textNothingChanged  = lang.Text{EN: "nothing changed", ZH: "没有变化"}
	textSettingsChanged = lang.Text{EN: "%s changed, in use from now on", ZH: "%s 已更新并生效"}
	textReloadUnknown   = lang.Text{EN: "the processor (pid %d) was asked to read its env file again and has not reported the result; see %s", ZH: "已要求处理器（进程 %d）重新读取 env 文件，但尚未收到结果；请查看 %s"}
)

// Tasks, credits and the schema.
var (
	textCancelled        = lang.Text{EN: "task %s is cancelled; %s refunded; the balance is %d", ZH: "任务 %s 已取消；已退还%s；余额 %d"}
	textCancelledMissing = lang.Text{EN: "task %s is cancelled; %s", ZH: "任务 %s 已取消；%s"}
	textUncharged        = lang.Text{EN: "task %s is cancelled; it was not charged, so nothing is refunded", ZH: "任务 %s 已取消；未扣费的任务不会退款"}
	textRefunded         = lang.Text{EN: "%d credits", One: "%d credit", ZH: " %d 个积分"}
	textGranted          = lang.Text{EN: "granted %d credits to %s; the balance is %d", One: "granted %d credit to %s; the balance is %d", ZH: "已发放 %d 个积分给 %s；余额 %d"}
	textBalance          = lang.Text{EN: "balance of %s: %d credits", ZH: "%s 的余额：%d 个积分"}
	textSchema           = lang.Text{EN: "the schema %s is up to date", ZH: "schema %s 已是最新"}
	textKey              = lang.Text{EN: "idempotency key: %s (repeat the command with --key to be sure that it takes effect once)", ZH: "幂等键：%s（使用 --key 重复该命令，可确保只生效一次）"}

	textRedriven         = lang.Text{EN: "task %s begins run %d; the balance is %d", ZH: "任务 %s 开始第 %d 次执行；余额 %d"}
	textWouldRedrive     = lang.Text{EN: "task %s would begin run %d", ZH: "任务 %s 将开始第 %d 次执行"}
	textNotRedriven      = lang.Text{EN: "task %s was not redriven: %s", ZH: "任务 %s 未重新执行：%s"}
	textNothingToRedrive = lang.Text{EN: "no failed task matches", ZH: "没有符合条件的失败任务"}

	textPaused         = lang.Text{EN: "claiming is paused since %s by %s (%s); to resume run: %s", ZH: "自 %s 起由 %s 暂停领取任务（%s）；恢复请运行：%s"}
	textPausedEndpoint = lang.Text{EN: "claiming for the endpoint %s is paused since %s by %s (%s); to resume run: %s",
		ZH: "端点 %s 自 %s 起由 %s 暂停领取任务（%s）；恢复请运行：%s"}
	textPausedModel = lang.Text{EN: "claiming of tasks of the model %s is paused since %s by %s (%s); to resume run: %s",
		ZH: "模型 %s 的任务自 %s 起由 %s 暂停领取（%s）；恢复请运行：%s"}
	textResumedScope  = lang.Text{EN: "claiming is resumed for %s", ZH: "已恢复领取任务：%s"}
	textNotPaused     = lang.Text{EN: "nothing is paused for %s", ZH: "未暂停：%s"}
	textScopeEndpoint = lang.Text{EN: "the endpoint %s", ZH: "端点 %s"}
	textScopeModel    = lang.Text{EN: "the model %s", ZH: "模型 %s"}
	textMessage       = lang.Text{EN: "%s", ZH: "%s"}

	textNoOperations = lang.Text{EN: "nothing was done by operators yet", ZH: "尚无操作记录"}

	textResumed = lang.Text{EN: "claiming is resumed", ZH: "已恢复领取任务"}

	textTaskColumns = lang.Text{EN: "enqueued, task, status, run/attempts, user, error code:", ZH: "入队时间、任务、状态、执行次数/尝试次数、用户、错误码："}
	textNoTasks     = lang.Text{EN: "no task matches", ZH: "没有符合条件的任务"}
	textNoCharge    = lang.Text{EN: "(says it was charged; the ledger has no charge)", ZH: "（标记为已扣费，但账本中没有扣费记录）"}
	textForgotten   = lang.Text{EN: "user %s: prompts and input pictures of %s deleted, %s cancelled, %s deleted; the ledger stays",
		ZH: "用户 %s：已删除%s的提示词和输入图片，取消%s，删除%s；账本保留"}
	textPicturesKept = lang.Text{
		EN:  "%d pictures were not deleted: this database is a copy or a restored backup, and they may belong to another one",
		One: "%d picture was not deleted: this database is a copy or a restored backup, and it may belong to another one",
		ZH:  "%d 张图片未删除：该数据库是副本或从备份恢复，这些图片可能属于另一个数据库"}
	textOrphan         = lang.Text{EN: "%s  task %s  run %d  %d bytes  %s old", ZH: "%s  任务 %s  第 %d 次执行  %d 字节  已存在 %s"}
	textNoPictureStore = lang.Text{EN: "this host has no pictures of this installation in %s", ZH: "本机的 %s 中没有该部署的图片"}
	textOrphans        = lang.Text{EN: "%s: %d pictures; %d of them, %d bytes, have no task in the database. Nothing was removed.",
		ZH: "%s：%d 张图片；其中 %d 张（%d 字节）在数据库中没有对应的任务。未删除任何文件。"}
	textMoveProgress = lang.Text{EN: "%d pictures so far, %d of them copied (%d bytes)", ZH: "已处理 %d 张图片，其中已复制 %d 张（%d 字节）"}
	textMovePlan     = lang.Text{EN: "%s → %s: %d pictures; %d are to be copied (%d bytes), %d are there already. Nothing was changed.",
		ZH: "%s → %s：%d 张图片；需要复制 %d 张（%d 字节），%d 张已存在。未做任何更改。"}
	textMoved = lang.Text{EN: "%s → %s: %d pictures; %d were copied (%d bytes), %d were there already",
		ZH: "%s → %s：%d 张图片；已复制 %d 张（%d 字节），%d 张已存在"}
	textMovedLinks   = lang.Text{EN: "%d completed tasks have the new URL", ZH: "%d 个已完成任务使用新的 URL"}
	textMovedBridged = lang.Text{EN: "%d of them have a row in the application's own tables, which keeps the old URL: keep that URL served, or change those rows",
		ZH: "其中 %d 个任务在应用自己的表中有对应的行，这些行仍使用旧 URL：请继续提供旧 URL，或修改这些行"}
	textMovedDifferent = lang.Text{EN: "! %d were not moved: the new store has another picture of that name", ZH: "! %d 张未迁移：新存储中已有同名但内容不同的图片"}
	textMovedDamaged   = lang.Text{EN: "! %d were not moved: they are no complete pictures", ZH: "! %d 张未迁移：不是完整的图片"}
	textMovedDeleted   = lang.Text{EN: "%d were deleted from the old store", ZH: "已从旧存储中删除 %d 张"}
	textMovedKept      = lang.Text{EN: "%d were kept in the old store: their old URL may be in use", ZH: "旧存储中保留了 %d 张：其旧 URL 可能仍在使用"}
	textOrphansMore    = lang.Text{EN: "%d more are not listed; --limit lists them", ZH: "另有 %d 张未列出；请使用 --limit 列出"}
	textUnidentified   = lang.Text{EN: "%d pictures are of tasks whose id is too long for a file name; whether these exist is not known", ZH: "%d 张图片所属任务的 ID 过长，无法写入文件名；不确定这些任务是否存在"}
	textOtherFiles     = lang.Text{EN: "%d other files are no pictures of this installation", ZH: "%d 个其他文件不是该部署的图片"}
	textTaskCount      = lang.Text{EN: "%d tasks", One: "%d task", ZH: " %d 个任务"}
	textPictureCount   = lang.Text{EN: "%d pictures", One: "%d picture", ZH: " %d 张图片"}

	textRevoked       = lang.Text{EN: "revoked from %s: everything that default privileges granted", ZH: "已收回默认权限授予 %s 的全部权限"}
	textAppRole       = lang.Text{EN: "the application's role %s may call the functions and read task_status", ZH: "应用角色 %s 可调用函数并读取 task_status"}
	textWorkerRole    = lang.Text{EN: "the worker role %s may run the four programs", ZH: "工作角色 %s 可运行四个程序"}
	textSupabase      = lang.Text{EN: "Supabase: anon and authenticated have no access to the schema", ZH: "Supabase：anon 和 authenticated 无权访问该 schema"}
	textSupabaseNoApp = lang.Text{EN: "Supabase: anon and authenticated have no access to the schema; so that your server can call the functions with the service key, run: %s",
		ZH: "Supabase：anon 和 authenticated 无权访问该 schema；如需让服务器使用 service key 调用函数，请运行：%s"}
)

var (
	textCircuitHalfOpen = lang.Text{EN: "%s: being tried, open since %s: %s", ZH: "%s：正在试探，自 %s 起熔断：%s"}
	textNextTrial       = lang.Text{EN: "; a task tries it at %s at the latest", ZH: "；最迟于 %s 用一个任务试探"}
	textMoreModels      = lang.Text{EN: "%d more models do not work", One: "%d more model does not work", ZH: "另有 %d 个模型无法使用"}
	textUnknownOutcomes = lang.Text{EN: "%d paid requests of unknown outcome since the start", One: "%d paid request of unknown outcome since the start",
		ZH: "启动以来，%d 个付费请求的结果未知"}
)

// circuitNames are the scopes of circuits.
var circuitNames = map[string]lang.Text{
	processor.CircuitEndpoint:     {EN: "the image API", ZH: "图像 API"},
	processor.CircuitPictureStore: {EN: "the picture store", ZH: "图片存储"},
	processor.CircuitModel:        {EN: "model", ZH: "模型"},
}

// The commands of webhooks.
var (
	textNoEvents      = lang.Text{EN: "there are no completion events", ZH: "没有完成事件"}
	textRedelivered   = lang.Text{EN: "%d events are delivered again", One: "%d event is delivered again", ZH: "%d 个事件将重新发送"}
	textDiscarded     = lang.Text{EN: "%d events were discarded", One: "%d event was discarded", ZH: "已放弃 %d 个事件"}
	textWebhookTested = lang.Text{EN: "the receiver accepted the test event %s: HTTP %d, %s", ZH: "接收方已接受测试事件 %s：HTTP %d，%s"}
)

// Texts of credits report.
var (
	textUnknownName   = lang.Text{EN: "(unknown)", ZH: "（未知）"}
	textReportTotal   = lang.Text{EN: "total", ZH: "合计"}
	textReportZone    = lang.Text{EN: "Time zone of the days: %s", ZH: "日期所用时区：%s"}
	textReportMore    = lang.Text{EN: "%d more are not shown (--limit); the total has all of them", ZH: "另有 %d 项未显示（--limit），合计包含全部"}
	textReportUnknown = lang.Text{EN: "Unknown outcomes are those of the last run of tasks that were not pruned (RETENTION).", ZH: "结果未知的请求仅统计未被清理（RETENTION）的任务的最近一次执行。"}
	reportColumns     = []lang.Text{
		{EN: "pictures", ZH: "图片"}, {EN: "no picture", ZH: "无图片"}, {EN: "seconds", ZH: "秒数"}, {EN: "charged", ZH: "扣费"},
		{EN: "refunded", ZH: "退款"}, {EN: "income", ZH: "收入"}, {EN: "refunds", ZH: "退款笔数"}, {EN: "unknown", ZH: "结果未知"}, {EN: "cost", ZH: "成本"},
	}
	reportKeys = map[store.GroupBy]lang.Text{
		store.ByDay: {EN: "day", ZH: "日期"}, store.ByModel: {EN: "model", ZH: "模型"},
		store.ByEndpoint: {EN: "endpoint", ZH: "端点"}, store.ByUser: {EN: "user", ZH: "用户"},
	}
)
