package finding

import (
	"time"

	"imagetasks/pkg/lang"
	"imagetasks/pkg/task"
)

// Text returns what is wrong, as one sentence without a full stop.
func (f Finding) Text(l lang.Lang) string {
	return f.message().In(l)
}

func (f Finding) message() lang.Message {
	msg := lang.NewMessage
	since := localTime(f.Since)
	switch f.Code {
	case DatabaseUnavailable:
		return msg(textDatabase, f.Reason)
	case APIUnreachable:
		if isRefusal(f.Cause) {
			return msg(textAPIRefuses, since, f.Reason)
		}
		return msg(textAPI, since, f.Reason)
	case PicturesUnstorable:
		return msg(textUnstorable, f.Subject, since, f.Reason)
	case ModelsRefused:
		return msg(textModelsRefused, f.Count, f.Subject, since, f.Reason)
	case PicturesNotFetched:
		if f.Cause == task.CodePictureStore {
			return msg(textNotUploaded, f.Count, f.Duration(), f.Reason)
		}
		return msg(textNotFetched, f.Count, f.Duration(), f.Reason)
	case EndpointFailing:
		return msg(textEndpoint, f.Subject, since, f.Reason)
	case EndpointRefusesModels:
		return msg(textEndpointModels, f.Count, f.Subject, since, f.Reason)
	case EndpointsInvalid:
		return msg(textEndpointsInvalid, f.Reason)
	case EndpointsDiffer:
		return msg(textEndpoints, f.Count, f.Subject)
	case ProxyEjected:
		return msg(textProxy, f.Subject, since, f.Reason)
	case ProcessorNotRunning:
		return msg(textNotRunning)
	case ProcessorHung:
		return msg(textHung, f.PID, f.Duration())
	case ForegroundHung:
		return msg(textForegroundHung, f.PID, f.Duration())
	case RestartFailed:
		return msg(textRestartFailed, f.Reason)
	case RestartLimit:
		return msg(textRestartLimit, f.Count, f.Subject)
	case StoppedWithDueTasks:
		return msg(textStoppedDue, f.Count, f.Subject)
	case NoProcessor:
		return msg(textNoProcessor, f.Count)
	case TasksStuck:
		return msg(textStuck, f.Count)
	case PictureStoresDiffer:
		return msg(textPictureStores, f.Count, f.Subject)
	case PictureCleaningFailed:
		return msg(textPictureCleaning, f.Reason)
	case MissingCharge:
		return msg(textMissingCharge, f.Count, f.Subject)
	case RefundOwed:
		return msg(textRefundOwed, f.Count, f.Subject)
	case TasksSetAside:
		return msg(textSetAside, f.Count, f.Subject, f.Reason)
	case LeasesFailing:
		return msg(textLeasesFailing, f.Subject, since)
	case DatabaseCopied:
		return msg(textCopied)
	case ClaimingPaused:
		switch f.Scope {
		case "endpoint":
			return msg(textPausedEndpoint, f.Name, f.Subject, since, f.Reason)
		case "model":
			return msg(textPausedModel, f.Name, f.Subject, since, f.Reason)
		}
		return msg(textPaused, f.Subject, since, f.Reason)
	case TasksFailing:
		return msg(textFailing, f.Count, f.Total, string(f.Cause), causeText(f.Cause))
	case BridgeFailing:
		return msg(textBridgeFailing, f.Count, f.Subject, since, f.Reason)
	case BridgeBehind:
		return msg(textBridgeBehind, f.Count, f.Total, f.Duration())
	case LostUpdates:
		return msg(textLostUpdates, f.Count)
	case WebhooksUndelivered:
		return msg(textUndelivered, f.Count, f.Reason)
	case WebhookFailing:
		return msg(textWebhookFailing, f.Subject, since, f.Count, f.Reason)
	case NotSupervised:
		return msg(textNotSupervised)
	case MonitorOverdue:
		return msg(textMonitorOverdue, since)
	case MonitorPassIncomplete:
		return msg(textPassIncomplete, f.Reason)
	case LogDirUnwritable:
		return msg(textLogDir, f.Subject, f.Reason)
	case BacklogOld:
		return msg(textBacklog, f.Count, f.Duration())
	case DiskNearlyFull:
		return msg(textDisk, f.Count, f.Subject)
	case TasksRepaired:
		return msg(textRepaired, f.Count, f.Total)
	case ProcessorRestarted:
		return msg(textRestarted, f.PID, f.Reason)
	case AuditFault:
		return msg(textAuditFault, f.Count, f.Subject)
	}
	return msg(lang.Text{EN: "%s: %s"}, string(f.Code), f.Reason)
}

