package appshapes

import (
	"strconv"

	"imagetasks/pkg/bridge"
)

// booleans is an application without a column for the status: bigint keys, results in jsonb, a cost of 1 to 10 for each task, and a balance in the users'
// table.
func booleans() Shape {
	return Shape{
		Name: "booleans", InitialSQL: read("booleans.sql"), seed: read("booleans_seed.sql"), user: strconv.Itoa,
		Cost: func(n int) int64 { return int64(1 + n%10) }, Absolute: true, Marked: true,
		Description: bridge.Description{
			Tasks: public("renders"), Key: "id", User: "account_id", Prompt: "description", Model: "engine",
			Values: map[string]map[string]string{"model": {"standard": ""}},
			Result: "output", ResultForm: `{"images": [{"url": "{url}"}]}`, Error: "failure", Created: "created_at",
			Status: bridge.Status{FailedColumn: "failed", ProcessingColumn: "started"},
			Moving: bridge.Moving{Processing: "requeue"},
			Credits: bridge.Credits{Cost: 1, CostColumn: "price", Charged: "column", ChargedColumn: "paid", RefundedColumn: "refunded_coins",
				Table: public("accounts"), Key: "id", Column: "coins", Refund: "balance", Charge: "balance"},
			Path: []string{"public"},
		},
		Fixed: []Columns{
			{"public.renders", "id", "account_id, description, engine, price, paid, tags, created_at"},
			{"public.accounts", "id", "login"},
		},
		statements: statements{
			addUser: []string{"insert into public.accounts (id, login, coins) values ({user}::bigint, 'user', {amount}::bigint)"},
			insert: `insert into public.renders (account_id, description, price, paid) values ({user}::bigint, {prompt}, {amount}::int, {charged}::boolean)
				returning id`,
			charged: "update public.renders set paid = true where id = {key}::bigint",
			balance: "select coins from public.accounts where id = {user}::bigint",
			lock:    "select 1 from public.accounts where id = {user}::bigint for no key update",
			set: `with old as (select id, coins from public.accounts where id = {user}::bigint for no key update)
				update public.accounts a set coins = {amount}::bigint from old where a.id = old.id returning old.coins`,
			add: "update public.accounts set coins = coins + {amount}::bigint where id = {user}::bigint and coins + {amount}::bigint >= 0 returning coins",
			cancel: `update public.renders set failed = true, failure = 'cancelled by the user'
				where id = {key}::bigint and not failed and output is null returning id`,
			refunded: `update public.renders set refunded_coins = {amount}::int
				where id = {key}::bigint and failed and paid and refunded_coins = 0 returning id`,
			deleteTask: "delete from public.renders where id = {key}::bigint returning id",
			deleteUser: "delete from public.accounts where id = {user}::bigint",
			tasks: `select id, case when output is not null then 'completed' when failed then 'failed' when started then 'processing' else 'pending' end,
					coalesce(output #>> '{images,0,url}', ''), (refunded_coins > 0)::text, price
				from public.renders where account_id = {user}::bigint`,
		},
	}
}
