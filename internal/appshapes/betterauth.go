package appshapes

import (
	"strconv"

	"imagetasks/pkg/bridge"
)

// betterAuth is a Drizzle application with Better Auth: text keys, times without time zone, and an input picture at a URL for each task.
func betterAuth() Shape {
	return Shape{
		Name: "betterauth", InitialSQL: read("betterauth.sql"), seed: read("betterauth_seed.sql"),
		user: func(n int) string { return "user_" + strconv.Itoa(n) },
		key:  func(kind string, n int) string { return "gen_" + kind + "_" + strconv.Itoa(n) },
		Cost: flatCost(1), Absolute: true,
		Description: bridge.Description{
			Tasks: public("generation"), Key: "id", User: "user_id", Prompt: "prompt", Inputs: []string{"style_image_url"},
			Result: "generated_image_url", ResultForm: "text", Created: "created_at", Updated: "updated_at",
			Status: bridge.Status{Column: "status", Pending: []string{"pending"}, Processing: []string{"processing"}, Completed: []string{"completed"},
				Failed: []string{"failed"}},
			Moving:  bridge.Moving{Processing: "requeue"},
			Credits: bridge.Credits{Cost: 1, Charged: "always", Table: public("user_credits"), Key: "user_id", Column: "credits", Refund: "balance", Charge: "balance"},
			Path:    []string{"public"},
		},
		Fixed: []Columns{
			{"public.generation", "id", "user_id, prompt, style_image_url, created_at"},
			{"public.user_credits", "user_id", "id, updated_at"},
			{`public."user"`, "id", "name, email, created_at"},
		},
		statements: statements{
			addUser: []string{
				`insert into public."user" (id, name, email) values ({user}, 'user', {user}::text || '@example.com')`,
				"insert into public.user_credits (user_id, credits) values ({user}, {amount}::int)",
			},
			insert: `insert into public.generation (id, user_id, prompt, style_image_url)
				values ('gen_' || {new}::text, {user}, {prompt}, 'https://pictures.example.com/style/1.png') returning id`,
			balance: "select credits from public.user_credits where user_id = {user}",
			lock:    "select 1 from public.user_credits where user_id = {user} for no key update",
			set: `with old as (select user_id, credits from public.user_credits where user_id = {user} for no key update)
				update public.user_credits c set credits = {amount}::int from old where c.user_id = old.user_id returning old.credits`,
			add: `update public.user_credits set credits = credits + {amount}::int, total_credits_used = total_credits_used + greatest(0, - {amount}::int)
				where user_id = {user} and credits + {amount}::int >= 0 returning credits`,
			cancel:     "update public.generation set status = 'failed', updated_at = now() where id = {key} and status in ('pending', 'processing') returning id",
			deleteTask: "delete from public.generation where id = {key} returning id",
			deleteUser: `delete from public."user" where id = {user}`,
			tasks:      "select id, status, coalesce(generated_image_url, ''), 'false', 1 from public.generation where user_id = {user}",
		},
	}
}
