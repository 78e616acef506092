package bridge

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// application returns a catalog and a description that fits it.
func application() (Catalog, Description) {
	status := column("status", "enum")
	status.Labels = []string{"new", "run", "done", "bad", "off"}
	total := column("total", "text")
	total.Generated = true
	short := column("error", "varchar")
	short.MaxLength = 20
	tasks := table("tasks", "id", column("id", "uuid").notNull(), column("no", "int8"), column("made", "timestamptz").notNull(), column("user_id", "uuid"), column("prompt", "text"),
		status, column("url", "text"), column("urls", "_text"), column("doc", "jsonb"), short, column("n", "int4"), column("flag", "bool"), column("flag2", "bool"), total,
		column("step", "text"), column("kind", "text"), column("code", "int2"))
	tasks.Unique = append(tasks.Unique, []string{"no"}, []string{"made"})
	tasks.Checks = []string{"CHECK ((step = ANY (ARRAY['one'::text, 'two'::text])))", "CHECK ((char_length(prompt) > 3))", "CHECK (((code >= 0) AND (code <= 2)))"}
	balances := table("users", "id", column("id", "uuid").notNull(), column("credits", "int4"), column("money", "numeric"), column("exact", "numeric"), column("rough", "float8"), column("team", "uuid"), column("num", "int8"))
	balances.Columns[2].Scale, balances.Columns[3].Digits = 2, 3
	log := table("log", "id", column("id", "int8").notNull(), column("user_id", "uuid").notNull(), column("amount", "int4").notNull(), column("type", "text"), column("task", "uuid"), total)
	log.Columns[0].Identity = true
	log.Checks = []string{"CHECK ((type = ANY (ARRAY['use'::text, 'refund'::text])))"}
	foreign := table("remote", "id", column("id", "uuid").notNull())
	foreign.Kind = "foreign"
	c := catalogOf(tasks, balances, log, foreign)
	c.Schemas["closed"] = false
	c.Routines = []CatalogFunc{{"public", "give", "user_id uuid, amount integer", "void"}}
	return c, Description{
		Tasks: tasks.Table, Key: "id", User: "user_id", Prompt: "prompt", Result: "url", Error: "error", Progress: "n", Created: "made",
		Status: Status{Column: "status", Pending: []string{"new"}, Processing: []string{"run", "new"}, Completed: []string{"done"}, Failed: []string{"bad"}},
		Moving: Moving{Processing: "wait"},
		Credits: Credits{Cost: 1, Charged: "always", Table: balances.Table, Key: "id", Column: "credits", Refund: "balance", Charge: "balance",
			RefundLog: &Match{log.Table, "task", map[string][]string{"type": {"refund"}}}},
		Log:  &Insert{log.Table, map[string]string{"user_id": "{user}", "amount": "{amount}", "type": "refund", "task": "{row.id}"}},
		Path: []string{"public"},
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	c, d := application()
	require.Empty(t, Validate(d, c))
	for name, test := range map[string]struct {
		change func(*Description, *Catalog)
		key    string
		text   string // of the problem and its fix
	}{
		"questions":             {func(d *Description, _ *Catalog) { d.Questions = []string{"why?"} }, "questions", "why?"},
		"no table":              {func(d *Description, _ *Catalog) { d.Tasks = Table{} }, "tasks", "no table is named"},
		"another table":         {func(d *Description, _ *Catalog) { d.Tasks.Name = "task" }, "tasks", "there is no table public.task; write one of: public.tasks"},
		"foreign table":         {func(d *Description, _ *Catalog) { d.Tasks.Name = "remote" }, "tasks", "foreign table"},
		"no key":                {func(d *Description, _ *Catalog) { d.Key = "" }, "key", "no column is named"},
		"key not unique":        {func(d *Description, _ *Catalog) { d.Key = "prompt" }, "key", "is not unique; write a column with a primary key or a unique index of its own: id, made"},
		"key null":              {func(d *Description, _ *Catalog) { d.Key = "no" }, "key", "may be null"},
		"key of a time":         {func(d *Description, _ *Catalog) { d.Key = "made" }, "key", "whose text depends on settings"},
		"user missing":          {func(d *Description, _ *Catalog) { d.User = "owner" }, "user", "public.tasks has no column owner"},
		"user of a time":        {func(d *Description, _ *Catalog) { d.User = "made" }, "user", "is of type timestamptz"},
		"no prompt":             {func(d *Description, _ *Catalog) { d.Prompt = "" }, "prompt", "neither a prompt nor an input picture"},
		"input of a number":     {func(d *Description, _ *Catalog) { d.Inputs = []string{"n"} }, "inputs", "is of type int4"},
		"values without column": {func(d *Description, _ *Catalog) { d.Values = map[string]map[string]string{"ratio": {"a": "b"}} }, "values.ratio", "translates what no column holds"},
		"array as text":         {func(d *Description, _ *Catalog) { d.Result = "urls" }, "result_form", "of type _text"},
		"text as array":         {func(d *Description, _ *Catalog) { d.ResultForm = "array" }, "result_form", "no array"},
		"form without url":      {func(d *Description, _ *Catalog) { d.Result, d.ResultForm = "doc", "[]" }, "result_form", "does not contain {url}"},
		"form that is no JSON":  {func(d *Description, _ *Catalog) { d.Result, d.ResultForm = "doc", "[{url}" }, "result_form", "no JSON"},
		"result generated":      {func(d *Description, _ *Catalog) { d.Result = "total" }, "result", "is generated"},
		"error of a number":     {func(d *Description, _ *Catalog) { d.Error = "n" }, "error", "not text"},
		"progress of a text":    {func(d *Description, _ *Catalog) { d.Progress = "url" }, "progress", "not a number"},
		"stage not allowed":     {func(d *Description, _ *Catalog) { d.Stage, d.Stages = "step", map[string]string{"claimed": "three"} }, "stages", `does not allow the word "three"; write one of: one, two`},
		"stages not translated": {func(d *Description, _ *Catalog) { d.Stage = "step" }, "stage", "allows one, two only"},
		"stages without stage":  {func(d *Description, _ *Catalog) { d.Stages = map[string]string{"claimed": "one"} }, "stages", "no column is named"},
		"started of a text":     {func(d *Description, _ *Catalog) { d.Started = "url" }, "started", "not a time"},
		"moving":                {func(d *Description, _ *Catalog) { d.Moving.Processing = "later" }, "moving.processing", "write wait, requeue or fail"},
		"label missing":         {func(d *Description, _ *Catalog) { d.Status.Cancelled = []string{"cancelled"} }, "status.cancelled", `does not allow the word "cancelled"; write one of: new, run, done, bad, off`},
		"code":                  {func(d *Description, _ *Catalog) { d.Status.Column = "n" }, "status.pending", `is of type int4, and "new" is no value of it; write the number`},
		"code not allowed":      {func(d *Description, _ *Catalog) { d.Status.Column, d.Status.Pending = "code", []string{"5"} }, "status.pending", `does not allow the word "5"; write one of: 0, 1, 2`},
		"code of another form":  {func(d *Description, _ *Catalog) { d.Status.Column, d.Status.Pending = "code", []string{"01"} }, "status.pending", `"01" is no value of it`},
		"status of a time":      {func(d *Description, _ *Catalog) { d.Status.Column = "made" }, "status.column", "not text, an enum or a whole number"},
		"deleted of a text":     {func(d *Description, _ *Catalog) { d.Deleted = "prompt" }, "deleted", "not a time or boolean; write one of: made, flag, flag2"},
		"no failed word":        {func(d *Description, _ *Catalog) { d.Status.Failed = nil }, "status.failed", "no word is listed"},
		"word of two states":    {func(d *Description, _ *Catalog) { d.Status.Failed = []string{"bad", "done"} }, "status.failed", `"done" means completed too`},
		"word in processing":    {func(d *Description, _ *Catalog) { d.Status.Completed = []string{"done", "run"} }, "status.completed", `"run" means processing too`},
		"flag beside words":     {func(d *Description, _ *Catalog) { d.Status.FailedColumn = "flag" }, "status.failed_column", "a column of words is named too"},
		"no status":             {func(d *Description, _ *Catalog) { d.Status = Status{} }, "status.column", "nothing shows that a task has failed"},
		"words without column":  {func(d *Description, _ *Catalog) { d.Status.Column = "" }, "status.pending", "no column for them is named"},
		"flag of a text":        {func(d *Description, _ *Catalog) { d.Status = Status{FailedColumn: "url"} }, "status.failed_column", "not boolean"},
		"flag twice":            {func(d *Description, _ *Catalog) { d.Status = Status{FailedColumn: "flag", CancelledColumn: "flag"} }, "status.cancelled_column", "another meaning"},
		"only without column":   {func(d *Description, _ *Catalog) { d.Only = map[string][]string{"type": {"image"}} }, "only", "has no column type"},
		"only without value":    {func(d *Description, _ *Catalog) { d.Only = map[string][]string{"kind": nil} }, "only", "no value is listed"},
		"charged":               {func(d *Description, _ *Catalog) { d.Credits.Charged = "" }, "credits.charged", "write always, column, log or never"},
		"charged column":        {func(d *Description, _ *Catalog) { d.Credits.Charged = "column" }, "credits.charged_column", "no column is named"},
		"charge log":            {func(d *Description, _ *Catalog) { d.Credits.Charged = "log" }, "credits.charge_log", "no row of a log"},
		"match word":            {func(d *Description, _ *Catalog) { d.Credits.RefundLog.Where["type"] = []string{"back"} }, "credits.refund_log.where", `"back"`},
		"match task":            {func(d *Description, _ *Catalog) { d.Credits.RefundLog.Task = "" }, "credits.refund_log.task", "no column is named"},
		"cost":                  {func(d *Description, _ *Catalog) { d.Credits.Cost = -1 }, "credits.cost", "negative"},
		"balance not unique":    {func(d *Description, _ *Catalog) { d.Credits.Key = "team" }, "credits.key", "is not unique"},
		"balance of another id": {func(d *Description, _ *Catalog) { d.Credits.Key = "num" }, "credits.key", "the tasks' user of type uuid"},
		"balance of a float":    {func(d *Description, _ *Catalog) { d.Credits.Column = "rough" }, "credits.column", "not a whole number or numeric"},
		"decimals of integers":  {func(d *Description, _ *Catalog) { d.Credits.Decimals = 2 }, "credits.decimals", "write decimals = 0"},
		"decimals of a scale":   {func(d *Description, _ *Catalog) { d.Credits.Column = "money" }, "credits.decimals", "write decimals = 2"},
		"decimals of balances":  {func(d *Description, _ *Catalog) { d.Credits.Column = "exact" }, "credits.decimals", "write decimals = 3"},
		"decimals too many":     {func(d *Description, _ *Catalog) { d.Credits.Column, d.Credits.Decimals = "exact", 7 }, "credits.decimals", "not from 0 to 6"},
		"no balances":           {func(d *Description, _ *Catalog) { d.Credits.Table = Table{} }, "credits.refund", "no table of balances"},
		"no call":               {func(d *Description, _ *Catalog) { d.Credits.Refund = "give" }, "credits.refund", "no call of a function"},
		"no function":           {func(d *Description, _ *Catalog) { d.Credits.Refund = "public.take({user}, {amount})" }, "credits.refund", "there is no function public.take"},
		"call without amount":   {func(d *Description, _ *Catalog) { d.Credits.Refund = "public.give({user})" }, "credits.refund", "how many"},
		"call of a placeholder": {func(d *Description, _ *Catalog) { d.Credits.Refund = "public.give({user}, {amount}, {url})" }, "credits.refund", "there is no placeholder {url}"},
		"insert not null":       {func(d *Description, _ *Catalog) { delete(d.Log.Columns, "amount") }, "log.columns", `the column amount of public.log is not null and has no default; write a line for it: amount = "…" (type int4)`},
		"insert word":           {func(d *Description, _ *Catalog) { d.Log.Columns["type"] = "return" }, "log.columns.type", "write one of: use, refund"},
		"insert placeholder":    {func(d *Description, _ *Catalog) { d.Log.Columns["type"] = "{usr}" }, "log.columns.type", "there is no placeholder {usr}"},
		"insert row":            {func(d *Description, _ *Catalog) { d.Log.Columns["type"] = "{row.x}" }, "log.columns.type", "public.tasks has no column x"},
		"insert generated":      {func(d *Description, _ *Catalog) { d.Log.Columns["total"] = "1" }, "log.columns.total", "is generated"},
		"insert into tasks":     {func(d *Description, _ *Catalog) { d.Log.Table = d.Tasks }, "log.table", "it is the table of tasks"},
		"search path":           {func(d *Description, _ *Catalog) { d.Path = []string{"nowhere"} }, "search_path", "there is no schema nowhere"},
		"search path closed":    {func(d *Description, _ *Catalog) { d.Path = []string{"closed"} }, "search_path", "grant usage on schema closed to owner"},
		"notify":                {func(d *Description, _ *Catalog) { d.Notify = strings.Repeat("x", 64) }, "notify", "63 bytes"},
		"settings":              {func(d *Description, _ *Catalog) { d.Settings = map[string]string{"a b": ""} }, "settings", "no name of a setting"},
		"privilege":             {func(_ *Description, c *Catalog) { c.Tables[0].Missing = []string{"TRIGGER"} }, "tasks", "grant trigger on public.tasks to owner"},
		"no right to insert":    {func(_ *Description, c *Catalog) { c.Tables[2].Missing = []string{"INSERT"} }, "log.table", "grant insert on public.log to owner"},
		"row-level security":    {func(_ *Description, c *Catalog) { c.Tables[1].RowLevel = true }, "credits.table", "row-level security hides rows of public.users from the role owner"},
	} {
		c, d := application()
		test.change(&d, &c)
		found := Validate(d, c)
		var all []string
		matches := false
		for _, p := range found {
			all = append(all, p.Error())
			matches = matches || p.Key == test.key && strings.Contains(p.Text+"; "+p.Fix, test.text)
			assert.NotEmpty(t, p.Fix, p.Key)
		}
		assert.True(t, matches, "%s: %s", name, strings.Join(all, "\n"))
	}
}

func TestValidate_UnneededPrivileges(t *testing.T) {
	t.Parallel()
	c, d := application()
	c.Tables[1].Missing = []string{"UPDATE", "INSERT"}
	require.NotEmpty(t, Validate(d, c))
	d.Credits.Refund, d.Credits.Charge = "public.give({user}, {amount})", ""
	d.Log = nil
	problems := Validate(d, c)
	require.Len(t, problems, 1, "a row is locked before the call")
	d.Credits.Refund = ""
	assert.Empty(t, Validate(d, c))
}
