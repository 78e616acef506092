insert into app.members select md5('user' || n)::uuid, 'user' || n from generate_series(1, @users@) n;
insert into app.wallets (member_id, available) select id, @balance@ from app.members;
insert into app.artworks (uid, member_id, prompt, status, urls, error_text, created_at, done_at)
select md5('history' || n)::uuid, md5('user' || 1 + n % @users@)::uuid, 'picture ' || n, case when n % 10 = 0 then 'error' else 'done' end,
	case when n % 10 <> 0 then array['https://pictures.example.com/old/' || n || '.png'] end, case when n % 10 = 0 then 'timed out' end,
	now() - interval '1 day' - n * interval '1 second', now() - interval '1 day'
from generate_series(1, @history@) n;
insert into app.holds (artwork, member_id, amount, state) select uid, member_id, 3, case status when 'done' then 'captured' else 'released' end from app.artworks;
insert into app.artworks (uid, member_id, prompt, created_at)
select md5('pending' || n)::uuid, md5('user' || 1 + n % @users@)::uuid, 'waiting ' || n, now() - interval '1 hour' + n * interval '1 millisecond' from generate_series(1, @pending@) n;
insert into app.artworks (uid, member_id, prompt, status, created_at)
select md5('processing' || n)::uuid, md5('user' || 1 + n % @users@)::uuid, 'begun ' || n, 'draw', now() - interval '2 hours' from generate_series(1, @processing@) n;
-- Other works of the same table, which have nothing to do with pictures.
insert into app.artworks (uid, member_id, kind, prompt, status)
select md5('song' || n)::uuid, md5('user' || 1 + n % @users@)::uuid, 'song', 'song ' || n, case when n % 2 = 0 then 'new' else 'done' end from generate_series(1, 20) n;
insert into app.holds (artwork, member_id, amount) select uid, member_id, 3 from app.artworks where kind = 'image' and status in ('new', 'draw');
update app.wallets w set frozen = held.amount from (select member_id, sum(amount) as amount from app.holds where state = 'held' group by member_id) held where held.member_id = w.member_id;
