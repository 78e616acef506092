package bridge

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"imagetasks/pkg/pattern"
	"imagetasks/pkg/suggest"
	"imagetasks/pkg/task"
)

// Problem is a line of a description that can't be used with the tables as they are.
type Problem struct {
	Key  string `json:"key"` // of the line: status.pending
	Text string `json:"problem"`
	Fix  string `json:"fix"` // what to write, or to run
}

// Error implements error.
func (p Problem) Error() string { return fmt.Sprintf("%s: %s; %s", p.Key, p.Text, p.Fix) }

// Validate compares a description with the database, and returns everything that would make the bridge fail.
func Validate(d Description, c Catalog) []Problem {
	v := &validation{d: d, catalog: c}
	for _, question := range d.Questions {
		v.problem("questions", fmt.Sprintf("a question is open: %s", question), "answer it in the lines it names, and remove it from questions")
	}
	t, ok := v.table("tasks", d.Tasks, "SELECT", "UPDATE", "TRIGGER")
	if !ok {
		return v.found
	}
	v.tasks = t
	v.ids()
	v.contents()
	v.status()
	v.credits()
	v.insert("log", d.Log)
	v.insert("history", d.History)
	v.environment()
	return v.found
}

type validation struct {
	d       Description
	catalog Catalog
	tasks   CatalogTable
	found   []Problem
}

func (v *validation) problem(key, text, fix string) {
	if p := (Problem{key, text, fix}); !slices.Contains(v.found, p) {
		v.found = append(v.found, p)
	}
}

// table finds a table and checks what the role may do with it.
func (v *validation) table(key string, name Table, privileges ...string) (CatalogTable, bool) {
	if name.IsZero() {
		v.problem(key, "no table is named", "write a table, for example \"public.tasks\"")
		return CatalogTable{}, false
	}
	t, ok := v.catalog.Find(name)
	if !ok {
		v.problem(key, fmt.Sprintf("there is no table %s", name), "write one of: "+nearTables(v.catalog, name)+" (a view has no triggers that see its changes: write the table under it)")
		return t, false
	}
	if t.Kind == "foreign" {
		v.problem(key, fmt.Sprintf("%s is a foreign table, which can have no triggers with transition tables", name), "adopt the table in the database where it is")
	}
	if fix := v.catalog.missing(t, privileges); fix != "" {
		v.problem(key, fmt.Sprintf("the role %s lacks privileges on %s", v.catalog.Role, name), "run as the owner of the table: "+fix)
	}
	if t.RowLevel {
		v.problem(key, fmt.Sprintf("row-level security hides rows of %s from the role %s", name, v.catalog.Role), fmt.Sprintf(
			"run adopt as the owner of the table, or as a role with BYPASSRLS; or create policy imagetasks on %s to %s using (true) with check (true)", name, quoteName(v.catalog.Role)))
	}
	return t, true
}

// nearTables lists the tables whose names are nearest to one.
func nearTables(c Catalog, name Table) string {
	var out []Table
	for _, t := range c.Tables {
		out = append(out, t.Table)
	}
	slices.SortStableFunc(out, func(a, b Table) int {
		return suggest.EditDistance(a.String(), name.String()) - suggest.EditDistance(b.String(), name.String())
	})
	var texts []string
	for _, t := range out[:min(len(out), 5)] {
		texts = append(texts, t.String())
	}
	if len(texts) == 0 {
		return "(the database has no tables that this role can see)"
	}
	return strings.Join(texts, ", ")
}

// column finds a column of a table; an empty name is no problem and not found.
func (v *validation) column(key string, t CatalogTable, name string) (CatalogColumn, bool) {
	if name == "" {
		return CatalogColumn{}, false
	}
	c, ok := t.Column(name)
	if !ok {
		fix := "remove the line, or write one of: " + columnsOf(t, func(CatalogColumn) bool { return true })
		v.problem(key, fmt.Sprintf("%s has no column %s", t.Table, name), fix)
	}
	return c, ok
}

