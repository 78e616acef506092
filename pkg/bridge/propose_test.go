package bridge

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func column(name, base string) CatalogColumn {
	return CatalogColumn{Name: name, Type: base, Base: base, Scale: -1, Filled: 1}
}

func (c CatalogColumn) words(words ...string) CatalogColumn {
	for i, w := range words {
		c.Values = append(c.Values, CatalogValue{w, int64(100 - i)})
	}
	return c
}

func (c CatalogColumn) notNull() CatalogColumn { c.NotNull = true; return c }

func (c CatalogColumn) like(form string) CatalogColumn { c.Like = form; return c }

// table is a table in public with a primary key.
func table(name, key string, columns ...CatalogColumn) CatalogTable {
	return CatalogTable{Table: Table{"public", name}, Kind: "table", Rows: 500, Exact: true, Columns: columns, Unique: [][]string{{key}}}
}

func catalogOf(tables ...CatalogTable) Catalog {
	return Catalog{Database: "app", Role: "owner", Tables: tables, Schemas: map[string]bool{"public": true, "extensions": true}}
}

// images is a table of image tasks of the usual kind.
func images(name string, change ...CatalogColumn) CatalogTable {
	t := table(name, "id", column("id", "uuid").notNull(), column("user_id", "uuid").notNull(), column("prompt", "text"),
		column("status", "text").words("completed", "failed", "pending", "processing"), column("image_url", "text").like("url"))
	for _, c := range change {
		for i := range t.Columns {
			if t.Columns[i].Name == c.Name {
				t.Columns[i] = c
				c.Name = ""
			}
		}
		if c.Name != "" {
			t.Columns = append(t.Columns, c)
		}
	}
	return t
}

func asks(t *testing.T, p Proposal, text string) {
	t.Helper()
	assert.Contains(t, strings.Join(p.Description.Questions, "\n"), text)
}

func TestPropose_StatusWords(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		words []string
		want  Status
		asks  string
	}{
		{[]string{"SUCCESS", "FAILURE", "QUEUED", "IN_PROGRESS"}, Status{Pending: []string{"QUEUED"}, Processing: []string{"IN_PROGRESS"}, Completed: []string{"SUCCESS"}, Failed: []string{"FAILURE"}}, ""},
		{[]string{"succeeded", "failed", "canceled", "starting"}, Status{Pending: []string{"starting"}, Processing: []string{"starting"}, Completed: []string{"succeeded"},
			Failed: []string{"failed"}, Cancelled: []string{"canceled"}}, ""},
		{[]string{"已完成", "失败", "排队中", "生成中"}, Status{Pending: []string{"排队中"}, Processing: []string{"生成中"}, Completed: []string{"已完成"}, Failed: []string{"失败"}}, ""},
		{[]string{"done", "error", "new"}, Status{Pending: []string{"new"}, Processing: []string{"new"}, Completed: []string{"done"}, Failed: []string{"error"}}, ""},
		{[]string{"done", "complete", "error", "new", "archived"}, Status{Pending: []string{"new"}, Processing: []string{"new"}, Completed: []string{"done", "complete"}, Failed: []string{"error"}},
			`the word "archived" of the column status mean (96 rows of the sample)`},
		{[]string{"processing", "waiting"}, Status{Pending: []string{"waiting"}, Processing: []string{"processing"}}, "status.failed: which word"},
	} {
		p := Propose(catalogOf(images("generations", column("status", "text").words(test.words...))), Settings{})
		test.want.Column = "status"
		assert.Equal(t, test.want, p.Description.Status)
		if test.asks != "" {
			asks(t, p, test.asks)
		} else {
			assert.NotContains(t, strings.Join(p.Description.Questions, "\n"), "status")
		}
	}
	// Only allowed words, of an enum and of a CHECK.
	enum := column("status", "enum")
	enum.Labels, enum.Default = []string{"cancelled", "error", "finished", "failed", "running", "queued"}, "'queued'::job_state"
	p := Propose(catalogOf(images("generations", enum)), Settings{})
	assert.Equal(t, []string{"failed", "error"}, p.Description.Status.Failed, "the usual word is written")
	check := images("generations", column("status", "text"))
	check.Checks = []string{"CHECK ((status = ANY (ARRAY['todo'::text, 'working'::text, 'ok'::text, 'fail'::text])))"}
	p = Propose(catalogOf(check), Settings{})
	assert.Equal(t, Status{Column: "status", Pending: []string{"todo"}, Processing: []string{"working"}, Completed: []string{"ok"}, Failed: []string{"fail"}}, p.Description.Status)
}

