package store_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

// Each money rule, violated by direct changes of the tables, is reported under its code.
func TestAudit_FindsEveryViolation(t *testing.T) {
	const unprotect = `alter table imagetasks.ledger disable trigger append_only;`
	for name, fault := range map[string]struct{ code, do string }{
		"index dropped": {"duplicate_charge_or_refund", `alter table imagetasks.ledger drop constraint ledger_once`},
		"charged twice": {"duplicate_charge_or_refund", `alter table imagetasks.ledger drop constraint ledger_once;
			insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after)
			select user_id, task_id, run, kind, amount, 0 from imagetasks.ledger where kind = 'charge'`},
		"refund without charge": {"refund_without_charge", `insert into imagetasks.ledger (user_id, task_id, run, kind, amount, balance_after)
			select user_id, 'ghost', 1, 'refund', 1, 1 from imagetasks.credits`},
		"refund of another amount": {"refund_without_charge", unprotect + `update imagetasks.ledger set amount = 3 where kind = 'refund'`},
		"refund to another user":   {"refund_without_charge", unprotect + `update imagetasks.ledger set user_id = gen_random_uuid() where kind = 'refund'`},
		"refund of a completed task": {"refund_without_failure", `update imagetasks.tasks set status = 'completed'
			where status = 'cancelled'`},
		"failed without refund": {"missing_refund", `update imagetasks.tasks set status = 'failed' where status = 'pending'`},
		"charge missing": {"missing_charge", unprotect + `delete from imagetasks.ledger where kind = 'charge' and task_id =
			(select task_id from imagetasks.tasks where status = 'pending')`},
		"refund of a later run":          {"refund_without_failure", unprotect + `update imagetasks.ledger set run = 2 where kind in ('charge', 'refund')`},
		"column without ledger":          {"task_columns_mismatch", `update imagetasks.tasks set credits_refunded = 9`},
		"balance changed without ledger": {"balance_mismatch", `update imagetasks.credits set credits = credits + 1`},
		"user deleted":                   {"balance_mismatch", `delete from imagetasks.credits`},
		"rows that cancel out": {"broken_ledger_chain", unprotect + `update imagetasks.ledger set balance_after = balance_after + 1
			where kind = 'grant'`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fresh(t)
			user := b.user(10)
			ids := b.enqueue(user, 2, 2)
			b.cancel(ids[0])
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