// typed finds a column that must have a certain type.
func (v *validation) typed(key string, t CatalogTable, name, want string, fits func(CatalogColumn) bool) (CatalogColumn, bool) {
	c, ok := v.column(key, t, name)
	if ok && !fits(c) {
		v.problem(key, fmt.Sprintf("the column %s of %s is of type %s and not %s", name, t.Table, c.Type, want), "write one of: "+columnsOf(t, fits))
	}
	return c, ok
}

// written is typed for a column that the bridge writes.
func (v *validation) written(key, name, want string, fits func(CatalogColumn) bool) (CatalogColumn, bool) {
	c, ok := v.typed(key, v.tasks, name, want, fits)
	if ok && c.Generated {
		v.problem(key, fmt.Sprintf("the column %s of %s is generated, and can't be written", name, v.tasks.Table), "write another column, or remove the line")
	}
	return c, ok
}

// ids checks the columns of the task's and the user's id.
func (v *validation) ids() {
	d, t := v.d, v.tasks
	if d.Key == "" {
		v.problem("key", "no column is named", "write the primary key, or another column that is unique and not null")
	}
	if c, ok := v.column("key", t, d.Key); ok {
		if !t.isUnique(d.Key) {
			v.problem("key", fmt.Sprintf("the column %s of %s is not unique", d.Key, t.Table), "write a column with a primary key or a unique index of its own: "+
				columnsOf(t, func(c CatalogColumn) bool { return t.isUnique(c.Name) && c.NotNull }))
		}
		if !c.NotNull {
			v.problem("key", fmt.Sprintf("the column %s of %s may be null", d.Key, t.Table), "write a column that is not null: "+
				columnsOf(t, func(c CatalogColumn) bool { return t.isUnique(c.Name) && c.NotNull }))
		}
		if !c.isID() {
			v.problem("key", fmt.Sprintf("the column %s is of type %s, whose text depends on settings", d.Key, c.Type), "write a column of type text, varchar, char, uuid, smallint, integer or bigint")
		}
	}
	if d.User == "" {
		v.problem("user", "no column is named", "write the column of the user's id: "+columnsOf(t, CatalogColumn.isID))
	}
	v.typed("user", t, d.User, "text, uuid or a whole number", CatalogColumn.isID)
	for _, name := range slices.Sorted(maps.Keys(d.Only)) {
		c, ok := v.column("only", t, name)
		if ok && len(d.Only[name]) == 0 {
			v.problem("only", fmt.Sprintf("no value is listed for the column %s", name), "list the values of image tasks, or remove the line")
		}
		if ok {
			v.words("only", t, c, d.Only[name])
		}
	}
	v.typed("deleted", t, d.Deleted, "a time or boolean", func(c CatalogColumn) bool { return c.isTime() || c.isBool() })
}

// words checks that a column allows these words: enum labels must exist; a CHECK is read only if it is a list.
func (v *validation) words(key string, t CatalogTable, c CatalogColumn, words []string) {
	allowed := t.allowed(c)
	for _, word := range words {
		switch {
		case c.isInteger() && !isCode(c, word):
			v.problem(key, fmt.Sprintf("the column %s of %s is of type %s, and %q is no value of it", c.Name, t.Table, c.Type, word), "write the number as the application does, such as 1")
		case allowed != nil && !slices.Contains(allowed, word):
			v.problem(key, fmt.Sprintf("the column %s of %s does not allow the word %q", c.Name, t.Table, word), "write one of: "+strings.Join(allowed, ", "))
		case c.MaxLength > 0 && len([]rune(word)) > c.MaxLength:
			v.problem(key, fmt.Sprintf("the word %q is longer than the %d characters of the column %s", word, c.MaxLength, c.Name), "write a shorter word")
		}
	}
}

// isCode reports whether a text is a whole number that a column can hold, in the form in which PostgreSQL writes it: words are compared as text.
func isCode(c CatalogColumn, text string) bool {
	n, err := strconv.ParseInt(text, 10, map[string]int{"int2": 16, "int4": 32}[c.Base])
	return err == nil && strconv.FormatInt(n, 10) == text
}

