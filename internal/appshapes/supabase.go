package appshapes

import (
	"strconv"

	"imagetasks/pkg/bridge"
)

func public(name string) bridge.Table { return bridge.Table{Schema: "public", Name: name} }

// supabase is an AI image assistant on Supabase: text keys, most routes set no flag of the charge, a gallery of its own whose CHECK refuses URLs
// without a domain, and triggers on everything.
func supabase() Shape {
	return Shape{
		Name: "supabase", InitialSQL: read("supabase.sql"), seed: read("supabase_seed.sql"), user: uuidUser,
		key:  func(kind string, n int) string { return "task_" + digest(kind+strconv.Itoa(n)) },
		Cost: flatCost(1), Absolute: true, Marked: true,
		Description: bridge.Description{
			Tasks: public("ai_images_creator_tasks"), Key: "task_id", User: "user_id",
			Prompt: "prompt", Style: "style", Inputs: []string{"image_base64"},
			Result: "result_url", ResultForm: "text", Error: "error_message", Progress: "progress_percentage", Stage: "current_stage",
			Stages: map[string]string{"claimed": "preparing", "waiting for the API": "sending_request", "receiving the picture": "generating",
				"fetching the picture": "extracting_image", "storing the picture": "finalizing", "completed": "completed", "closed": "failed"},
			Created: "created_at", Started: "processing_started_at", Completed: "completed_at", Updated: "updated_at",
			Status: bridge.Status{Column: "status", Pending: []string{"pending"}, Processing: []string{"processing"}, Completed: []string{"completed"},
				Failed: []string{"failed"}, Cancelled: []string{"cancelled"}},
			Moving: bridge.Moving{Processing: "requeue"},
			Credits: bridge.Credits{Cost: 1, Charged: "always", RefundedColumn: "credits_refunded",
				Table: public("ai_images_creator_credits"), Key: "user_id", Column: "credits", Refund: "balance", Charge: "balance"},
			Log: &bridge.Insert{Table: public("ai_images_creator_credit_logs"), Columns: map[string]string{"user_id": "{user}", "operation_type": "refund",
				"old_value": "{balance_before}", "change_value": "{amount}", "new_value": "{balance}", "note": "refund of task {task}"}},
			History: &bridge.Insert{Table: public("ai_images_creator_history"), Columns: map[string]string{"user_id": "{user}", "image_url": "{url}",
				"prompt": "{prompt}", "style": "{style}", "model_used": "{model}", "status": "completed"}},
			Path: []string{"public"},
		},
		Fixed: []Columns{
			{"public.ai_images_creator_tasks", "task_id", "id, user_id, prompt, image_base64, style, created_at, model_used, extra_data, credits_deducted, stage_details"},
			{"public.ai_images_creator_credits", "user_id", "id, last_order_no, created_at"},
			{"auth.users", "id", "email, created_at"},
		},
		statements: statements{
			addUser: []string{
				"insert into auth.users (id, email) values ({user}::uuid, {user}::text || '@example.com')",
				"update public.ai_images_creator_credits set credits = {amount}::int where user_id = {user}::uuid",
			},
			insert: `insert into public.ai_images_creator_tasks (user_id, task_id, prompt, style, extra_data)
				values ({user}::uuid, 'task_' || {new}::text, {prompt}, 'ink', jsonb_build_object('charged', {charged}::text)) returning task_id`,
			balance: "select credits from public.ai_images_creator_credits where user_id = {user}::uuid",
			lock:    "select 1 from public.ai_images_creator_credits where user_id = {user}::uuid for no key update",
			set: `with old as (select user_id, credits from public.ai_images_creator_credits where user_id = {user}::uuid for no key update)
				update public.ai_images_creator_credits c set credits = {amount}::int, updated_at = now() from old where c.user_id = old.user_id returning old.credits`,
			add: `update public.ai_images_creator_credits set credits = credits + {amount}::int, updated_at = now()
				where user_id = {user}::uuid and credits + {amount}::int >= 0 returning credits`,
			buyLog: `insert into public.ai_images_creator_credit_logs (user_id, order_no, operation_type, change_value)
				values ({user}::uuid, gen_random_uuid()::text, 'recharge', {amount}::int)`,
			cancel: "select public.cancel_task({key}, {user}::uuid)",
			refunded: `update public.ai_images_creator_tasks set credits_refunded = true
				where task_id = {key} and status in ('failed', 'cancelled') and not coalesce(credits_refunded, false) returning task_id`,
			deleteTask: "delete from public.ai_images_creator_tasks where task_id = {key} returning task_id",
			deleteUser: "delete from auth.users where id = {user}::uuid",
			tasks: `select task_id, status, coalesce(result_url, ''), coalesce(credits_refunded, false)::text, 1
				from public.ai_images_creator_tasks where user_id = {user}::uuid`,
			gallery: "select image_url from public.ai_images_creator_history where user_id = {user}::uuid",
		},
	}
}
