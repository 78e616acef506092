package repair

import "imagetasks/pkg/lang"

// What an audit says.
var (
	textFinding = lang.Text{EN: "    user %s task %s: %s", ZH: "    用户 %s 任务 %s：%s"}
	textMore    = lang.Text{EN: "    and %d more", ZH: "    还有 %d 处"}
	textFaults  = lang.Text{EN: "the audit found %d faults", ZH: "审计发现 %d 处错误"}
	textPasses  = lang.Text{EN: "the audit passes: no credit is lost and none was given twice", ZH: "审计通过：没有积分丢失，也没有积分被重复退还"}
)

// rulesZH are the audit's rules, which stand in store/sql/audit.sql, in Chinese.
var rulesZH = map[string]string{
	"one charge and at most one refund for each task":             "每个任务扣费一次，最多退还一次",
	"nothing is refunded that was not charged":                    "没有扣费的不退还",
	"no task is refunded but a failed or cancelled one":           "只有失败或取消的任务才退还",
	"every failed or cancelled task that was charged is refunded": "扣过费而失败或取消的任务都已退还",
	"every task's columns say what the ledger says":               "任务表的各列与流水一致",
	"every balance is the sum of its ledger, and not negative":    "每个余额等于其流水之和，且不为负",
	"every ledger row follows from the one before it":             "每条流水都与前一条衔接",
}
