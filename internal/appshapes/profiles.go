package appshapes

import "imagetasks/pkg/bridge"

// profiles is a Supabase starter: the balance is a column of the users' table, no word for cancelled, and a log that tells what was charged.
func profiles() Shape {
	log := public("credit_transactions")
	return Shape{
		Name: "profiles", InitialSQL: read("profiles.sql"), seed: read("profiles_seed.sql"), user: uuidUser, key: uuidKey,
		Cost: flatCost(1), Absolute: true, Marked: true,
		Description: bridge.Description{
			Tasks: public("generations"), Key: "id", User: "user_id", Prompt: "prompt",
			Result: "output_url", ResultForm: "text", Error: "error", Created: "created_at", Updated: "updated_at",
			Status: bridge.Status{Column: "status", Pending: []string{"pending"}, Processing: []string{"processing"}, Completed: []string{"completed"},
				Failed: []string{"failed"}},
			Moving: bridge.Moving{Processing: "fail"},
			Credits: bridge.Credits{Cost: 1, Charged: "log",
				ChargeLog: &bridge.Match{Table: log, Task: "generation_id", Where: map[string][]string{"type": {"usage"}}},
				RefundLog: &bridge.Match{Table: log, Task: "generation_id", Where: map[string][]string{"type": {"refund"}}},
				Table:     public("profiles"), Key: "id", Column: "credits", Refund: "balance", Charge: "balance"},
			Log:  &bridge.Insert{Table: log, Columns: map[string]string{"user_id": "{user}", "amount": "{amount}", "type": "refund", "generation_id": "{task}"}},
			Path: []string{"public"},
		},
		Fixed: []Columns{
			{"public.generations", "id", "user_id, prompt, seed, created_at"},
			{"public.profiles", "id", "username, created_at"},
		},
		statements: statements{
			addUser:   []string{"insert into public.profiles (id, username, credits) values ({user}::uuid, 'user', {amount}::int)"},
			insert:    "insert into public.generations (user_id, prompt, seed) values ({user}::uuid, {prompt}, 7) returning id",
			chargeLog: "insert into public.credit_transactions (user_id, amount, type, generation_id) values ({user}::uuid, - {amount}::int, 'usage', {key}::uuid)",
			balance:   "select credits from public.profiles where id = {user}::uuid",
			lock:      "select 1 from public.profiles where id = {user}::uuid for no key update",
			set: `with old as (select id, credits from public.profiles where id = {user}::uuid for no key update)
				update public.profiles p set credits = {amount}::int from old where p.id = old.id returning old.credits`,
			add:    "update public.profiles set credits = credits + {amount}::int where id = {user}::uuid and credits + {amount}::int >= 0 returning credits",
			buyLog: "insert into public.credit_transactions (user_id, amount, type) values ({user}::uuid, {amount}::int, 'purchase')",
			cancel: `update public.generations set status = 'failed', error = 'cancelled by the user', updated_at = now()
				where id = {key}::uuid and status in ('pending', 'processing') returning id`,
			lockTask: "select 1 from public.generations where id = {key}::uuid for no key update",
			refunded: `insert into public.credit_transactions (user_id, amount, type, generation_id)
				select user_id, {amount}::int, 'refund', id from public.generations
				where id = {key}::uuid and status = 'failed'
					and exists (select from public.credit_transactions l where l.generation_id = {key}::uuid and l.type = 'usage')
					and not exists (select from public.credit_transactions l where l.generation_id = {key}::uuid and l.type = 'refund')
				returning id`,
			deleteTask: "delete from public.generations where id = {key}::uuid returning id",
			deleteUser: "delete from public.profiles where id = {user}::uuid",
			tasks: `select id, status, coalesce(output_url, ''),
					(exists (select from public.credit_transactions l where l.generation_id = g.id and l.type = 'refund'))::text, 1
				from public.generations g where user_id = {user}::uuid`,
		},
	}
}
