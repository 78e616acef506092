package appshapes

import "imagetasks/pkg/bridge"

// quoted is an application whose names need quotes, in two schemas: an enum without a word for cancelled, credits with two decimals, and keys without default.
func quoted() Shape {
	log := bridge.Table{Schema: "Billing", Name: "Entries"}
	return Shape{
		Name: "quoted", InitialSQL: read("quoted.sql"), seed: read("quoted_seed.sql"), user: uuidUser, key: uuidKey,
		Cost: flatCost(250), Absolute: true, Marked: true,
		Description: bridge.Description{
			Tasks: bridge.Table{Schema: "Studio", Name: "Image Jobs"}, Key: "jobId", User: "ownerId", Prompt: "Text", Ratio: "Shape",
			Values: map[string]map[string]string{"ratio": {"square": "1:1", "wide": "16:9"}},
			Result: "Output URL", ResultForm: "text", Error: "Why", Progress: "Percent", Created: "createdAt", Completed: "finishedAt",
			Status: bridge.Status{Column: "State", Pending: []string{"Queued"}, Processing: []string{"Running"}, Completed: []string{"Done"}, Failed: []string{"Broken"}},
			Moving: bridge.Moving{Processing: "requeue"},
			Credits: bridge.Credits{Cost: 2, CostColumn: "Price", Charged: "log",
				ChargeLog: &bridge.Match{Table: log, Task: "Job Ref", Where: map[string][]string{"Kind": {"Job"}}},
				RefundLog: &bridge.Match{Table: log, Task: "Job Ref", Where: map[string][]string{"Kind": {"Refund"}}},
				Table:     bridge.Table{Schema: "Billing", Name: "Accounts"}, Key: "Person", Column: "Amount", Decimals: 2, Refund: "balance", Charge: "balance"},
			Log:  &bridge.Insert{Table: log, Columns: map[string]string{"Person": "{user}", "Amount": "{amount}", "Kind": "Refund", "Job Ref": "{task}"}},
			Path: []string{"Studio", "Billing"},
		},
		Fixed: []Columns{
			{`"Studio"."Image Jobs"`, `"jobId"`, `"ownerId", "Text", "Shape", "Price", "order", "createdAt"`},
			{`"Billing"."Accounts"`, `"Person"`, `"Currency"`},
			{`"Studio"."People"`, `"personId"`, `"Display Name"`},
		},
		statements: statements{
			addUser: []string{
				`insert into "Studio"."People" values ({user}::uuid, 'user')`,
				`insert into "Billing"."Accounts" ("Person", "Amount") values ({user}::uuid, {amount}::numeric / 100)`,
			},
			insert: `insert into "Studio"."Image Jobs" ("jobId", "ownerId", "Text", "Shape", "Price")
				values ({new}::uuid, {user}::uuid, {prompt}, 'wide', {amount}::numeric / 100) returning "jobId"`,
			chargeLog: `insert into "Billing"."Entries" ("Person", "Amount", "Kind", "Job Ref") values ({user}::uuid, - {amount}::numeric / 100, 'Job', {key}::text)`,
			balance:   `select ("Amount" * 100)::bigint from "Billing"."Accounts" where "Person" = {user}::uuid`,
			lock:      `select 1 from "Billing"."Accounts" where "Person" = {user}::uuid for no key update`,
			set: `with old as (select "Person", "Amount" from "Billing"."Accounts" where "Person" = {user}::uuid for no key update)
				update "Billing"."Accounts" a set "Amount" = {amount}::numeric / 100 from old where a."Person" = old."Person" returning (old."Amount" * 100)::bigint`,
			add: `update "Billing"."Accounts" set "Amount" = "Amount" + {amount}::numeric / 100
				where "Person" = {user}::uuid and "Amount" + {amount}::numeric / 100 >= 0 returning ("Amount" * 100)::bigint`,
			buyLog: `insert into "Billing"."Entries" ("Person", "Amount", "Kind") values ({user}::uuid, {amount}::numeric / 100, 'Top-up')`,
			cancel: `update "Studio"."Image Jobs" set "State" = 'Broken', "Why" = 'cancelled by the user', "finishedAt" = now()
				where "jobId" = {key}::text::uuid and "State" in ('Queued', 'Running') returning "jobId"`,
			lockTask: `select 1 from "Studio"."Image Jobs" where "jobId" = {key}::text::uuid for no key update`,
			refunded: `insert into "Billing"."Entries" ("Person", "Amount", "Kind", "Job Ref")
				select "ownerId", {amount}::numeric / 100, 'Refund', {key}::text from "Studio"."Image Jobs" where "jobId" = {key}::text::uuid and "State" = 'Broken'
					and exists (select from "Billing"."Entries" where "Job Ref" = {key}::text and "Kind" = 'Job')
					and not exists (select from "Billing"."Entries" where "Job Ref" = {key}::text and "Kind" = 'Refund')
				returning "entryId"`,
			deleteTask: `delete from "Studio"."Image Jobs" where "jobId" = {key}::text::uuid returning "jobId"`,
			deleteUser: `delete from "Studio"."People" where "personId" = {user}::uuid`,
			tasks: `select "jobId", case "State" when 'Queued' then 'pending' when 'Running' then 'processing' when 'Done' then 'completed' else 'failed' end,
					coalesce("Output URL", ''), (exists (select from "Billing"."Entries" where "Job Ref" = "jobId"::text and "Kind" = 'Refund'))::text,
					("Price" * 100)::bigint
				from "Studio"."Image Jobs" where "ownerId" = {user}::uuid`,
		},
	}
}
