package appshapes

import "imagetasks/pkg/bridge"

// lots is an application without balances: credits are lots that expire, which its own functions use up, first in first out.
func lots() Shape {
	return Shape{
		Name: "lots", InitialSQL: read("lots.sql"), seed: read("lots_seed.sql"), user: uuidUser, key: uuidKey,
		Cost: flatCost(2), Marked: true,
		Description: bridge.Description{
			Tasks: public("picture_orders"), Key: "id", User: "customer_id", Prompt: "prompt",
			Result: "picture", ResultForm: "text", Error: "message", Created: "created_at", Updated: "changed_at",
			Status: bridge.Status{Column: "state", Pending: []string{"waiting"}, Processing: []string{"working"}, Completed: []string{"ready"},
				Failed: []string{"error"}, Cancelled: []string{"withdrawn"}},
			Moving: bridge.Moving{Processing: "requeue"},
			Credits: bridge.Credits{Cost: 2, Charged: "column", ChargedColumn: "credits_charged", RefundedColumn: "credits_returned",
				Refund: "public.refund_lots({user}, {amount}, {task})", Charge: "public.charge_lots({user}, {amount}, {task})"},
			Notify: "picture_orders", Path: []string{"public"},
		},
		Fixed: []Columns{
			{"public.picture_orders", "id", "customer_id, prompt, credits_charged, options, created_at"},
			{"public.customers", "id", "name"},
		},
		statements: statements{
			addUser: []string{
				"insert into public.customers values ({user}::uuid, 'user')",
				"insert into public.credit_lots (customer_id, bought, remaining) select {user}::uuid, {amount}::int, {amount}::int where {amount}::int > 0",
			},
			insert: `insert into public.picture_orders (id, customer_id, prompt, credits_charged)
				values ({new}::uuid, {user}::uuid, {prompt}, case when {charged}::boolean then {amount}::int else 0 end) returning id`,
			charged: "update public.picture_orders set credits_charged = {amount}::int where id = {key}::uuid",
			balance: "select coalesce(sum(remaining), 0) from public.credit_lots where customer_id = {user}::uuid and expires_at > now()",
			lock:    "select 1 from public.credit_lots where customer_id = {user}::uuid order by expires_at, id for no key update",
			charge:  "select public.charge_lots({user}::uuid, {amount}::int, {key}::uuid)",
			refund:  "select public.refund_lots({user}::uuid, {amount}::int, {key}::uuid)",
			buy:     "insert into public.credit_lots (customer_id, bought, remaining) values ({user}::uuid, {amount}::int, {amount}::int)",
			cancel: `update public.picture_orders set state = 'withdrawn', changed_at = now()
				where id = {key}::uuid and state in ('waiting', 'working') returning id`,
			refunded: `update public.picture_orders set credits_returned = {amount}::int
				where id = {key}::uuid and state in ('error', 'withdrawn') and credits_charged > 0 and credits_returned = 0 returning id`,
			deleteTask: "delete from public.picture_orders where id = {key}::uuid returning id",
			deleteUser: "delete from public.customers where id = {user}::uuid",
			tasks: `select id, case state when 'waiting' then 'pending' when 'working' then 'processing' when 'ready' then 'completed' when 'error' then 'failed'
					else 'cancelled' end, coalesce(picture, ''), (credits_returned > 0)::text, 2
				from public.picture_orders where customer_id = {user}::uuid`,
		},
	}
}
