package fixstucktasks

import "imagetasks/pkg/lang"

var (
	textWould        = lang.Text{EN: "%s  user %s  processing for %s  %s", ZH: "%s  用户 %s  已处理 %s  %s"}
	textCredits      = lang.Text{EN: "%d credits", One: "%d credit", ZH: "%d 个积分"}
	textWouldRequeue = lang.Text{EN: "%d stuck tasks would be requeued; nothing was changed", One: "%d stuck task would be requeued; nothing was changed",
		ZH: "将有 %d 个卡住的任务重新入队；未做任何更改"}
	textWouldFail = lang.Text{EN: "%d stuck tasks would fail, %s would be refunded; nothing was changed",
		One: "%d stuck task would fail, %s would be refunded; nothing was changed", ZH: "将有 %d 个卡住的任务判为失败，将退还 %s；未做任何更改"}
	textRequeued = lang.Text{EN: "%d stuck tasks requeued, %d remaining", One: "%d stuck task requeued, %d remaining",
		ZH: "%d 个卡住的任务已重新入队，剩余 %d 个"}
	textFailed = lang.Text{EN: "%d stuck tasks failed, %s refunded, %d remaining", One: "%d stuck task failed, %s refunded, %d remaining",
		ZH: "%d 个卡住的任务已判为失败，退还 %s，剩余 %d 个"}
	textRate        = lang.Text{EN: "took %s, %.0f tasks/s", ZH: "用时 %s，每秒 %.0f 个任务"}
	textRemaining   = lang.Text{EN: "%d stuck tasks remain", One: "%d stuck task remains", ZH: "剩余 %d 个卡住的任务"}
	textNotRepaired = lang.Text{EN: "not repaired: %s: %s", ZH: "未修复：%s：%s"}

	textCopied = lang.Text{
		EN: "nothing is repaired: this database is a copy or a restored backup of another one, and its tasks may have been paid for already; check them, then run task-processor resume",
		ZH: "未做修复：该数据库是另一个数据库的副本，或从备份恢复，其中的任务可能已付费；请检查这些任务，然后运行 task-processor resume"}
	textNothingYet = lang.Text{
		EN: "nothing was repaired: other processes hold locks on these tasks, or the database server was started less than %s ago, or task-processor resume was run less than %s ago; run it again later",
		ZH: "未做修复：这些任务正被其他进程锁定，或数据库服务器启动不足 %s，或运行 task-processor resume 不足 %s；请稍后再次运行"}

	textNotRefunded = lang.Text{EN: "%s: %s", ZH: "%s：%s"}

	textPaid        = lang.Text{EN: "repaired: task %s: refunded to %s: %s", ZH: "已修复：任务 %s：退还用户 %s：%s"}
	textNothingOwed = lang.Text{EN: "no refund is owed", ZH: "没有应退未退的积分"}
	textResolved    = lang.Text{EN: "resolved: task %s: user %s gets %s; the balance is %d", ZH: "已处理：任务 %s：用户 %s 获得%s；余额 %d"}

	textNoSuchTask = lang.Text{EN: "the task does not exist", ZH: "任务不存在"}
	textNotStuck   = lang.Text{EN: "its status is %s; it is not stuck", ZH: "其状态为 %s，没有卡住"}
	textOtherUser  = lang.Text{EN: "it belongs to another user", ZH: "它属于其他用户"}
	textTooRecent  = lang.Text{EN: "it has been processing for less than %s (--older-than), or another process holds a lock on it",
		ZH: "它的处理时间不足 %s（--older-than），或正被其他进程锁定"}
)
