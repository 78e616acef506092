package fixstucktasks

import "imagetasks/pkg/lang"

// What a repair says.
var (
	textWould        = lang.Text{EN: "%s  user %s  in processing for %s  %d credits", ZH: "%s  用户 %s  已处理 %s  %d 个积分"}
	textWouldRequeue = lang.Text{EN: "%d stuck tasks would go back into the queue; nothing was changed", ZH: "将有 %d 个卡住的任务放回队列；没有作任何改动"}
	textWouldFail    = lang.Text{EN: "%d stuck tasks would fail, %d credits would be refunded; nothing was changed", ZH: "将有 %d 个卡住的任务判为失败，将退还 %d 个积分；没有作任何改动"}
	textRequeued     = lang.Text{EN: "%d stuck tasks put back into the queue, %d left", ZH: "%d 个卡住的任务已放回队列，还剩 %d 个"}
	textFailed       = lang.Text{EN: "%d stuck tasks failed, %d credits refunded, %d left", ZH: "%d 个卡住的任务判为失败，退还 %d 个积分，还剩 %d 个"}
	textRate         = lang.Text{EN: "in %s, %.0f tasks/s", ZH: "用时 %s，每秒 %.0f 个任务"}
	textNotRepaired  = lang.Text{EN: "not repaired: %s: %s", ZH: "未修复：%s：%s"}

	textNoSuchTask = lang.Text{EN: "there is no such task", ZH: "没有这个任务"}
	textNotStuck   = lang.Text{EN: "it is %s, not stuck", ZH: "它的状态是 %s，没有卡住"}
	textAnothers   = lang.Text{EN: "it is another user's", ZH: "它属于另一个用户"}
	textTooYoung   = lang.Text{EN: "it has been in processing for less than %s (--older-than), or another program has it in hand",
		ZH: "它的处理时间不到 %s（--older-than），或正由另一个程序处理"}
)
