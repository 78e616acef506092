package appshapes

import "imagetasks/pkg/bridge"

// frozen is an application that freezes credits when a task begins, and captures or releases them when it ends, with functions of its own. Its table has works of other
// kinds, too.
func frozen() Shape {
	table := func(name string) bridge.Table { return bridge.Table{Schema: "app", Name: name} }
	return Shape{
		Name: "frozen", InitialSQL: read("frozen.sql"), seed: read("frozen_seed.sql"), user: uuidUser, key: uuidKey,
		Cost: flatCost(3),
		Description: bridge.Description{
			Tasks: table("artworks"), Key: "uid", Only: map[string][]string{"kind": {"image"}}, User: "member_id", Prompt: "prompt",
			Result: "urls", ResultForm: "array", Error: "error_text", Created: "created_at", Completed: "done_at",
			Status: bridge.Status{Column: "status", Pending: []string{"new"}, Processing: []string{"draw"}, Completed: []string{"done"}, Failed: []string{"error"},
				Cancelled: []string{"void"}},
			Moving: bridge.Moving{Processing: "requeue"},
			Credits: bridge.Credits{Cost: 3, CostColumn: "cost", Charged: "log",
				ChargeLog: &bridge.Match{Table: table("holds"), Task: "artwork"},
				RefundLog: &bridge.Match{Table: table("holds"), Task: "artwork", Where: map[string][]string{"state": {"released"}}},
				Table:     table("wallets"), Key: "member_id", Column: "available",
				Refund: "app.release({user}, {amount}, {task})", Charge: "app.hold({user}, {amount}, {task})"},
			Path: []string{"app"},
		},
		Fixed: []Columns{
			{"app.artworks", "uid", "member_id, kind, prompt, cost, created_at"},
			{"app.members", "id", "nickname"},
		},
		statements: statements{
			addUser: []string{
				"insert into app.members values ({user}::uuid, 'user')",
				"insert into app.wallets (member_id, available) values ({user}::uuid, {amount}::bigint)",
			},
			insert:  "insert into app.artworks (uid, member_id, prompt, cost) values ({new}::uuid, {user}::uuid, {prompt}, {amount}::int) returning uid",
			balance: "select available from app.wallets where member_id = {user}::uuid",
			lock:    "select 1 from app.wallets where member_id = {user}::uuid for no key update",
			add:     "update app.wallets set available = available + {amount}::bigint where member_id = {user}::uuid returning available",
			charge:  "select app.hold({user}::uuid, {amount}::bigint, {key}::uuid)",
			refund:  "select app.release({user}::uuid, {amount}::bigint, {key}::uuid)",
			cancel: `update app.artworks set status = 'void', done_at = now()
				where uid = {key}::uuid and status in ('new', 'draw') returning uid`,
			deleteTask: "delete from app.artworks where uid = {key}::uuid returning uid",
			deleteUser: "delete from app.members where id = {user}::uuid",
			tasks: `select uid, case status when 'new' then 'pending' when 'draw' then 'processing' when 'done' then 'completed' when 'error' then 'failed'
					else 'cancelled' end, coalesce(urls[1], ''), (exists (select from app.holds where artwork = uid and state = 'released'))::text, cost
				from app.artworks where member_id = {user}::uuid and kind = 'image'`,
		},
	}
}
