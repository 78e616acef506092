package store_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

func TestMigrate_Concurrent(t *testing.T) {
	url := server.Empty(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	steps := 0
	for range 6 {
		b := open(t, url)
		wg.Go(func() {
			done, err := b.Migrate(b.ctx)
			assert.NoError(t, err)
			mu.Lock()
			steps += len(done)
			mu.Unlock()
		})
	}
	wg.Wait()
	assert.Equal(t, 2, steps, "each migration is applied once")
	assert.NoError(t, open(t, url).CheckSchema(t.Context()))
}

func TestPlan_ChangesNothing(t *testing.T) {
	b := open(t, server.Empty(t))
	assert.ErrorIs(t, b.CheckSchema(b.ctx), store.ErrSchema)
	plan, err := b.Plan(b.ctx)
	require.NoError(t, err)
	require.Len(t, plan, 2)
	assert.Contains(t, plan[0].SQL, `create table "image_tasks"`)
	assert.Contains(t, plan[1].SQL, `create table "imagetasks_processors"`)
	for _, step := range plan {
		assert.NotContains(t, step.SQL, "drop table")
	}
	assert.Zero(t, b.number("select count(*) from information_schema.tables where table_schema = 'public'"))

	done, err := b.Migrate(b.ctx)
	require.NoError(t, err)
	assert.Len(t, done, 2)
	plan, err = b.Plan(b.ctx)
	require.NoError(t, err)
	assert.Empty(t, plan)
}

func TestCheckSchema_NewerSchema(t *testing.T) {
	b := fresh(t)
	b.exec(`insert into imagetasks_schema_version (version_id, is_applied) values (9999, true)`)
	err := b.CheckSchema(b.ctx)
	assert.ErrorIs(t, err, store.ErrSchema)
	assert.ErrorContains(t, err, "newer")
}

func TestSchema_RejectsInvalidRows(t *testing.T) {
	b := fresh(t)
	user := b.user(3)
	id := b.enqueue(user, 1, 1)[0]
	for rule, statement := range map[string]string{
		"a balance below zero":       `update user_credits set credits = -1`,
		"a second charge":            `insert into credit_ledger (user_id, task_id, kind, amount, balance_after) select user_id, task_id, kind, amount, 0 from credit_ledger where kind = 'charge'`,
		"a positive charge":          `insert into credit_ledger (user_id, task_id, kind, amount, balance_after) select user_id, 'x', 'charge', 1, 0 from user_credits`,
		"a grant for a task":         `insert into credit_ledger (user_id, task_id, kind, amount, balance_after) select user_id, 'x', 'grant', 1, 0 from user_credits`,
		"an update of the ledger":    `update credit_ledger set amount = amount`,
		"a deletion from the ledger": `delete from credit_ledger`,
		"a truncation of the ledger": `truncate credit_ledger`,
		"an unknown state":           `update image_tasks set status = 'lost'`,
		"progress beyond 100":        `update image_tasks set progress_percentage = 101`,
		"a task without an id":       `insert into image_tasks (task_id, user_id, prompt) select '', user_id, 'x' from user_credits`,
	} {
		_, err := b.raw.ExecContext(b.ctx, statement)
		assert.Error(t, err, rule)
	}
	noErr(t)(b.Cancel(b.ctx, id, ""))
	b.requireAudit()
}