// causeText explains a task's error code, where a hint exists.
func causeText(code task.Code) lang.Message {
	if hint, ok := HintFor(code); ok {
		return lang.NewMessage(hint.Cause)
	}
	return lang.NewMessage(lang.Text{EN: "See error_message of these tasks.", ZH: "请查看这些任务的 error_message。"})
}

// isRefusal reports whether the API responds and refuses all requests.
func isRefusal(code task.Code) bool {
	switch code {
	case task.CodeUnauthorized, task.CodeForbidden, task.CodeWrongCountry, task.CodeWrongAddress, task.CodeNoQuota:
		return true
	}
	return false
}

func localTime(t time.Time) string { return t.Local().Format(time.DateTime) }

// Next returns the command to run next; the zero Command where no command helps.
func (f Finding) Next() Command {
	switch f.Code {
	case EndpointFailing:
		return Command{Program: "simple-test", Args: []string{"--endpoint", f.Subject}}
	case APIUnreachable, EndpointsInvalid, ProxyEjected, ModelsRefused, EndpointRefusesModels:
		return Command{Program: "simple-test"}
	case ProcessorNotRunning, StoppedWithDueTasks, NoProcessor, RestartFailed, RestartLimit:
		return Command{Program: "task-processor", Args: []string{"start"}}
	case ProcessorHung:
		// Without --now it would wait for paid requests for as long as one may take.
		return Command{Program: "task-processor", Args: []string{"restart", "--now"}}
	case TasksStuck:
		return Command{Program: "fix-stuck-tasks"}
	case PictureStoresDiffer, EndpointsDiffer:
		return Command{Program: "task-processor", Args: []string{"status", "--json"}}
	case PictureCleaningFailed:
		return Command{Program: "task-processor", Args: []string{"pictures", "orphans"}}
	case MissingCharge:
		return Command{Program: "fix-stuck-tasks", Args: []string{"audit"}}
	case RefundOwed:
		return Command{Program: "fix-stuck-tasks", Args: []string{"audit", "--repair"}}
	case TasksSetAside:
		return Command{Program: "task-processor", Args: []string{"status", "--json"}}
	case ClaimingPaused, DatabaseCopied:
		if f.Scope != "" {
			return Command{Program: "task-processor", Args: []string{"resume", "--" + f.Scope, f.Name}}
		}
		return Command{Program: "task-processor", Args: []string{"resume"}}
	case BacklogOld, ProcessorRestarted, TasksRepaired:
		return Command{Program: "task-processor", Args: []string{"status"}}
	case AuditFault:
		return Command{Program: "fix-stuck-tasks", Args: []string{"audit"}}
	case PicturesNotFetched, TasksFailing:
		if f.Code == PicturesNotFetched && f.Cause == task.CodePictureStore {
			return Command{Program: "task-processor", Args: []string{"pictures", "orphans"}} // it opens the store, and costs nothing
		}
		return NextForCause(f.Cause)
	case BridgeFailing, BridgeBehind, LostUpdates:
		return Command{Program: "task-processor", Args: []string{"adopt", "--check"}}
	case WebhooksUndelivered:
		return Command{Program: "task-processor", Args: []string{"webhooks", "list", "--undelivered"}}
	case WebhookFailing:
		return Command{Program: "task-processor", Args: []string{"webhooks", "list"}}
	case NotSupervised:
		return Command{Program: "scripts/monitoring-setup.sh"}
	case MonitorOverdue, MonitorPassIncomplete:
		return Command{Program: "monitor-tasks"}
	}
	return Command{}
}

// NextForCause returns the command that looks into failures of one cause.
func NextForCause(code task.Code) Command {
	switch code {
	case task.CodeStuck, task.CodeWorkerLost, task.CodeBadRow, task.CodePendingTimeout, task.CodeInternal, task.CodePictureStore, task.CodeModeration,
		task.CodeBadInput, task.CodeInputTooLarge, task.CodeBadOptions, task.CodeInputUnavailable, task.CodeSuperseded, task.CodeHandedBack:
		return Command{Program: "task-processor", Args: []string{"status"}}
	case task.CodeBadRequest, task.CodeBadAnswer, task.CodeNotAPicture, task.CodeTooLarge, task.CodePictureLost, task.CodeDownload:
		return Command{Program: "simple-test", Args: []string{"--image"}}
	}
	return Command{Program: "simple-test"}
}

