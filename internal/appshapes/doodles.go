package appshapes

import "imagetasks/pkg/bridge"

// doodles is a Drizzle application: one word for pending and processing, a picture instead of a prompt, and nothing that shows a charge or a refund.
func doodles() Shape {
	return Shape{
		Name: "doodles", InitialSQL: read("doodles.sql"), seed: read("doodles_seed.sql"), user: uuidUser,
		key: func(kind string, n int) string {
			if kind == "processing" {
				return "" // such rows are pending
			}
			return uuidKey(kind, n)
		},
		Cost: flatCost(1), Absolute: true,
		Description: bridge.Description{
			Tasks: public("doodles"), Key: "id", User: "user_id", Inputs: []string{"doodle_url"},
			Result: "image_url", ResultForm: "text", Created: "created_at", Updated: "updated_at",
			Status: bridge.Status{Column: "status", Pending: []string{"generating"}, Processing: []string{"generating"}, Completed: []string{"succeeded"},
				Failed: []string{"failed"}},
			Moving:  bridge.Moving{Processing: "requeue"},
			Credits: bridge.Credits{Cost: 1, Charged: "always", Table: public("user_credits"), Key: "user_id", Column: "balance", Refund: "balance", Charge: "balance"},
			Path:    []string{"public"},
		},
		Fixed: []Columns{
			{"public.doodles", "id", "user_id, doodle_url, run_id, created_at"},
			{"public.users", "id", "name"},
		},
		statements: statements{
			addUser: []string{
				"insert into public.users (id, name) values ({user}::uuid, 'user')",
				"insert into public.user_credits (user_id, balance) values ({user}::uuid, {amount}::int)",
			},
			insert: `insert into public.doodles (user_id, doodle_url, run_id)
				values ({user}::uuid, 'https://pictures.example.com/doodle/new.png', 'run_' || {prompt}::text) returning id`,
			balance: "select balance from public.user_credits where user_id = {user}::uuid",
			lock:    "select 1 from public.user_credits where user_id = {user}::uuid for no key update",
			set: `with old as (select user_id, balance from public.user_credits where user_id = {user}::uuid for no key update)
				update public.user_credits c set balance = {amount}::int, updated_at = now() from old where c.user_id = old.user_id returning old.balance`,
			add: `update public.user_credits set balance = balance + {amount}::int, updated_at = now()
				where user_id = {user}::uuid and balance + {amount}::int >= 0 returning balance`,
			cancel:     "update public.doodles set status = 'failed', updated_at = now() where id = {key}::uuid and status = 'generating' returning id",
			deleteTask: "delete from public.doodles where id = {key}::uuid returning id",
			deleteUser: "delete from public.users where id = {user}::uuid",
			tasks: `select id, case status when 'succeeded' then 'completed' when 'generating' then 'processing' else status end, coalesce(image_url, ''), 'false', 1
				from public.doodles where user_id = {user}::uuid`,
		},
	}
}
