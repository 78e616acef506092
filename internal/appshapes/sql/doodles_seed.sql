insert into public.users (id, name) select md5('user' || n)::uuid, 'user' || n from generate_series(1, @users@) n;
insert into public.user_credits (user_id, balance) select id, @balance@ from public.users;
insert into public.doodles (id, user_id, status, doodle_url, image_url, run_id, created_at)
select md5('history' || n)::uuid, md5('user' || 1 + n % @users@)::uuid, case when n % 10 = 0 then 'failed' else 'succeeded' end,
	'https://pictures.example.com/doodle/' || n || '.png',	case when n % 10 <> 0 then 'https://pictures.example.com/old/' || n || '.png' end, 'run_' || n, now() - interval '1 day' - n * interval '1 second'
from generate_series(1, @history@) n;
insert into public.doodles (id, user_id, status, doodle_url, run_id, created_at)
select md5('pending' || n)::uuid, md5('user' || 1 + n % @users@)::uuid, 'generating', 'https://pictures.example.com/doodle/p' || n || '.png', 'run_p' || n, now() - interval '1 hour' + n * interval '1 millisecond'
from generate_series(1, @pending@ + @processing@) n;
