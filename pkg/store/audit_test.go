package store_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

// Each money rule, violated by direct changes of the tables, is reported under its code.
func TestAudit_FindsEveryViolation(t *testing.T) {
	const unprotect = `alter table credit_ledger disable trigger append_only;`
	for name, fault := range map[string]struct{ code, do string }{
		"index dropped": {"duplicate_charge_or_refund", `alter table credit_ledger drop constraint credit_ledger_once`},
		"charged twice": {"duplicate_charge_or_refund", `alter table credit_ledger drop constraint credit_ledger_once;
			insert into credit_ledger (user_id, task_id, kind, amount, balance_after)
			select user_id, task_id, kind, amount, 0 from credit_ledger where kind = 'charge'`},
		"refund without charge": {"refund_without_charge", `insert into credit_ledger (user_id, task_id, kind, amount, balance_after)
			select user_id, 'ghost', 'refund', 1, 1 from user_credits`},
		"refund of another amount": {"refund_without_charge", unprotect + `update credit_ledger set amount = 3 where kind = 'refund'`},
		"refund to another user":   {"refund_without_charge", unprotect + `update credit_ledger set user_id = gen_random_uuid() where kind = 'refund'`},
		"refund of a completed task": {"refund_without_failure", `update image_tasks set status = 'completed'
			where status = 'cancelled'`},
		"failed without refund":          {"missing_refund", `update image_tasks set status = 'failed' where status = 'pending'`},
		"column without ledger":          {"task_columns_mismatch", `update image_tasks set credits_refunded = 9`},
		"balance changed without ledger": {"balance_mismatch", `update user_credits set credits = credits + 1`},
		"user deleted":                   {"balance_mismatch", `delete from user_credits`},
		"rows that cancel out": {"broken_ledger_chain", unprotect + `update credit_ledger set balance_after = balance_after + 1
			where kind = 'grant'`},
	} {
		t.Run(name, func(t *testing.T) {
			b := fresh(t)
			user := b.user(10)
			ids := b.enqueue(user, 2, 2)
			noErr(t)(b.Cancel(b.ctx, ids[0], ""))
			b.requireAudit()
			b.exec(fault.do)
			rules, err := b.Audit(b.ctx)
			require.NoError(t, err)
			assert.Positive(t, store.CountViolations(rules))
			found := false
			for _, r := range rules {
				if r.Code == fault.code {
					found = r.Count > 0 && len(r.Violations) > 0 && r.Violations[0].Detail != ""
				}
			}
			assert.True(t, found, "%s: %+v", fault.code, rules)
		})
	}
}
