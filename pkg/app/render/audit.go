// Package render turns the results of services into text for people, in English or Chinese.
package render

import (
	"fmt"
	"io"

	"imagetasks/pkg/lang"
	"imagetasks/pkg/store"
)

// Audit writes the result of an audit to w.
func Audit(w io.Writer, rules []store.Rule, l lang.Lang) {
	for _, r := range rules {
		mark := "✓"
		if r.Count > 0 {
			mark = "✗"
		}
		fmt.Fprintf(w, "%s %s\n", mark, ruleTitle(r.Code).In(l))
		for _, v := range r.Violations {
			fmt.Fprintln(w, textViolation.In(l, orDash(v.UserID), orDash(v.TaskID), v.Detail))
		}
		if more := r.Count - len(r.Violations); more > 0 {
			fmt.Fprintln(w, textMore.In(l, more))
		}
	}
	if violations := store.CountViolations(rules); violations > 0 {
		fmt.Fprintln(w, textAuditFails.In(l, violations))
		return
	}
	fmt.Fprintln(w, textAuditPasses.In(l))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

var (
	textViolation   = lang.Text{EN: "    user %s task %s: %s", ZH: "    用户 %s 任务 %s：%s"}
	textMore        = lang.Text{EN: "    and %d more", ZH: "    另有 %d 处"}
	textAuditFails  = lang.Text{EN: "the audit found %d errors", One: "the audit found %d error", ZH: "审计发现 %d 处错误"}
	textAuditPasses = lang.Text{EN: "the audit passes: no credits are lost, and none were refunded twice", ZH: "审计通过：没有积分丢失，也没有重复退款"}
)

// ruleTitles are the titles of the audit's rules by code. The codes are those in pkg/store/sql/audit.sql.
var ruleTitles = map[string]lang.Text{
	"duplicate_charge_or_refund": {EN: "each run of a task has at most one charge and one refund", ZH: "任务的每次执行最多扣费一次、退款一次"},
	"refund_without_charge":      {EN: "every refund matches a charge", ZH: "每笔退款都有对应的扣费，未扣费的任务不会退款"},
	"refund_without_failure":     {EN: "only runs that failed or were cancelled are refunded", ZH: "仅对失败或已取消的执行退款"},
	"missing_refund":             {EN: "every charged run that failed or was cancelled is refunded", ZH: "已扣费的执行失败或取消后均已退款"},
	"missing_charge":             {EN: "every task that says it was charged has a charge", ZH: "标记为已扣费的任务都有扣费记录"},
	"task_columns_mismatch":      {EN: "the credit columns of every task match the ledger", ZH: "任务表中的积分列与流水一致"},
	"balance_mismatch":           {EN: "every balance is the sum of its ledger entries and is not negative", ZH: "每个用户的余额等于其流水之和，且不为负数"},
	"broken_ledger_chain":        {EN: "each ledger entry continues from the one before it", ZH: "每条流水与上一条流水的余额衔接"},
}

// ruleTitle returns the title of a rule, or its code if there is none.
func ruleTitle(code string) lang.Text {
	if title, ok := ruleTitles[code]; ok {
		return title
	}
	return lang.Text{EN: code, ZH: code}
}
