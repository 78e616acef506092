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
		fmt.Fprintf(w, "%s %s\n", mark, ruleTitle(r).In(l))
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

func ruleTitle(r store.Rule) lang.Text { return lang.Text{EN: r.Name} }