var (
	textDatabase   = lang.Text{EN: "the database is unavailable: %s", ZH: "数据库不可用：%s"}
	textAPI        = lang.Text{EN: "the image API has been unreachable since %s; no tasks are claimed: %s", ZH: "图像 API 自 %s 起不可达，暂停领取任务：%s"}
	textAPIRefuses = lang.Text{EN: "the image API has refused all requests since %s; no tasks are claimed: %s", ZH: "图像 API 自 %s 起拒绝所有请求，暂停领取任务：%s"}
	textUnstorable = lang.Text{
		EN: "pictures can't be stored on %s since %s; its processor claims no tasks: %s. Free some space, or correct IMAGE_STORE or its permissions",
		ZH: "%s 自 %s 起无法保存图片，其处理器暂停领取任务：%s。请释放磁盘空间，或修正 IMAGE_STORE 及其权限"}
	textModelsRefused = lang.Text{
		EN:  "the image API makes no pictures with %d models (%s), the first since %s; their tasks wait, and all others go on: %s",
		One: "the image API makes no pictures with %d model (%s) since %s; its tasks wait, and all others go on: %s",
		ZH:  "图像 API 无法使用 %d 个模型（%s）生成图片，最早始于 %s；使用这些模型的任务等待处理，其他任务不受影响：%s"}
	textNotUploaded = lang.Text{
		EN: "%d pictures that are paid for can't be stored, the first for %s; they wait on the host that made them and are uploaded when the picture store works again. " +
			"After DOWNLOAD_WINDOW their tasks fail and are refunded. The last error: %s",
		One: "%d picture that is paid for can't be stored for %s; it waits on the host that made it and is uploaded when the picture store works again. " +
			"After DOWNLOAD_WINDOW its task fails and is refunded. The last error: %s",
		ZH: "%d 张已付费的图片无法保存，最早的已持续%s；图片暂存在生成它的主机上，图片存储恢复后自动上传。超过 DOWNLOAD_WINDOW 后，相应任务将失败并退款。最近的错误：%s"}
	textNotFetched = lang.Text{
		EN: "%d pictures that are paid for can't be fetched, the first for %s; more are requested. After DOWNLOAD_WINDOW their tasks fail and are refunded. " +
			"Until this is fixed, task-processor pause avoids the cost of more. The last error: %s",
		One: "%d picture that is paid for can't be fetched for %s; more are requested. After DOWNLOAD_WINDOW its task fails and is refunded. " +
			"Until this is fixed, task-processor pause avoids the cost of more. The last error: %s",
		ZH: "%d 张已付费的图片无法下载，最早的已持续%s；处理器仍在请求新的图片。超过 DOWNLOAD_WINDOW 后，相应任务将失败并退款。" +
			"问题解决之前，可运行 task-processor pause 避免继续产生费用。最近的错误：%s"}
	textEndpointsInvalid = lang.Text{EN: "the endpoints can't be used, and no processor of this host would start: %s",
		ZH: "端点的设置无法使用，本机的处理器将无法启动：%s"}
	textEndpoint = lang.Text{EN: "the endpoint %s has failed since %s; what other endpoints can do goes on there: %s",
		ZH: "端点 %s 自 %s 起无法使用，其他端点能处理的任务改由它们处理：%s"}
	textEndpointModels = lang.Text{
		EN:  "endpoints make no pictures with %d models (%s), the first since %s; other endpoints do: %s",
		One: "an endpoint makes no pictures with %d model (%s) since %s; other endpoints do: %s",
		ZH:  "有端点无法使用 %d 个模型（%s）生成图片，最早始于 %s；这些任务由其他端点处理：%s"}
	textEndpoints = lang.Text{
		EN: "the processors have %d different sets of endpoints (%s): a task may wait for one that only some of them have, and limits are not kept; use one imagetasks.toml on every host",
		ZH: "各处理器使用 %d 套不同的端点配置（%s）：任务可能等待只有部分处理器才有的端点，限额也无法准确执行；请在每台主机上使用相同的 imagetasks.toml"}
	textProxy = lang.Text{EN: "proxy %s has been ejected since %s; another proxy serves: %s", ZH: "代理 %s 自 %s 起停用，请求改由其他代理转发：%s"}

	textNotRunning     = lang.Text{EN: "the processor is not running: its process ended without a stop command", ZH: "处理器未运行：进程在没有停止命令的情况下退出"}
	textHung           = lang.Text{EN: "the processor (pid %d) is hung: no heartbeat for %s", ZH: "处理器（进程 %d）已挂起：%s没有心跳"}
	textForegroundHung = lang.Text{
		EN: "the processor (pid %d) is hung: no heartbeat for %s. It was not started by task-processor start: end the process and start it again as before",
		ZH: "处理器（进程 %d）已挂起：%s没有心跳。它不是由 task-processor start 启动的：请结束该进程，并用原来的方式启动"}
	textRestartFailed = lang.Text{EN: "the processor could not be restarted: %s", ZH: "处理器重启失败：%s"}
	textRestartLimit  = lang.Text{
		EN:  "the processor was restarted %d times within an hour and ended each time; automatic restarts are off. Check %s, fix the cause, then start it",
		One: "the processor was restarted %d time within an hour and ended again; automatic restarts are off. Check %s, fix the cause, then start it",
		ZH:  "处理器在一小时内重启了 %d 次，每次都退出；已停止自动重启。请查看 %s，排除原因后再启动"}
	textStoppedDue = lang.Text{EN: "%d tasks are due, and the processor was stopped by %s", One: "%d task is due, and the processor was stopped by %s",
		ZH: "%d 个任务待处理，而处理器已由 %s 停止"}
	textNoProcessor = lang.Text{EN: "%d tasks are due, and no processor is running", One: "%d task is due, and no processor is running",
		ZH: "%d 个任务待处理，而没有处理器在运行"}
	textMissingCharge = lang.Text{
		EN:  "%d closed tasks say they were charged, while the ledger has no charge; nothing was refunded for them: %s",
		One: "%d closed task says it was charged, while the ledger has no charge; nothing was refunded for it: %s",
		ZH:  "%d 个已关闭的任务标记为已扣费，但账本中没有扣费记录，因此未退款：%s"}
	textRefundOwed = lang.Text{EN: "%d charged tasks failed or were cancelled and are not refunded: %s", One: "%d charged task failed or was cancelled and is not refunded: %s",
		ZH: "%d 个已扣费的任务失败或被取消，但尚未退款：%s"}
	textPausedEndpoint = lang.Text{EN: "the endpoint %s was paused by %s at %s (%s); no tasks are claimed for it", ZH: "端点 %s 已由 %s 于 %s 暂停（%s），不再为其领取任务"}
	textPausedModel    = lang.Text{EN: "the model %s was paused by %s at %s (%s); its tasks wait", ZH: "模型 %s 已由 %s 于 %s 暂停（%s），使用该模型的任务等待处理"}

	textPaused = lang.Text{EN: "claiming was paused by %s at %s (%s); no tasks are claimed", ZH: "%s 已于 %s 暂停领取任务（%s）"}

	textSetAside = lang.Text{
		EN:  "%d tasks are set aside, because the database refuses to change them; they are tried again each hour, and failed and refunded when possible: %s (%s)",
		One: "%d task is set aside, because the database refuses to change it; it is tried again each hour, and failed and refunded when possible: %s (%s)",
		ZH:  "%d 个任务已搁置，因为数据库拒绝修改这些任务；系统每小时重试一次，并在条件允许时将其判为失败并退款：%s（%s）"}
	textLeasesFailing = lang.Text{EN: "the processor on %s has not been able to renew its leases since %s; it starts no tasks. Check its connection to the database",
		ZH: "%s 上的处理器自 %s 起无法续租，暂停启动新任务。请检查该主机与数据库之间的连接"}
	textCopied = lang.Text{
		EN: "this database is a copy or a restored backup of another one; no tasks are claimed or closed, because they may have been paid for already. Check them, then resume",
		ZH: "该数据库是另一个数据库的副本，或从备份恢复；其中的任务可能已付费，因此暂停领取和结束任务。请检查这些任务，然后恢复领取"}

	textStuck         = lang.Text{EN: "%d tasks are stuck", One: "%d task is stuck", ZH: "%d 个任务卡住"}
	textPictureStores = lang.Text{
		EN: "the processors keep their pictures in %d different stores (%s): a picture that one has stored and not recorded is paid for again by another; share one directory or bucket and set IMAGE_STORE to it on every host",
		ZH: "各处理器使用 %d 个不同的图片存储（%s）：某个处理器已保存但尚未记录的图片，会由其他处理器再次付费生成；请共享同一个目录或存储桶，并在每台主机上将 IMAGE_STORE 设为该位置"}
	textPictureCleaning = lang.Text{EN: "pictures that no task uses could not be removed: %s", ZH: "未被任务使用的图片清理失败：%s"}
	textFailing         = lang.Text{EN: "%d of the %d tasks closed within the last hour failed with %s. %s", ZH: "最近一小时结束的任务中，%d 个（共 %d 个）因 %s 失败。%s"}

	textBridgeFailing = lang.Text{
		EN:  "%d things fail in the bridge to the application's tables; they are tried again. The oldest: %s since %s: %s",
		One: "%d thing fails in the bridge to the application's tables; it is tried again: %s since %s: %s",
		ZH:  "与应用数据表的同步有 %d 处失败；系统会重试。最早的一处：%s，自 %s 起：%s"}
	textBridgeBehind = lang.Text{
		EN: "the bridge to the application's tables is behind: changes of the application not read yet: %d, ends of tasks not written yet: %d, the oldest for %s. Check that a processor runs, and that no transaction of the application holds locks for long",
		ZH: "与应用数据表的同步滞后：尚未读取的应用变更 %d 个，尚未写入的任务结果 %d 个，最早的已等待%s。请检查是否有处理器在运行，以及应用是否有长时间持有锁的事务"}
	textLostUpdates = lang.Text{
		EN:  "%d balances were set by the application within a week, soon after a change by the bridge, to values that no task explains: refunds may have been overwritten",
		One: "%d balance was set by the application within a week, soon after a change by the bridge, to a value that no task explains: a refund may have been overwritten",
		ZH:  "最近一周内，应用在同步修改余额后不久写入了 %d 个无法由任务解释的余额：退款可能已被覆盖"}

	textUndelivered = lang.Text{
		EN:  "%d completion events could not be delivered and are not tried again (%s); deliver them with task-processor webhooks redeliver --all, or give them up with webhooks discard --all",
		One: "%d completion event could not be delivered and is not tried again (%s); deliver it with task-processor webhooks redeliver --all, or give it up with webhooks discard --all",
		ZH:  "%d 个完成事件未能送达，且不再重试（%s）；可用 task-processor webhooks redeliver --all 重新发送，或用 webhooks discard --all 放弃"}
	textWebhookFailing = lang.Text{
		EN: "the receiver of completion events %s has failed since %s; events that are tried again: %d; the latest reason: %s",
		ZH: "完成事件的接收方 %s 自 %s 起失败；等待重试的事件：%d 个；最近一次的原因：%s"}

	textNotSupervised = lang.Text{
		EN: "no processor is running, and nothing would start one: the crontab entries are not installed and the monitor has never run here",
		ZH: "没有处理器在运行，也没有任何机制会启动它：crontab 条目未安装，监控从未在本机运行"}
	textMonitorOverdue = lang.Text{EN: "the crontab entries are installed, but the monitor has not run since %s; check that the cron service is running",
		ZH: "crontab 条目已安装，但监控自 %s 起没有运行；请检查 cron 服务是否在运行"}
	textLogDir = lang.Text{
		EN: "files in %s (LOG_DIR) can't be written; logs and marks of start and stop may be lost: %s. Free some space, or correct its permissions",
		ZH: "无法写入 %s（LOG_DIR）中的文件，日志以及启动和停止标记可能丢失：%s。请释放磁盘空间，或修正目录权限"}
	textPassIncomplete = lang.Text{EN: "the monitor pass was not completed: %s", ZH: "本次监控未完成：%s"}

	textBacklog = lang.Text{
		EN:  "%d tasks are due, and the oldest has waited for %s",
		One: "%d task is due, and it has waited for %s",
		ZH:  "%d 个任务待处理，最早的已等待 %s"}
	textDisk = lang.Text{
		EN: "only %d MB are free on the disk of %s; free some space there, or change ALERT_DISK_FREE",
		ZH: "磁盘可用空间仅剩 %d MB：%s；请释放空间，或调整 ALERT_DISK_FREE"}

	textRepaired = lang.Text{
		EN:  "%d stuck tasks were failed by the monitor, and %d credits were refunded",
		One: "%d stuck task was failed by the monitor, and %d credits were refunded",
		ZH:  "监控将 %d 个卡住的任务判为失败，退款 %d 积分"}
	textRestarted = lang.Text{EN: "the monitor restarted the processor (pid %d), which was %s", ZH: "监控重启了处理器（进程 %d），此前状态：%s"}

	textAuditFault = lang.Text{
		EN:  "the audit found %d rows that break a rule of the books: %s",
		One: "the audit found %d row that breaks a rule of the books: %s",
		ZH:  "审计发现 %d 行违反账目规则：%s"}
)