func TestPropose_BooleanPair(t *testing.T) {
	t.Parallel()
	sketches := table("sketches", "id", column("id", "int8").notNull(), column("owner_id", "text"), column("prompt", "text"), column("failed", "bool").words("false", "true"),
		column("output", "text").like("url"))
	d := Propose(catalogOf(sketches), Settings{}).Description
	assert.Equal(t, Table{"public", "sketches"}, d.Tasks)
	assert.Equal(t, Status{FailedColumn: "failed"}, d.Status)
	assert.Equal(t, "output", d.Result)
	assert.Equal(t, "never", d.Credits.Charged)
}

// Columns without a hint in their names become questions that list what is possible.
func TestPropose_NamesWithoutHint(t *testing.T) {
	t.Parallel()
	odd := table("vorgang", "nr", column("nr", "int8").notNull(), column("wer", "uuid"), column("spalte1", "text"), column("spalte2", "text"), column("zustand", "text").words("fertig", "fehler", "offen"))
	c := catalogOf(odd)
	p := Propose(c, Settings{})
	assert.True(t, p.Description.Tasks.IsZero())
	require.Len(t, p.Description.Questions, 1)

	p = Propose(c, Settings{Tasks: odd.Table})
	d := p.Description
	assert.Equal(t, "nr", d.Key)
	assert.Equal(t, Status{Column: "zustand", Pending: []string{"offen"}, Processing: []string{"offen"}, Completed: []string{"fertig"}, Failed: []string{"fehler"}}, d.Status)
	assert.Empty(t, d.User)
	asks(t, p, "user: which column holds the user's id? Candidates: wer, spalte1, spalte2")
	asks(t, p, "result: which column gets the picture's URL? Candidates: spalte1, spalte2")
	asks(t, p, "prompt: which column holds the prompt")

	p = Propose(c, Settings{Tasks: Table{"public", "missing"}})
	asks(t, p, "there is no table public.missing that the role owner can see; tables: public.vorgang")

	chinese := table("图片任务", "任务编号", column("任务编号", "text").notNull(), column("用户id", "uuid"), column("提示词", "text"), column("状态", "text").words("成功", "失败", "等待中"), column("结果图片地址", "text"))
	d = Propose(catalogOf(chinese), Settings{}).Description
	assert.Equal(t, []string{"任务编号", "用户id", "提示词", "状态", "结果图片地址"}, []string{d.Key, d.User, d.Prompt, d.Status.Column, d.Result})
}

func TestPropose_SeveralTables(t *testing.T) {
	t.Parallel()
	p := Propose(catalogOf(table("posts", "id", column("id", "int8")), images("generations"), images("avatars", column("style", "text"))), Settings{})
	assert.Equal(t, Table{"public", "avatars"}, p.Description.Tasks, "the best first")
	asks(t, p, "several tables look like image tasks: public.avatars, public.generations")
	assert.Equal(t, []string{"public.generations"}, p.Lines["tasks"].Others)
	assert.Equal(t, Guess, p.Lines["tasks"].Sure)
	p = Propose(catalogOf(images("generations"), images("avatars")), Settings{Tasks: Table{"public", "generations"}})
	assert.Equal(t, Table{"public", "generations"}, p.Description.Tasks)
}

// Tables that have a status and a URL, and are something else.
func TestPropose_OtherTables(t *testing.T) {
	t.Parallel()
	for _, other := range []CatalogTable{
		table("photo_verifications", "id", column("id", "uuid").notNull(), column("user_id", "uuid"), column("photo_url", "text").like("url"), column("status", "text").words("pending", "approved", "rejected")),
		table("exports", "id", column("id", "uuid").notNull(), column("user_id", "uuid"), column("result_url", "text").like("url"), column("status", "text").words("completed", "failed", "pending")),
		table("orders", "id", column("id", "uuid").notNull(), column("user_id", "uuid"), column("product_image_url", "text").like("url"), column("currency", "text"), column("status", "text").words("completed", "processing", "pending", "failed")),
		table("completions", "id", column("id", "uuid").notNull(), column("user_id", "uuid"), column("prompt", "text"), column("output", "text"), column("status", "text").words("completed", "failed", "pending")),
		table("job", "id", column("id", "uuid").notNull(), column("state", "text").words("created", "active", "completed", "failed"), column("data", "jsonb"), column("output", "jsonb")),
	} {
		p := Propose(catalogOf(other), Settings{})
		assert.True(t, p.Description.Tasks.IsZero(), other.Table.Name)
		assert.Len(t, p.Description.Questions, 1)
	}
}