// contents checks the columns of what a task is to do and what became of it.
func (v *validation) contents() {
	d, t := v.d, v.tasks
	if d.Prompt == "" && len(d.Inputs) == 0 {
		v.problem("prompt", "neither a prompt nor an input picture is named: no picture can be made", "write prompt = \"COLUMN\" or inputs = [\"COLUMN\"]")
	}
	v.typed("prompt", t, d.Prompt, "text", func(c CatalogColumn) bool { return c.isText() || c.isJSON() })
	for _, input := range d.Inputs {
		v.typed("inputs", t, input, "text, text[], json, jsonb or bytea", func(c CatalogColumn) bool {
			return c.isText() || c.isTextArray() || c.isJSON() || c.Base == "bytea"
		})
	}
	options := map[string]string{"style": d.Style, "ratio": d.Ratio, "model": d.Model}
	for _, name := range slices.Sorted(maps.Keys(options)) {
		v.column(name, t, options[name])
	}
	for _, name := range slices.Sorted(maps.Keys(d.Values)) {
		if column, ok := options[name]; !ok || column == "" {
			v.problem("values."+name, "it translates what no column holds", "name the column with style, ratio or model, or remove it")
		}
	}
	v.result()
	v.written("error", d.Error, "text", CatalogColumn.isText)
	v.written("progress", d.Progress, "a number", CatalogColumn.isNumber)
	if c, ok := v.written("stage", d.Stage, "text or an enum", CatalogColumn.isWord); ok {
		v.words("stages", t, c, slices.Sorted(maps.Values(d.Stages)))
		if len(d.Stages) == 0 && t.allowed(c) != nil {
			v.problem("stage", fmt.Sprintf("the column %s allows %s only, and not our stages", c.Name, strings.Join(t.allowed(c), ", ")), "translate our stages in [bridge.stages], or remove the line")
		}
	}
	if len(d.Stages) > 0 && d.Stage == "" {
		v.problem("stages", "no column is named for the stage", "write stage = \"COLUMN\", or remove [bridge.stages]")
	}
	v.typed("created", t, d.Created, "a time", CatalogColumn.isTime)
	v.written("started", d.Started, "a time", CatalogColumn.isTime)
	v.written("completed", d.Completed, "a time", CatalogColumn.isTime)
	v.written("updated", d.Updated, "a time", CatalogColumn.isTime)
	if !slices.Contains([]string{"wait", "requeue", "fail"}, d.Moving.Processing) {
		v.problem("moving.processing", fmt.Sprintf("%q is no rule", d.Moving.Processing), "write wait, requeue or fail")
	}
}

func (v *validation) result() {
	d := v.d
	if d.Result == "" {
		v.problem("result", "no column is named", "write the column that gets the picture's URL")
		return
	}
	c, ok := v.written("result", d.Result, "text, text[], json or jsonb", func(c CatalogColumn) bool { return c.isText() || c.isTextArray() || c.isJSON() })
	if !ok {
		return
	}
	form := d.ResultForm
	switch {
	case form == "" || form == "text":
		if !c.isText() {
			v.problem("result_form", fmt.Sprintf("the column %s is of type %s", c.Name, c.Type), `write "array" for text[], or JSON with {url} for json and jsonb`)
		}
	case form == "array":
		if !c.isTextArray() {
			v.problem("result_form", fmt.Sprintf("the column %s is of type %s and no array", c.Name, c.Type), `write "text", or JSON with {url} for json and jsonb`)
		}
	case !strings.Contains(form, "{url}"):
		v.problem("result_form", "it does not contain {url}", `write "text", "array", or JSON such as ["{url}"]`)
	case !isJSON(strings.ReplaceAll(form, "{url}", "url")):
		v.problem("result_form", "it is no JSON", `write "text", "array", or JSON such as ["{url}"]`)
	case !c.isJSON() && !c.isText():
		v.problem("result_form", fmt.Sprintf("the column %s is of type %s and holds no JSON", c.Name, c.Type), `write "array"`)
	}
}

