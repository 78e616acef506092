package store_test

import (
	"database/sql"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// preparedStore is a Store with one connection that prepares a statement on a table of the test.
type preparedStore struct {
	*store.Store
	t          *testing.T
	text, name string
}

// A call adds a row, so that one which is executed twice shows.
const preparedText = "insert into counted (n) select $1::int returning n, (select count(*) from counted)"

func newPreparedStore(t *testing.T, url string, age time.Duration) *preparedStore {
	t.Helper()
	s, err := store.Open(store.Config{URL: url, MaxConns: 1})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	p := &preparedStore{Store: s, t: t, text: preparedText, name: s.Prepare(preparedText, age)}
	p.exec("create table counted (n int)")
	return p
}

func (p *preparedStore) exec(text string) {
	p.t.Helper()
	_, err := p.DB().ExecContext(p.t.Context(), text)
	require.NoError(p.t, err)
}

// call executes the statement, and checks that it had an effect exactly once.
func (p *preparedStore) call(query queryRowFunc) {
	p.t.Helper()
	var before, n, seen, after int
	require.NoError(p.t, query(p.t.Context(), "select count(*) from counted").Scan(&before))
	require.NoError(p.t, query(p.t.Context(), p.text, before).Scan(&n, &seen))
	require.NoError(p.t, query(p.t.Context(), "select count(*) from counted").Scan(&after))
	assert.Equal(p.t, []int{before, before, before + 1}, []int{n, seen, after})
}

// uses returns how often the statements of the session with that name, or a later generation of it, were executed.
func (p *preparedStore) uses() (n sql.NullInt64) {
	p.t.Helper()
	require.NoError(p.t, p.DB().QueryRowContext(p.t.Context(),
		"select sum(generic_plans + custom_plans) from pg_prepared_statements where name like '"+p.name+"%'").Scan(&n))
	return n
}

func TestPrepared_OncePerConnection(t *testing.T) {
	p := newPreparedStore(t, server.Empty(t), time.Hour)
	for range 10 {
		p.call(p.DB().QueryRowContext)
	}
	assert.EqualValues(t, 10, p.uses().Int64)
	_, err := p.DB().ExecContext(t.Context(), p.text, 10)
	require.NoError(t, err)
	assert.EqualValues(t, 11, p.uses().Int64)
}

// A session keeps no more than one of each.
func TestPrepared_AgainAfterAWhile(t *testing.T) {
	p := newPreparedStore(t, server.Empty(t), 0)
	for n := range 3 {
		p.call(p.DB().QueryRowContext)
		var names string
		require.NoError(t, p.DB().QueryRowContext(t.Context(), "select string_agg(name, ' ') from pg_prepared_statements").Scan(&names))
		assert.Equal(t, p.name+[]string{"", "_1", "_2"}[n], names)
	}
	p.exec("deallocate all")
	p.call(p.DB().QueryRowContext)
	assert.EqualValues(t, 1, p.uses().Int64)
}

// An error after which the statement is prepared all the same, and one after which it is not.
func TestPrepared_AfterErrors(t *testing.T) {
	p := newPreparedStore(t, server.Empty(t), time.Hour)
	p.exec("alter table counted rename to other")
	assert.ErrorContains(t, p.DB().QueryRowContext(t.Context(), p.text, 1).Err(), "does not exist")
	p.exec("alter table other rename to counted")
	assert.ErrorContains(t, p.DB().QueryRowContext(t.Context(), p.text, "x").Err(), "invalid input syntax")
	p.call(p.DB().QueryRowContext)
	assert.EqualValues(t, 1, p.uses().Int64)
}

// A session that lost the statement, that has one of its name, or whose plan is of no use any more.
func TestPrepared_NotUsable(t *testing.T) {
	for name, spoil := range map[string]struct {
		with     string
		prepares bool // afterwards
	}{
		"lost":    {with: "deallocate all"},
		"changed": {with: "alter table counted alter n type bigint", prepares: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPreparedStore(t, server.Empty(t), time.Hour)
			p.call(p.DB().QueryRowContext)
			p.exec(spoil.with)
			p.call(p.DB().QueryRowContext)
			before := p.uses().Int64
			p.call(p.DB().QueryRowContext)
			p.call(p.DB().QueryRowContext)
			want := before
			if spoil.prepares {
				want += 2
			}
			assert.Equal(t, want, p.uses().Int64)
		})
	}
	t.Run("taken", func(t *testing.T) {
		t.Parallel()
		p := newPreparedStore(t, server.Empty(t), time.Hour)
		p.exec("prepare " + p.name + " (int) as " + preparedText)
		p.call(p.DB().QueryRowContext)
		p.call(p.DB().QueryRowContext)
		assert.Zero(t, p.uses().Int64)
	})
}