func TestPropose_Results(t *testing.T) {
	t.Parallel()
	form := column("image_url", "jsonb")
	for _, test := range []struct {
		column CatalogColumn
		form   string
		asks   bool
	}{
		{column("image_url", "text").like("url"), "text", false},
		{column("image_url", "_text"), "array", false},
		{form.like("url"), `["{url}"]`, false},
		{form.like("json"), `["{url}"]`, true},
		{func() CatalogColumn { c := form; c.Form = `{"url":"{url}"}`; return c }(), `{"url":"{url}"}`, false},
	} {
		p := Propose(catalogOf(images("generations", test.column)), Settings{})
		assert.Equal(t, "image_url", p.Description.Result)
		assert.Equal(t, test.form, p.Description.ResultForm)
		assert.Equal(t, test.asks, strings.Contains(strings.Join(p.Description.Questions, "\n"), "result_form"))
	}
	assert.Equal(t, `{"a":[{"url":"{url}"}]}`, FormOf([]byte(`{"a": [{"url": "https://x/1.png", "prompt": "private"}, {"url": "https://x/2.png"}], "n": 1}`)))
	assert.Empty(t, FormOf([]byte(`{"a": "private"}`)))
	assert.Empty(t, FormOf(nil))
}

func TestPropose_Credits(t *testing.T) {
	t.Parallel()
	credits := func(columns ...CatalogColumn) CatalogTable {
		return table("user_credits", "user_id", append([]CatalogColumn{column("user_id", "uuid").notNull()}, columns...)...)
	}
	numeric := column("balance", "numeric")
	numeric.Scale = 2
	p := Propose(catalogOf(images("generations"), credits(numeric, column("total_used", "int4"))), Settings{})
	assert.Equal(t, "balance", p.Description.Credits.Column)
	assert.Equal(t, 2, p.Description.Credits.Decimals)
	assert.Equal(t, "always", p.Description.Credits.Charged)
	asks(t, p, "credits.cost: what does the application charge for a task?")

	p = Propose(catalogOf(images("generations"), credits(column("balance", "float8"))), Settings{})
	asks(t, p, "whose sums are not exact")

	p = Propose(catalogOf(images("generations"), credits(column("credits", "int4"), column("credits_reserved", "int4"))), Settings{})
	assert.Empty(t, p.Description.Credits.Refund)
	asks(t, p, "also has the column credits_reserved")

	p = Propose(catalogOf(images("generations"), credits(column("credits", "int4")), table("wallets", "user_id", column("user_id", "uuid").notNull(), column("credits", "int4"))), Settings{})
	asks(t, p, "several columns can hold the users' balances")
	p = Propose(catalogOf(images("generations"), credits(column("credits", "int4")), table("wallets", "user_id", column("user_id", "uuid").notNull(), column("credits", "int4"))), Settings{Balance: Table{"public", "wallets"}})
	assert.Equal(t, Table{"public", "wallets"}, p.Description.Credits.Table)

	// A flag that most routes do not set says nothing; one that they set does.
	flag := func(set, unset int64) CatalogColumn {
		c := column("credits_deducted", "bool")
		c.Values = []CatalogValue{{"true", set}, {"false", unset}}
		return c
	}
	p = Propose(catalogOf(images("generations", flag(3, 97)), credits(column("credits", "int4"))), Settings{})
	assert.Equal(t, "always", p.Description.Credits.Charged)
	asks(t, p, "credits.charged: the column credits_deducted is set in 3% of the rows")
	p = Propose(catalogOf(images("generations", flag(97, 3), column("credits_cost", "int4")), credits(column("credits", "int4"))), Settings{})
	assert.Equal(t, "column", p.Description.Credits.Charged)
	assert.Equal(t, "credits_cost", p.Description.Credits.CostColumn)
	assert.Empty(t, p.Description.Questions)

	c := catalogOf(images("generations"), table("credit_lots", "id", column("id", "int8").notNull(), column("user_id", "uuid"), column("credits_left", "int4"), column("expires_at", "timestamptz")))
	c.Routines = []CatalogFunc{{"public", "refund_credits", "p_user_id uuid, p_amount integer, p_task_id uuid", "void"}, {"public", "use_credits", "uuid, integer", "void"}}
	p = Propose(c, Settings{})
	assert.True(t, p.Description.Credits.Table.IsZero())
	asks(t, p, "credits are rows of public.credit_lots that expire")
	asks(t, p, "public.refund_credits({user}, {amount}, {task})")
}