// status checks how the state is shown.
func (v *validation) status() {
	st, t := v.d.Status, v.tasks
	states := []task.State{task.Pending, task.Processing, task.Completed, task.Failed, task.Cancelled}
	if st.Column == "" {
		v.flags(st, states)
		return
	}
	for key, column := range map[string]string{"completed_column": st.CompletedColumn, "failed_column": st.FailedColumn,
		"cancelled_column": st.CancelledColumn, "processing_column": st.ProcessingColumn} {
		if column != "" {
			v.problem("status."+key, "a column of words is named too", "remove this line, or status.column with its words")
		}
	}
	c, ok := v.written("status.column", st.Column, "text, an enum or a whole number", CatalogColumn.isState)
	meaning := map[string]task.State{}
	for _, state := range states {
		key := "status." + string(state)
		words := st.Words(state)
		if len(words) == 0 && state != task.Cancelled {
			v.problem(key, "no word is listed", "list the words of the column "+st.Column+" that mean it")
		}
		for _, word := range words {
			earlier, seen := meaning[word]
			if seen && (earlier != task.Pending || state != task.Processing) && earlier != state {
				v.problem(key, fmt.Sprintf("the word %q means %s too", word, earlier), "list it once; only pending and processing may share words")
			}
			if !seen {
				meaning[word] = state
			}
		}
		if ok {
			v.words(key, t, c, words)
		}
	}
}

// flags checks boolean columns that show the state.
func (v *validation) flags(st Status, states []task.State) {
	for _, state := range states {
		if len(st.Words(state)) > 0 {
			v.problem("status."+string(state), "words are listed, and no column for them is named", "write status.column, or remove the words")
		}
	}
	if st.FailedColumn == "" {
		v.problem("status.column", "nothing shows that a task has failed", "write status.column with its words, or status.failed_column")
	}
	used := map[string]bool{}
	for _, flag := range []struct{ key, column string }{{"completed_column", st.CompletedColumn}, {"failed_column", st.FailedColumn},
		{"cancelled_column", st.CancelledColumn}, {"processing_column", st.ProcessingColumn}} {
		v.written("status."+flag.key, flag.column, "boolean", CatalogColumn.isBool)
		if flag.column != "" && used[flag.column] {
			v.problem("status."+flag.key, fmt.Sprintf("the column %s has another meaning already", flag.column), "write another column, or remove the line")
		}
		used[flag.column] = true
	}
	if c, ok := v.tasks.Column(v.d.Result); ok && st.CompletedColumn == "" && c.NotNull {
		v.problem("status.completed_column", fmt.Sprintf("the column %s is never null, so that every row would be completed", c.Name), "write status.completed_column")
	}
}

// maxDecimals is the largest number of digits after the point of a credit.
const maxDecimals = 6

func isFlag(c CatalogColumn) bool { return c.isBool() || c.isNumber() }

func (v *validation) credits() {
	cr, t := v.d.Credits, v.tasks
	if cr.Cost < 0 {
		v.problem("credits.cost", "it is negative", "write the number of credits of a task")
	}
	v.typed("credits.cost_column", t, cr.CostColumn, "a number", CatalogColumn.isNumber)
	if len(cr.CostByModel) > 0 && v.d.Model == "" {
		v.problem("credits.cost_by_model", "no column is named for the model", "write model = \"COLUMN\", or remove the line")
	}
	v.typed("credits.charged_column", t, cr.ChargedColumn, "boolean or a number", isFlag)
	v.written("credits.refunded_column", cr.RefundedColumn, "boolean or a number", isFlag)
	switch cr.Charged {
	case "always", "never":
	case "column":
		if cr.ChargedColumn == "" {
			v.problem("credits.charged_column", "no column is named", "write the column that shows the charge, or charged = \"always\"")
		}
	case "log":
		if cr.ChargeLog == nil {
			v.problem("credits.charge_log", "no row of a log is described", "write [bridge.credits.charge_log], or charged = \"always\"")
		}
	default:
		v.problem("credits.charged", fmt.Sprintf("%q is no rule", cr.Charged), "write always, column, log or never")
	}
	v.match("credits.charge_log", cr.ChargeLog)
	v.match("credits.refund_log", cr.RefundLog)
	if cr.Decimals < 0 || cr.Decimals > maxDecimals {
		v.problem("credits.decimals", fmt.Sprintf("%d is not from 0 to %d", cr.Decimals, maxDecimals), "write the digits after the point of a credit")
	}
	v.balance()
	v.call("credits.refund", cr.Refund)
	v.call("credits.charge", cr.Charge)
}