// An error would end a transaction: its statements are sent as they are.
func TestPrepared_NotInTransactions(t *testing.T) {
	p := newPreparedStore(t, server.Empty(t), time.Hour)
	p.call(p.DB().QueryRowContext)
	p.exec("deallocate all")
	tx, err := p.DB().BeginTx(t.Context(), nil)
	require.NoError(t, err)
	p.call(tx.QueryRowContext)
	require.NoError(t, tx.Commit())
	assert.Zero(t, p.uses().Int64)
}

// A pooler in transaction mode gives each statement the session that is free. It shows with the first statement that meets another session.
func TestPrepared_BehindTransactionPooler(t *testing.T) {
	url := server.Pooled(t)
	p := newPreparedStore(t, url, time.Hour)
	p.call(p.DB().QueryRowContext)
	assert.EqualValues(t, 1, p.uses().Int64)

	// A transaction of another client takes the session.
	holder, err := store.Open(store.Config{URL: url, MaxConns: 1})
	require.NoError(t, err)
	defer holder.Close()
	tx, err := holder.DB().BeginTx(t.Context(), nil)
	require.NoError(t, err)
	p.call(p.DB().QueryRowContext)
	assert.Zero(t, p.uses().Int64, "the other session")
	require.NoError(t, tx.Rollback())

	// Two sessions of the server are free now. Neither gets anything prepared for a while.
	for range 5 {
		p.call(p.DB().QueryRowContext)
	}
	assert.LessOrEqual(t, p.uses().Int64, int64(1))
	assert.Greater(t, store.Unprepared, time.Minute)
}

// The calls of a processor, by many connections at a time through the pooler, with everything prepared anew whenever they meet another session.
func TestPrepared_CallsBehindTransactionPooler(t *testing.T) {
	url := server.Pooled(t)
	b := open(t, url)
	b.enqueue(b.user(40), 40, 1)
	results := make(chan error, 8)
	for range cap(results) {
		go func() {
			results <- func() error {
				s, err := store.Open(store.Config{URL: url, MaxConns: 1})
				if err != nil {
					return err
				}
				defer s.Close()
				for range 5 {
					tasks, err := s.Claim(t.Context(), store.ClaimRequest{Worker: "w", Limit: 1, Lease: time.Minute, MaxAttempts: 3})
					if err != nil || len(tasks) != 1 {
						return assert.AnError
					}
					lease := tasks[0].Lease()
					if _, _, err := s.BeginRequest(t.Context(), lease, uuid.New(), "e", 0); err != nil {
						return err
					}
					held, err := s.Complete(t.Context(), store.Completion{Lease: lease, ImageURL: "u"})
					if err != nil || len(held) != 1 {
						return assert.AnError
					}
				}
				return nil
			}()
		}()
	}
	for range cap(results) {
		assert.NoError(t, <-results)
	}
	assert.Equal(t, 40, b.number(`select count(*) from imagetasks.tasks where status = $1 and attempt_count <= 1 and lease_epoch = 1`, task.Completed))
	b.requireAudit()
}

// A plan that is made without knowing the arguments finds the rows by an index.
func TestPrepared_GenericPlans(t *testing.T) {
	b := fresh(t)
	conn, err := b.raw.Conn(b.ctx)
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(b.ctx, "set plan_cache_mode = force_generic_plan")
	require.NoError(t, err)
	parameter := regexp.MustCompile(`\$(\d+)`)
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, status, processing_started_at)
	        select 'old-' || i, gen_random_uuid(), 'x', 'completed', now() - interval '1 day' from generate_series(1, 20000) i`)
	b.enqueue(b.user(300), 300, 1)
	b.claim(100)
	b.exec(`vacuum analyze imagetasks.tasks`)
	for _, name := range b.HotStatements() {
		text, last := b.Statement(name), 0
		for _, found := range parameter.FindAllStringSubmatch(text, -1) {
			n, _ := strconv.Atoi(found[1])
			last = max(last, n)
		}
		arguments := ""
		if last > 0 {
			arguments = "(" + strings.TrimSuffix(strings.Repeat("null, ", last), ", ") + ")"
		}
		_, err := conn.ExecContext(b.ctx, "prepare hot as "+text)
		require.NoError(t, err, name)
		rows, err := conn.QueryContext(b.ctx, "explain execute hot"+arguments)
		require.NoError(t, err, name)
		var plan []string
		for rows.Next() {
			var line string
			require.NoError(t, rows.Scan(&line))
			plan = append(plan, line)
		}
		require.NoError(t, rows.Close())
		assert.NotRegexp(t, `Seq Scan on (tasks|ledger|results|inputs)`, strings.Join(plan, "\n"), name)
		_, err = conn.ExecContext(b.ctx, "deallocate hot")
		require.NoError(t, err)
	}
}
