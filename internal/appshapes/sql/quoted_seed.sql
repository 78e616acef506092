insert into "Studio"."People" select md5('user' || n)::uuid, 'user' || n from generate_series(1, @users@) n;
insert into "Billing"."Accounts" ("Person", "Amount") select "personId", @balance@ / 100.0 from "Studio"."People";
insert into "Studio"."Image Jobs" ("jobId", "ownerId", "State", "Text", "Output URL", "Why", "Percent", "order", "createdAt", "finishedAt")
select md5('history' || n)::uuid, md5('user' || 1 + n % @users@)::uuid, case when n % 10 = 0 then 'Broken' else 'Done' end::"Studio"."Job State", 'picture ' || n,
	case when n % 10 <> 0 then 'https://pictures.example.com/old/' || n || '.png' end, case when n % 10 = 0 then 'timed out' end, 100, n,
	now() - interval '1 day' - n * interval '1 second', now() - interval '1 day'
from generate_series(1, @history@) n;
insert into "Studio"."Image Jobs" ("jobId", "ownerId", "State", "Text", "Shape", "order", "createdAt")
select md5('pending' || n)::uuid, md5('user' || 1 + n % @users@)::uuid, 'Queued', 'waiting ' || n, case when n % 2 = 0 then 'wide' else 'square' end, n,
	now() - interval '1 hour' + n * interval '1 millisecond'
from generate_series(1, @pending@) n;
insert into "Studio"."Image Jobs" ("jobId", "ownerId", "State", "Text", "order", "createdAt")
select md5('processing' || n)::uuid, md5('user' || 1 + n % @users@)::uuid, 'Running', 'begun ' || n, n, now() - interval '2 hours'
from generate_series(1, @processing@) n;
insert into "Billing"."Entries" ("Person", "Amount", "Kind", "Job Ref") select "ownerId", -"Price", 'Job', "jobId"::text from "Studio"."Image Jobs";
insert into "Billing"."Entries" ("Person", "Amount", "Kind", "Job Ref") select "ownerId", "Price", 'Refund', "jobId"::text from "Studio"."Image Jobs" where "State" = 'Broken';