// balance checks the table of balances.
func (v *validation) balance() {
	cr := v.d.Credits
	if cr.Table.IsZero() {
		for key, value := range map[string]string{"credits.key": cr.Key, "credits.column": cr.Column} {
			if value != "" {
				v.problem(key, "no table of balances is named", "write credits.table, or remove the line")
			}
		}
		return
	}
	privileges := []string{"SELECT", "TRIGGER"}
	if cr.Refund != "" || cr.Charge != "" {
		privileges = append(privileges, "UPDATE")
	}
	t, ok := v.table("credits.table", cr.Table, privileges...)
	if !ok {
		return
	}
	if cr.Key == "" {
		v.problem("credits.key", "no column is named", "write the column of the user's id in "+t.Table.String())
	}
	if key, ok := v.typed("credits.key", t, cr.Key, "text, uuid or a whole number", CatalogColumn.isID); ok {
		if !t.isUnique(cr.Key) {
			v.problem("credits.key", fmt.Sprintf("the column %s of %s is not unique: a user could have several balances", cr.Key, t.Table),
				"add a unique index, or set refund and charge to functions of the application and remove table, key and column")
		}
		if user, ok := v.tasks.Column(v.d.User); ok && key.isInteger() != user.isInteger() && !key.isText() && !user.isText() {
			v.problem("credits.key", fmt.Sprintf("it is of type %s, and the tasks' user of type %s", key.Type, user.Type), "write the column that holds the same id")
		}
	}
	if cr.Column == "" {
		v.problem("credits.column", "no column is named", "write the column of the balance in "+t.Table.String())
	}
	c, ok := v.typed("credits.column", t, cr.Column, "a whole number or numeric", func(c CatalogColumn) bool { return c.isInteger() || c.Base == "numeric" })
	if !ok {
		return
	}
	switch {
	case c.Generated:
		v.problem("credits.column", fmt.Sprintf("the column %s is generated, and can't be written", c.Name), "write another column, or functions in refund and charge")
	case c.isInteger() && cr.Decimals != 0:
		v.problem("credits.decimals", fmt.Sprintf("the column %s holds whole numbers", c.Name), "write decimals = 0, or remove the line")
	case c.Base == "numeric" && c.Scale >= 0 && c.Scale <= maxDecimals && cr.Decimals != c.Scale:
		v.problem("credits.decimals", fmt.Sprintf("the column %s has %d digits after the point", c.Name, c.Scale), fmt.Sprintf("write decimals = %d", c.Scale))
	case c.Base == "numeric" && c.Scale < 0 && cr.Decimals < min(c.Digits, maxDecimals):
		v.problem("credits.decimals", fmt.Sprintf("balances have up to %d digits after the point", c.Digits), fmt.Sprintf("write decimals = %d", min(c.Digits, maxDecimals)))
	}
}

// match checks the description of rows of another table.
func (v *validation) match(key string, m *Match) {
	if m == nil {
		return
	}
	t, ok := v.table(key+".table", m.Table, "SELECT", "TRIGGER")
	if !ok {
		return
	}
	if m.Task == "" {
		v.problem(key+".task", "no column is named", "write the column of the task's key in "+t.Table.String())
	}
	v.typed(key+".task", t, m.Task, "text, uuid or a whole number", CatalogColumn.isID)
	for _, name := range slices.Sorted(maps.Keys(m.Where)) {
		if c, ok := v.column(key+".where", t, name); ok {
			v.words(key+".where", t, c, m.Where[name])
		}
	}
}

var (
	placeholder = pattern.New(`\{([A-Za-z_]+)(?:\.([^{}]+))?\}`)
	call        = pattern.New(`^("(?:[^"]|"")+"|[^".(]+)\.("(?:[^"]|"")+"|[^".(]+)\((.*)\)$`)
)

