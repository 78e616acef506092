-- Reports on what was made, charged and paid. All of them only read. The ledger and results outlive the rows of tasks.

-- name: task_results
-- $1 task. What the API made for each run, the first run first. Index: primary key.
select r.run, r.outcome, r.at, coalesce(r.endpoint, ''), coalesce(r.model, ''), coalesce(r.took_ms, 0), coalesce(r.usage, 'null'), r.cost, coalesce(r.currency, '')
from {{.Schema}}.results r where r.task_id = $1 order by r.run;

-- name: results_within
-- $1 window in ms, $2 limit. Of the last window, by endpoint, the one that made the most first: pictures, results that were paid for without a picture,
-- median and 95th percentile of their time in ms, costs by currency in millionths. Index: the results' time (BRIN).
with recent as (
    select coalesce(endpoint, '') as endpoint, outcome, took_ms, cost, currency
    from {{.Schema}}.results where at > now() - $1 * interval '1 millisecond'
), costs as (
    select endpoint, jsonb_object_agg(currency, cost) as costs
    from (select endpoint, currency, sum(cost)::text as cost from recent where currency is not null group by 1, 2) c
    group by endpoint
)
select r.endpoint, count(*) filter (where r.outcome = 'completed'), count(*) filter (where r.outcome <> 'completed'),
       coalesce(percentile_cont(0.5) within group (order by r.took_ms), 0)::bigint,
       coalesce(percentile_cont(0.95) within group (order by r.took_ms), 0)::bigint,
       coalesce((select c.costs from costs c where c.endpoint = r.endpoint), '{}')
from recent r
group by r.endpoint
order by count(*) desc, r.endpoint
limit $2;

-- name: report_since
-- $1 from (null: always). The time of the first entry that a report has, null if there is none. Index: the ledger's and the results' time (BRIN).
select least((select min(created_at) from {{.Schema}}.ledger where kind in ('charge', 'refund') and ($1::timestamptz is null or created_at >= $1)),
             (select min(at) from {{.Schema}}.results where $1::timestamptz is null or at >= $1),
             (select min({{unknownAt "t"}}) from {{.Schema}}.tasks t
              where t.unknown_outcomes > 0 and ($1::timestamptz is null or {{unknownAt "t"}} >= $1)));

-- name: report
-- $1 day, model, endpoint or user, $2 from, $3 to (each null: any), $4 the first moments of days, in order, $5 limit of groups. The first row is the total of all groups. The
-- others are groups, the last day or the one with the most pictures first: key (of a day: its position in $4), pictures, results that were paid for
-- without a picture, time of these in ms, credits charged, credits refunded, refunds, unknown outcomes, costs by currency in millionths; the number of all groups. A charge or refund is of the
-- model and endpoint of its run's result. A run without one was refunded, or is not closed; it is of those of its task. Reads ledger,
-- results and tasks as a whole. Index for a short time: the ledger's and the results' time (BRIN).
with made as (
    select case $1::text when 'day' then width_bucket(r.at, $4::timestamptz[])::text when 'user' then r.user_id
                         when 'model' then coalesce(r.model, '') else coalesce(r.endpoint, '') end as key,
           r.outcome, r.took_ms, r.cost, r.currency
    from {{.Schema}}.results r
    where ($2::timestamptz is null or r.at >= $2) and ($3::timestamptz is null or r.at < $3)
), booked as (
    select case $1::text when 'day' then width_bucket(l.created_at, $4::timestamptz[])::text when 'user' then l.user_id
                         when 'model' then coalesce(case when r.task_id is null then t.model else r.model end, '')
                         else coalesce(case when r.task_id is null then coalesce(t.request_endpoint, t.endpoint) else r.endpoint end, '') end as key,
           l.kind, l.amount
    from {{.Schema}}.ledger l
    left join {{.Schema}}.results r on $1::text in ('model', 'endpoint') and r.task_id = l.task_id and r.run = l.run
    left join {{.Schema}}.tasks t on $1::text in ('model', 'endpoint') and r.task_id is null and t.task_id = l.task_id
                                 and ($1::text = 'model' or t.run = l.run)
    where l.kind in ('charge', 'refund') and ($2::timestamptz is null or l.created_at >= $2) and ($3::timestamptz is null or l.created_at < $3)
), unknown as (
    select case $1::text when 'day' then width_bucket({{unknownAt "t"}}, $4::timestamptz[])::text when 'user' then t.user_id
                         when 'model' then coalesce(t.model, '') else coalesce(t.request_endpoint, t.endpoint, '') end as key,
           t.unknown_outcomes as outcomes
    from {{.Schema}}.tasks t
    where t.unknown_outcomes > 0 and ($2::timestamptz is null or {{unknownAt "t"}} >= $2) and ($3::timestamptz is null or {{unknownAt "t"}} < $3)
), figures as (
    select grouping(key) as total, coalesce(key, '') as key, count(*) filter (where outcome = 'completed') as pictures, count(*) filter (where outcome <> 'completed') as lost,
           coalesce(sum(took_ms), 0) as took_ms, 0 as charged, 0 as refunded, 0 as refunds, 0 as unknown
    from made group by grouping sets ((key), ())
    union all
    select grouping(key), coalesce(key, ''), 0, 0, 0, coalesce(- sum(amount) filter (where kind = 'charge'), 0), coalesce(sum(amount) filter (where kind = 'refund'), 0),
           count(*) filter (where kind = 'refund'), 0
    from booked group by grouping sets ((key), ())
    union all
    select grouping(key), coalesce(key, ''), 0, 0, 0, 0, 0, 0, coalesce(sum(outcomes), 0)
    from unknown group by grouping sets ((key), ())
), sums as (
    select total, key, sum(pictures)::bigint as pictures, sum(lost)::bigint as lost, sum(took_ms)::bigint as took_ms, sum(charged)::bigint as charged, sum(refunded)::bigint as refunded,
           sum(refunds)::bigint as refunds, sum(unknown)::bigint as unknown
    from figures group by total, key
), costs as (
    select total, key, jsonb_object_agg(currency, cost) as costs
    from (select grouping(key) as total, coalesce(key, '') as key, currency, sum(cost)::text as cost
          from made where currency is not null group by grouping sets ((key, currency), (currency))) c
    group by total, key
)
select s.key, s.pictures, s.lost, s.took_ms, s.charged, s.refunded, s.refunds, s.unknown, coalesce(c.costs, '{}'), count(*) over () - 1
from sums s left join costs c on c.total = s.total and c.key = s.key
order by s.total desc, case when $1::text = 'day' and s.total = 0 then s.key::int end desc, s.pictures desc, s.charged desc, s.key
limit $5 + 1;