func TestPropose_LogNeedsColumns(t *testing.T) {
	t.Parallel()
	log := table("credit_log", "id", column("id", "int8").notNull(), column("user_id", "uuid").notNull(), column("amount", "int4").notNull().words("-2", "100"), column("generation_id", "uuid"),
		column("type", "text").notNull().words("usage", "bonus", "refund"), column("balance_after", "int4"), column("ip", "text").notNull())
	log.Columns[0].Identity = true
	log.Missing = []string{"INSERT"}
	p := Propose(catalogOf(images("generations"), table("credits", "user_id", column("user_id", "uuid").notNull(), column("credits", "int4")), log), Settings{})
	d := p.Description
	assert.Equal(t, &Insert{log.Table, map[string]string{"user_id": "{user}", "amount": "{amount}", "generation_id": "{task}", "type": "refund", "balance_after": "{balance}"}}, d.Log)
	assert.Equal(t, &Match{log.Table, "generation_id", map[string][]string{"type": {"usage"}}}, d.Credits.ChargeLog)
	assert.EqualValues(t, 2, d.Credits.Cost, "the amount of the charges")
	asks(t, p, "log.columns: the column ip of public.credit_log is not null and has no default")
	assert.Contains(t, strings.Join(p.Notes, "\n"), "public.credit_log: the role owner lacks privileges; run as the owner of the table: grant insert on public.credit_log to owner")
	assert.Contains(t, strings.Join(p.Notes, "\n"), "public.credit_log: not null and without a default: user_id, amount, type, ip")
	assert.Equal(t, []string{"public", "extensions"}, d.Path)
}

func TestPropose_SharedTable(t *testing.T) {
	t.Parallel()
	p := Propose(catalogOf(images("generations", column("type", "text").words("image", "video"))), Settings{})
	assert.Equal(t, map[string][]string{"type": {"image"}}, p.Description.Only)
	asks(t, p, "only: public.generations holds other tasks too")
}

// What codes mean stands only in the code of the application: adopt finds the column, and asks.
func TestPropose_Codes(t *testing.T) {
	t.Parallel()
	state := column("state", "int2")
	state.Values = []CatalogValue{{"2", 90}, {"0", 7}}
	state.Default = "'0'::smallint"
	tasks := images("image_tasks", column("deleted_at", "timestamp"), column("fail_message", "text"))
	tasks.Columns = slices.DeleteFunc(tasks.Columns, func(c CatalogColumn) bool { return c.Name == "status" })
	tasks.Columns = append(tasks.Columns, state)
	for check, codes := range map[string]string{
		"":                                       "0: 7, 2: 90; new rows have 0 by default",
		"CHECK ((state = ANY (ARRAY[0, 1, 9])))": "0: 7, 1: 0, 2: 90, 9: 0; ",
		"CHECK ((state = ANY (ARRAY['-1'::integer, 10])))": "0: 7, 2: 90, -1: 0, 10: 0; ",
		"CHECK (((state >= 0) AND (state <= 3)))":          "0: 7, 1: 0, 2: 90, 3: 0; ",
	} {
		tasks.Checks = []string{check}
		p := Propose(catalogOf(tasks), Settings{})
		assert.Equal(t, tasks.Table, p.Description.Tasks)
		assert.Equal(t, "state", p.Description.Status.Column)
		assert.Empty(t, p.Description.Status.Pending)
		asks(t, p, "status: what do the codes of the column state mean (rows of the sample: "+codes)
		assert.Equal(t, "deleted_at", p.Description.Deleted)
		assert.Equal(t, "fail_message", p.Description.Error)
	}
}
