insert into public.customers select md5('user' || n)::uuid, 'user' || n from generate_series(1, @users@) n;
insert into public.credit_lots (customer_id, bought, remaining, expires_at)
select id, @balance@ / 2, @balance@ / 2, now() + half * interval '100 days' from public.customers, generate_series(1, 2) half;
insert into public.picture_orders (id, customer_id, prompt, state, picture, message, credits_charged, credits_returned, options, created_at)
select md5('history' || n)::uuid, md5('user' || 1 + n % @users@)::uuid, 'picture ' || n, case when n % 10 = 0 then 'error' else 'ready' end,
	case when n % 10 <> 0 then 'https://pictures.example.com/old/' || n || '.png' end, case when n % 10 = 0 then 'timed out' end, 2, case when n % 10 = 0 then 2 else 0 end,
	jsonb_build_object('n', n), now() - interval '1 day' - n * interval '1 second'
from generate_series(1, @history@) n;
insert into public.picture_orders (id, customer_id, prompt, state, credits_charged, options, created_at)
select md5('pending' || n)::uuid, md5('user' || 1 + n % @users@)::uuid, 'waiting ' || n, 'waiting', 2, jsonb_build_object('n', n), now() - interval '1 hour' + n * interval '1 millisecond'
from generate_series(1, @pending@) n;
insert into public.picture_orders (id, customer_id, prompt, state, credits_charged, options, created_at)
select md5('processing' || n)::uuid, md5('user' || 1 + n % @users@)::uuid, 'begun ' || n, 'working', 2, jsonb_build_object('n', n), now() - interval '2 hours'
from generate_series(1, @processing@) n;
