insert into public."user" (id, name, email) select 'user_' || n, 'user' || n, 'user' || n || '@example.com' from generate_series(1, @users@) n;
insert into public.user_credits (user_id, credits) select id, @balance@ from public."user";
insert into public.generation (id, user_id, status, prompt, style_image_url, generated_image_url, created_at)
select 'gen_history_' || n, 'user_' || 1 + n % @users@, case when n % 10 = 0 then 'failed' else 'completed' end, 'picture ' || n, 'https://pictures.example.com/style/' || n % 7 || '.png',
	case when n % 10 <> 0 then 'https://pictures.example.com/old/' || n || '.png' end, now() - interval '1 day' - n * interval '1 second'
from generate_series(1, @history@) n;
insert into public.generation (id, user_id, status, prompt, style_image_url, created_at)
select 'gen_pending_' || n, 'user_' || 1 + n % @users@, 'pending', 'waiting ' || n, 'https://pictures.example.com/style/' || n % 7 || '.png', now() - interval '1 hour' + n * interval '1 millisecond'
from generate_series(1, @pending@) n;
insert into public.generation (id, user_id, status, prompt, style_image_url, created_at)
select 'gen_processing_' || n, 'user_' || 1 + n % @users@, 'processing', 'begun ' || n, 'https://pictures.example.com/style/' || n % 7 || '.png', now() - interval '2 hours'
from generate_series(1, @processing@) n;
