insert into auth.users (id, email) select md5('user' || n)::uuid, 'user' || n || '@example.com' from generate_series(1, @users@) n;
update public.ai_images_creator_credits set credits = @balance@;
insert into public.ai_images_creator_tasks (user_id, task_id, status, prompt, style, result_url, error_message, credits_deducted, credits_refunded,
	created_at, completed_at, extra_data, progress_percentage, current_stage)
select md5('user' || 1 + n % @users@)::uuid, 'task_' || md5('history' || n)::uuid, case when n % 10 = 0 then 'failed' else 'completed' end, 'picture ' || n, 'watercolor',
	case when n % 10 <> 0 then 'https://pictures.example.com/old/' || n || '.png' end, case when n % 10 = 0 then 'timed out' end, n % 3 = 0, n % 10 = 0,
	timezone('utc', now()) - interval '1 day' - n * interval '1 second', timezone('utc', now()) - interval '1 day', jsonb_build_object('n', n), 100, 'completed'
from generate_series(1, @history@) n;
insert into public.ai_images_creator_history (user_id, image_url, prompt, style)
select user_id, result_url, prompt, style from public.ai_images_creator_tasks where status = 'completed';
insert into public.ai_images_creator_tasks (user_id, task_id, status, prompt, style, image_base64, created_at, extra_data)
select md5('user' || 1 + n % @users@)::uuid, 'task_' || md5('pending' || n)::uuid, 'pending', case when n % 5 > 0 then 'waiting ' || n end, 'ink',
	case when n % 5 = 0 then 'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==' end,
	timezone('utc', now()) - interval '1 hour' + n * interval '1 millisecond', jsonb_build_object('n', n)
from generate_series(1, @pending@) n;
insert into public.ai_images_creator_tasks (user_id, task_id, status, prompt, style, created_at, processing_started_at, extra_data, current_stage)
select md5('user' || 1 + n % @users@)::uuid, 'task_' || md5('processing' || n)::uuid, 'processing', 'begun ' || n, 'ink',
	timezone('utc', now()) - interval '2 hours', timezone('utc', now()) - interval '1 hour', jsonb_build_object('n', n), 'generating'
from generate_series(1, @processing@) n;
