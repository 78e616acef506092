insert into public.profiles (id, username, credits) select md5('user' || n)::uuid, 'user' || n, @balance@ from generate_series(1, @users@) n;
insert into public.generations (id, user_id, prompt, status, output_url, error, seed, created_at)
select md5('history' || n)::uuid, md5('user' || 1 + n % @users@)::uuid, 'picture ' || n, case when n % 10 = 0 then 'failed' else 'completed' end,
	case when n % 10 <> 0 then 'https://pictures.example.com/old/' || n || '.png' end, case when n % 10 = 0 then 'timed out' end, n, now() - interval '1 day' - n * interval '1 second'
from generate_series(1, @history@) n;
insert into public.generations (id, user_id, prompt, status, seed, created_at)
select md5('pending' || n)::uuid, md5('user' || 1 + n % @users@)::uuid, 'waiting ' || n, 'pending', n, now() - interval '1 hour' + n * interval '1 millisecond'
from generate_series(1, @pending@) n;
insert into public.generations (id, user_id, prompt, status, seed, created_at)
select md5('processing' || n)::uuid, md5('user' || 1 + n % @users@)::uuid, 'begun ' || n, 'processing', n, now() - interval '2 hours'
from generate_series(1, @processing@) n;
insert into public.credit_transactions (user_id, amount, type, generation_id) select user_id, -1, 'usage', id from public.generations;
insert into public.credit_transactions (user_id, amount, type, generation_id) select user_id, 1, 'refund', id from public.generations where status = 'failed';