// call checks how credits are given or taken.
func (v *validation) call(key, text string) {
	switch text {
	case "":
		return
	case "balance":
		if v.d.Credits.Table.IsZero() {
			v.problem(key, "no table of balances is named", "write credits.table with key and column, or a call of a function")
		}
		return
	}
	m := call().FindStringSubmatch(text)
	if m == nil {
		v.problem(key, fmt.Sprintf("%q is no call of a function", text), "write \"balance\", or a call with the schema such as public.refund_credits({user}, {amount}, {task})")
		return
	}
	var name Table
	if err := name.UnmarshalText([]byte(m[1] + "." + m[2])); err != nil {
		v.problem(key, err.Error(), "write a call with the schema such as public.refund_credits({user}, {amount}, {task})")
		return
	}
	v.placeholders(key, text, []string{"user", "amount", "task", "reason"}, nil)
	if !strings.Contains(text, "{amount}") || !strings.Contains(text, "{user}") && !strings.Contains(text, "{task}") {
		v.problem(key, "the call does not say whose credits, or how many", "pass {amount}, and {user} or {task}")
	}
	found := slices.ContainsFunc(v.catalog.Routines, func(f CatalogFunc) bool { return f.Schema == name.Schema && f.Name == name.Name })
	if !found {
		v.problem(key, fmt.Sprintf("there is no function %s", name), "write one of: "+strings.TrimPrefix(functionList((&proposer{catalog: v.catalog}).creditFunctions("")), ": "))
	}
}

// placeholders checks the placeholders of a text; row: those of columns of the task's row are known too.
func (v *validation) placeholders(key, text string, known []string, row *CatalogTable) {
	for _, m := range placeholder().FindAllStringSubmatch(text, -1) {
		switch {
		case m[1] == "row" && row != nil:
			if _, ok := row.Column(m[2]); !ok {
				v.problem(key, fmt.Sprintf("%s has no column %s", row.Table, m[2]), "write {row.NAME} with one of: "+columnsOf(*row, func(CatalogColumn) bool { return true }))
			}
		case m[2] != "" || !slices.Contains(known, m[1]):
			v.problem(key, fmt.Sprintf("there is no placeholder %s", m[0]), "write one of {"+strings.Join(known, "}, {")+"}")
		}
	}
}

// insert checks the description of a row to insert.
func (v *validation) insert(key string, in *Insert) {
	if in == nil {
		return
	}
	t, ok := v.table(key+".table", in.Table, "INSERT")
	if !ok {
		return
	}
	if in.Table == v.d.Tasks {
		v.problem(key+".table", "it is the table of tasks", "write another table, or remove ["+"bridge."+key+"]")
	}
	known := []string{"user", "task", "amount", "balance", "balance_before", "url", "prompt", "style", "ratio", "model", "size", "reason"}
	for _, name := range slices.Sorted(maps.Keys(in.Columns)) {
		at := key + ".columns." + name
		c, ok := v.column(at, t, name)
		if !ok {
			continue
		}
		text := in.Columns[name]
		if c.Generated {
			v.problem(at, "the column is generated, and can't be written", "remove the line")
		}
		v.placeholders(at, text, known, &v.tasks)
		if !placeholder().MatchString(text) && c.isState() {
			v.words(at, t, c, []string{text})
		}
	}
	for _, c := range t.Columns {
		if _, given := in.Columns[c.Name]; !given && c.needsValue() {
			v.problem(key+".columns", fmt.Sprintf("the column %s of %s is not null and has no default", c.Name, t.Table), fmt.Sprintf("write a line for it: %s = \"…\" (type %s)", tomlKey(c.Name), c.Type))
		}
	}
}

// environment checks schemas, the channel and settings.
func (v *validation) environment() {
	for _, schema := range v.d.Path {
		usage, exists := v.catalog.Schemas[schema]
		switch {
		case !exists && schema != "pg_catalog":
			v.problem("search_path", fmt.Sprintf("there is no schema %s", schema), "remove it")
		case exists && !usage:
			v.problem("search_path", fmt.Sprintf("the role %s may not use the schema %s", v.catalog.Role, schema), fmt.Sprintf("run as the owner of the schema: grant usage on schema %s to %s",
				quoteName(schema), quoteName(v.catalog.Role)))
		}
	}
	if len(v.d.Notify) > 63 {
		v.problem("notify", "the name of the channel is longer than 63 bytes", "write a shorter one")
	}
	for _, name := range slices.Sorted(maps.Keys(v.d.Settings)) {
		if !settingName().MatchString(name) {
			v.problem("settings", fmt.Sprintf("%q is no name of a setting", name), "write a name such as app.source")
		}
	}
}

var settingName = pattern.New(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$`)
