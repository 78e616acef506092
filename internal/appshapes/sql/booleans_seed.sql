insert into public.accounts (id, login, coins) select n, 'user' || n, @balance@ from generate_series(1, @users@) n;
select setval(pg_get_serial_sequence('public.accounts', 'id'), @users@ + 1000000);
insert into public.renders (account_id, description, started, failed, output, failure, price, paid, refunded_coins, tags, created_at)
select 1 + n % @users@, 'picture ' || n, true, n % 10 = 0, case when n % 10 <> 0 then jsonb_build_object('images', jsonb_build_array(jsonb_build_object('url',
	'https://pictures.example.com/old/' || n || '.png'))) end, case when n % 10 = 0 then 'timed out' end, 1 + n % 10, true, case when n % 10 = 0 then 1 + n % 10 else 0 end,
	array['t' || n % 5], now() - interval '1 day' - n * interval '1 second'
from generate_series(1, @history@) n;
insert into public.renders (account_id, description, price, paid, tags, created_at)
select 1 + n % @users@, 'waiting ' || n, 1 + n % 10, true, array['t' || n % 5], now() - interval '1 hour' + n * interval '1 millisecond'
from generate_series(1, @pending@) n;
insert into public.renders (account_id, description, started, price, paid, tags, created_at)
select 1 + n % @users@, 'begun ' || n, true, 1 + n % 10, true, array['t' || n % 5], now() - interval '2 hours'
from generate_series(1, @processing@) n;
