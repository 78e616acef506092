package store

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"

	"github.com/lib/pq"

	"imagetasks/pkg/bridge"
	"imagetasks/pkg/pattern"
	"imagetasks/pkg/task"
)

// adoptFiles are the templates of the functions that are generated from a description. Each file is one or more functions, each in
// a block of its own that is named like the function.
//
//go:embed adopt/*.sql
var adoptFiles embed.FS

// application is an application's tables as a description and the catalog present them. Its methods are for the templates: they return SQL
// expressions, in which names are quoted and words are literals.
type application struct {
	names
	bridge.Description
	Tag string // of the dollar quotes around a function's body

	tables     map[bridge.Table]bridge.CatalogTable
	partitions map[bridge.Table][]bridge.Table
	routines   []routine
	tasks      bridge.CatalogTable
}

// routine is a function of the application.
type routine struct {
	schema, name string
	argNames     []string
	argTypes     []string // as in a cast
	defaults     int      // how many of the last arguments have one
}

// generated is a function of the bridge.
type generated struct {
	Name      string
	Arguments string // their types, as regprocedure takes them
	SQL       string
}

// functionsOf returns the functions of a bridge, in an order in which they can be created.
func functionsOf(n names, d bridge.Description, tables map[bridge.Table]bridge.CatalogTable, routines []routine) ([]generated, error) {
	a := &application{names: n, Description: d, tables: tables, routines: routines}
	var err error
	if a.tasks, err = a.table(d.Tasks); err != nil {
		return nil, err
	}
	t, err := template.New("adopt").Funcs(template.FuncMap{"literal": literal}).ParseFS(adoptFiles, "adopt/*.sql")
	if err != nil {
		return nil, err
	}
	var out []generated
	for _, f := range []struct {
		name, arguments string
		wanted          bool
	}{
		{"app_key", "text", true},
		{"app_user", "text", !d.Credits.Table.IsZero()},
		{"app_begin", "", true},
		{"app_rows", "text[]", true},
		{"app_live", "", true},
		{"app_inputs", "text", true},
		{"app_progress", "text, integer, text", true},
		{"app_close", "text, text, text, text, jsonb", true},
		{"app_reopen", "text", true},
		{"app_hand_back", "text", true},
		{"app_balances", "text[]", true},
		{"app_refund", "text, text, bigint, text", true},
		{"app_charge", "text, text, bigint, text", true},
		{"app_history", "text, text, jsonb", d.History != nil},
		{"app_task_changed", "", true},
		{"app_balance_changed", "", !d.Credits.Table.IsZero()},
		{"app_charge_logged", "", a.chargeLogged()},
		{"app_refund_logged", "", d.Credits.RefundLog != nil},
	} {
		if !f.wanted {
			continue
		}
		text, err := a.function(t, f.name)
		if err != nil {
			return nil, err
		}
		out = append(out, generated{f.name, f.arguments, text})
	}
	return out, nil
}

// function executes a template. The tag of its dollar quotes occurs nowhere in its body.
func (a *application) function(t *template.Template, name string) (string, error) {
	for n := 0; ; n++ {
		a.Tag = "$app$"
		if n > 0 {
			a.Tag = fmt.Sprintf("$app%d$", n)
		}
		var b strings.Builder
		if err := t.ExecuteTemplate(&b, name, a); err != nil {
			// The template's position says nothing to an operator.
			if cause, ok := errors.AsType[*DescriptionError](err); ok {
				return "", cause
			}
			return "", fmt.Errorf("generate the function %s: %w", name, err)
		}
		if text := b.String(); strings.Count(text, a.Tag) == 2 {
			return strings.TrimSpace(emptyLines().ReplaceAllString(text, "\n")), nil
		}
	}
}

var emptyLines = pattern.New(`\n(?:[ \t]*\n)+`)

// DescriptionError means that the description of an application's tables does not fit them.
type DescriptionError struct{ Problem string }

// Error implements error.
func (e *DescriptionError) Error() string {
	return "the description of the application's tables: " + e.Problem
}

func misfit(format string, args ...any) error { return &DescriptionError{fmt.Sprintf(format, args...)} }

// literal returns a text as an SQL literal.
func literal(text string) string { return strings.TrimSpace(pq.QuoteLiteral(text)) }

func literals(texts []string) string {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = literal(text)
	}
	return strings.Join(quoted, ", ")
}

// column returns a column of the row with that alias.
func column(alias, name string) string { return alias + "." + pq.QuoteIdentifier(name) }

func qualified(t bridge.Table) string {
	return pq.QuoteIdentifier(t.Schema) + "." + pq.QuoteIdentifier(t.Name)
}

func (a *application) table(t bridge.Table) (bridge.CatalogTable, error) {
	found, ok := a.tables[t]
	if !ok {
		return found, misfit("there is no table %s", t)
	}
	return found, nil
}

func columnOf(t bridge.CatalogTable, name string) (bridge.CatalogColumn, error) {
	c, ok := t.Column(name)
	if !ok {
		return c, misfit("the table %s has no column %q", t.Table, name)
	}
	return c, nil
}

// written returns a column that values are written to.
func written(t bridge.CatalogTable, name string) (bridge.CatalogColumn, error) {
	c, err := columnOf(t, name)
	if err == nil && c.Generated {
		err = misfit("the column %q of the table %s is generated and can't be written", name, t.Table)
	}
	return c, err
}

// kindOf groups types by how they are handled.
type kindOf int

const (
	otherKind kindOf = iota
	textKind
	integerKind
	numberKind // with a fraction
	booleanKind
	timeKind
	jsonKind
	arrayKind
)

func kind(c bridge.CatalogColumn) kindOf {
	switch c.Base {
	case "text", "varchar", "bpchar", "citext", "name":
		return textKind
	case "int2", "int4", "int8":
		return integerKind
	case "numeric", "float4", "float8":
		return numberKind
	case "bool":
		return booleanKind
	case "timestamptz", "timestamp", "date":
		return timeKind
	case "json", "jsonb":
		return jsonKind
	case "_text", "_varchar":
		return arrayKind
	}
	return otherKind
}

// keyType returns the type in which values of a column of keys are compared, so that its index is used.
func keyType(t bridge.CatalogTable, name string) (string, error) {
	c, err := columnOf(t, name)
	if err != nil {
		return "", err
	}
	switch c.Base {
	case "text", "varchar":
		return "text", nil
	case "bpchar", "uuid", "numeric":
		return c.Base, nil
	case "int2":
		return "smallint", nil
	case "int4":
		return "integer", nil
	case "int8":
		return "bigint", nil
	}
	return "", misfit("the column %q of the table %s has the type %s; a key must be text, varchar, uuid, integer, bigint or numeric", name, t.Table, c.Type)
}

// fromText converts a text to a key's type: null if it is no value of that type.
func fromText(expression, keyType string) string {
	bounds := map[string]string{"smallint": "32767", "integer": "2147483647", "bigint": "9223372036854775807"}
	switch keyType {
	case "uuid":
		return fmt.Sprintf("case when %s ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then %[1]s::uuid end", expression)
	case "numeric":
		return fmt.Sprintf(`case when %s ~ '^-?[0-9]{1,100}(\.[0-9]{1,100})?$' then %[1]s::numeric end`, expression)
	case "smallint", "integer", "bigint":
		return fmt.Sprintf(`case when %s ~ '^(0|-?[1-9][0-9]{0,18})$' then
        case when %[1]s::numeric between -%[2]s and %[2]s then %[1]s::%[3]s end end`, expression, bounds[keyType], keyType)
	}
	return expression + "::" + keyType
}

// Path is the search path of the functions that write.
func (a *application) Path() string {
	schemas := searchPath(a.Description)
	quoted := make([]string, 0, len(schemas)+1)
	for _, schema := range schemas {
		quoted = append(quoted, pq.QuoteIdentifier(schema))
	}
	return strings.Join(append(quoted, "pg_temp"), ", ")
}

// searchPath returns the schemas in which the application's triggers and functions find what they name.
func searchPath(d bridge.Description) []string {
	if len(d.Path) == 0 {
		return []string{d.Tasks.Schema}
	}
	return d.Path
}

// SetSettings are the settings in a fixed order.
func (a *application) SetSettings() ([][2]string, error) {
	var out [][2]string
	for _, name := range slices.Sorted(maps.Keys(a.Settings)) {
		// Others could switch off the application's own rules (session_replication_role), or ours (lock_timeout).
		if !customSetting().MatchString(name) {
			return nil, misfit("settings: %q is not a setting of the application; its name must have the form prefix.name", name)
		}
		out = append(out, [2]string{literal(name), literal(a.Settings[name])})
	}
	return out, nil
}

var customSetting = pattern.New(`^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)+$`)

// TasksTable is the quoted name of the table of tasks.
func (a *application) TasksTable() string { return qualified(a.Tasks) }

// KeyType is the type of the tasks' key.
func (a *application) KeyType() (string, error) { return keyType(a.tasks, a.Key) }

// KeyFromText converts the parameter of app_key.
func (a *application) KeyFromText() (string, error) {
	t, err := a.KeyType()
	return fromText("app_key.key", t), err
}

// KeyOf is a row's key.
func (a *application) KeyOf(alias string) string { return column(alias, a.Key) }

// UserOf is a row's user.
func (a *application) UserOf(alias string) (string, error) {
	_, err := keyType(a.tasks, a.User)
	return column(alias, a.User), err
}

// AndOnly is the condition that a row is a task, to be added to others.
func (a *application) AndOnly(alias string) (string, error) {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(a.Only)) {
		if _, err := columnOf(a.tasks, name); err != nil {
			return "", err
		}
		if len(a.Only[name]) == 0 {
			return "", misfit("only: the column %q has no values", name)
		}
		fmt.Fprintf(&b, " and %s::text in (%s)", column(alias, name), literals(a.Only[name]))
	}
	if a.Deleted == "" {
		return b.String(), nil
	}
	c, err := columnOf(a.tasks, a.Deleted)
	if err != nil {
		return "", err
	}
	deleted, err := isTrue(alias, c)
	if kind(c) == timeKind {
		fmt.Fprintf(&b, " and %s is null", column(alias, c.Name)) // as an index of the application may have it
	} else {
		fmt.Fprintf(&b, " and not %s", deleted)
	}
	return b.String(), err
}

// ThisTask is the condition that a row is the task with that key.
func (a *application) ThisTask(alias, key string) (string, error) {
	only, err := a.AndOnly(alias)
	return fmt.Sprintf("%s = %s.app_key(%s)%s", a.KeyOf(alias), a.Schema, key, only), err
}

// word returns a word as a value of a column.
func word(c bridge.CatalogColumn, text string) (string, error) {
	if c.Base == "enum" && !slices.Contains(c.Labels, text) {
		return "", misfit("the column %q has no label %q", c.Name, text)
	}
	if kind(c) == textKind {
		if c.MaxLength > 0 && len([]rune(text)) > c.MaxLength {
			return "", misfit("%q is longer than the column %q", text, c.Name)
		}
		return literal(text), nil
	}
	return literal(text) + "::" + c.Type, nil
}

// isTrue is the condition that a column says yes.
func isTrue(alias string, c bridge.CatalogColumn) (string, error) {
	name := column(alias, c.Name)
	switch kind(c) {
	case booleanKind:
		return fmt.Sprintf("coalesce(%s, false)", name), nil
	case integerKind, numberKind:
		return fmt.Sprintf("coalesce(%s <> 0, false)", name), nil
	case timeKind:
		return name + " is not null", nil
	}
	return "", misfit("the column %q has the type %s; it must be boolean, a number or a time", c.Name, c.Type)
}

// isFilled is the condition that a result is there.
func isFilled(alias string, c bridge.CatalogColumn) string {
	name := column(alias, c.Name)
	switch kind(c) {
	case textKind:
		return fmt.Sprintf("coalesce(%s <> '', false)", name)
	case arrayKind:
		return fmt.Sprintf("coalesce(cardinality(%s) > 0, false)", name)
	case jsonKind:
		return fmt.Sprintf(`coalesce(%s::text not in ('null', '""', '[]', '{}'), false)`, name)
	}
	return name + " is not null"
}

// flags returns the conditions of the states without a column of words, in the order in which they are looked at.
func (a *application) flags(alias string) ([]string, error) {
	var out []string
	if a.Status.CompletedColumn == "" {
		result, err := columnOf(a.tasks, a.Result)
		if err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("when %s then 'completed'", isFilled(alias, result)))
	}
	for _, f := range []struct{ column, state string }{{a.Status.CompletedColumn, "completed"}, {a.Status.FailedColumn, "failed"},
		{a.Status.CancelledColumn, "cancelled"}, {a.Status.ProcessingColumn, "processing"}} {
		if f.column == "" {
			continue
		}
		c, err := columnOf(a.tasks, f.column)
		if err != nil {
			return nil, err
		}
		condition, err := isTrue(alias, c)
		if err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("when %s then '%s'", condition, f.state))
	}
	return out, nil
}

// StateOf is the state of a row: null for a word that the description does not name.
func (a *application) StateOf(alias string) (string, error) {
	if a.Status.Column == "" {
		cases, err := a.flags(alias)
		return "case " + strings.Join(cases, " ") + " else 'pending' end", err
	}
	c, err := columnOf(a.tasks, a.Status.Column)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "case")
	for _, state := range []task.State{task.Pending, task.Processing, task.Completed, task.Failed, task.Cancelled} {
		words := a.Status.Words(state)
		if len(words) == 0 {
			continue
		}
		for _, w := range words {
			if _, err := word(c, w); err != nil {
				return "", err
			}
		}
		fmt.Fprintf(&b, "\n               when %s::text in (%s) then '%s'", column(alias, c.Name), literals(words), state)
	}
	if b.Len() == len("case") {
		return "", misfit("status: no words are named")
	}
	return b.String() + " end", nil
}

// WordOf is what stands in a row for its state.
func (a *application) WordOf(alias string) (string, error) {
	if a.Status.Column == "" {
		return a.StateOf(alias)
	}
	return column(alias, a.Status.Column) + "::text", nil
}

// IsLive is the condition that a row is pending or processing, in a form that an index on the column can serve.
func (a *application) IsLive(alias string) (string, error) {
	if a.Status.Column == "" {
		state, err := a.StateOf(alias)
		return state + " in ('pending', 'processing')", err
	}
	words, err := a.words(slices.Concat(a.Status.Pending, a.Status.Processing))
	return fmt.Sprintf("%s in (%s)", column(alias, a.Status.Column), strings.Join(words, ", ")), err
}

// words returns words of the status as values of its column, each once.
func (a *application) words(texts []string) ([]string, error) {
	c, err := columnOf(a.tasks, a.Status.Column)
	if err != nil {
		return nil, err
	}
	if len(texts) == 0 {
		return nil, misfit("status: pending names no words")
	}
	var out []string
	for _, text := range texts {
		w, err := word(c, text)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out, nil
}

// MayStart is the condition that app_progress changes the status of a row that is pending. Empty: the table does not show what is processing.
func (a *application) MayStart(alias string) (string, error) {
	if a.Status.Column == "" {
		if a.Status.ProcessingColumn == "" {
			return "", nil
		}
		state, err := a.StateOf(alias)
		return state + " = 'pending'", err
	}
	if len(a.Status.Processing) == 0 {
		return "", nil
	}
	var waiting []string
	for _, w := range a.Status.Pending {
		if !slices.Contains(a.Status.Processing, w) {
			waiting = append(waiting, w)
		}
	}
	if len(waiting) == 0 {
		return "", nil
	}
	words, err := a.words(waiting)
	return fmt.Sprintf("%s in (%s)", column(alias, a.Status.Column), strings.Join(words, ", ")), err
}

// OrderOfCreation orders rows.
func (a *application) OrderOfCreation(alias string) (string, error) {
	if a.Created == "" {
		return a.KeyOf(alias), nil
	}
	if _, err := columnOf(a.tasks, a.Created); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s nulls first, %s", column(alias, a.Created), a.KeyOf(alias)), nil
}

// PromptOf is a row's prompt.
func (a *application) PromptOf(alias string) (string, error) {
	if a.Prompt == "" {
		return "''", nil
	}
	_, err := columnOf(a.tasks, a.Prompt)
	return fmt.Sprintf("coalesce(%s::text, '')", column(alias, a.Prompt)), err
}

// OptionsOf is the options of a row: an object without what is null or empty.
func (a *application) OptionsOf(alias string) (string, error) {
	var pairs []string
	for _, o := range []struct{ option, value, column string }{{"style", "style", a.Style}, {"aspect_ratio", "ratio", a.Ratio}, {"model", "model", a.Model}} {
		if o.column == "" {
			continue
		}
		if _, err := columnOf(a.tasks, o.column); err != nil {
			return "", err
		}
		text := column(alias, o.column) + "::text"
		if translated := a.Values[o.value]; len(translated) > 0 {
			var b strings.Builder
			fmt.Fprintf(&b, "case %s", text)
			for _, from := range slices.Sorted(maps.Keys(translated)) {
				fmt.Fprintf(&b, " when %s then %s", literal(from), literal(translated[from]))
			}
			text = fmt.Sprintf("%s else %s end", &b, text)
		}
		pairs = append(pairs, fmt.Sprintf("'%s', nullif(%s, '')", o.option, text))
	}
	if len(pairs) == 0 {
		return "'{}'::jsonb", nil
	}
	return "jsonb_strip_nulls(jsonb_build_object(" + strings.Join(pairs, ",\n               ") + "))", nil
}

// InputCount is the number of a row's input pictures. The length of a text or of bytes is known without reading what is stored outside the row.
func (a *application) InputCount(alias string) (string, error) {
	var terms []string
	for _, name := range a.Inputs {
		c, err := columnOf(a.tasks, name)
		if err != nil {
			return "", err
		}
		value := column(alias, name)
		switch {
		case kind(c) == textKind, c.Base == "bytea":
			terms = append(terms, fmt.Sprintf("coalesce((octet_length(%s) > 0)::int, 0)", value))
		case kind(c) == arrayKind:
			terms = append(terms, fmt.Sprintf("(select count(*) from unnest(%s) e where e <> '')::int", value))
		case kind(c) == jsonKind:
			terms = append(terms, fmt.Sprintf("(select count(*) from %s e where e <> '')::int", jsonTexts(value)))
		default:
			return "", misfit("inputs: the column %q has the type %s; it must be text, text[], json, jsonb or bytea", name, c.Type)
		}
	}
	if len(terms) == 0 {
		return "0", nil
	}
	return strings.Join(terms, " + "), nil
}

// jsonTexts is a function call that returns the texts of a JSON array, or one JSON string.
func jsonTexts(value string) string {
	return fmt.Sprintf("jsonb_array_elements_text(case jsonb_typeof(%s::jsonb) when 'array' then %[1]s::jsonb when 'string' then jsonb_build_array(%[1]s) else '[]' end)", value)
}

// InputRows are selects of a row's input pictures: place, item, value and content.
func (a *application) InputRows(alias string) (string, error) {
	var selects []string
	for i, name := range a.Inputs {
		c, err := columnOf(a.tasks, name)
		if err != nil {
			return "", err
		}
		value := column(alias, name)
		switch {
		case c.Base == "bytea":
			selects = append(selects, fmt.Sprintf("select %d as place, 1::bigint as item, null::text as value, %s as content", i+1, value))
		case kind(c) == textKind:
			selects = append(selects, fmt.Sprintf("select %d as place, 1::bigint as item, %s::text as value, null::bytea as content", i+1, value))
		case kind(c) == arrayKind:
			selects = append(selects, fmt.Sprintf("select %d as place, e.item, e.value::text as value, null::bytea as content from unnest(%s) with ordinality e (value, item)", i+1, value))
		default:
			selects = append(selects, fmt.Sprintf("select %d as place, e.item, e.value, null::bytea as content from %s with ordinality e (value, item)", i+1, jsonTexts(value)))
		}
	}
	return strings.Join(selects, "\n        union all "), nil
}

// scale is the number of our units in one of their credits.
func (a *application) scale() (string, error) {
	if a.Credits.Decimals < 0 || a.Credits.Decimals > 6 {
		return "", misfit("credits: decimals must be 0 to 6")
	}
	return "1" + strings.Repeat("0", a.Credits.Decimals), nil
}

// ours converts a number of their credits to our unit.
func (a *application) ours(expression string, c bridge.CatalogColumn) (string, error) {
	scale, err := a.scale()
	switch {
	case kind(c) != integerKind && kind(c) != numberKind:
		return "", misfit("credits: the column %q has the type %s; it must be a number", c.Name, c.Type)
	case scale == "1" && kind(c) == integerKind:
		return expression + "::bigint", err
	case scale == "1":
		return fmt.Sprintf("floor(%s::numeric)::bigint", expression), err
	}
	return fmt.Sprintf("floor(%s::numeric * %s)::bigint", expression, scale), err
}

// theirs converts an amount in our unit to their credits.
func (a *application) theirs(amount string) string {
	scale, _ := a.scale()
	if scale == "1" {
		return amount
	}
	return fmt.Sprintf("round(%s::numeric / %s, %d)", amount, scale, a.Credits.Decimals)
}

// CostOf is what a row costs, in our unit: null where its column has a number that can't be a cost.
func (a *application) CostOf(alias string) (string, error) {
	scale, err := a.scale()
	if err != nil {
		return "", err
	}
	inUnits := func(credits int64) string { return fmt.Sprintf("%d%s", credits, scale[1:]) }
	cost := inUnits(a.Credits.Cost)
	if a.Credits.Cost == 0 {
		cost = "0"
	}
	if len(a.Credits.CostByModel) > 0 {
		if _, err := columnOf(a.tasks, a.Model); err != nil {
			return "", err
		}
		var b strings.Builder
		fmt.Fprintf(&b, "case %s::text", column(alias, a.Model))
		for _, model := range slices.Sorted(maps.Keys(a.Credits.CostByModel)) {
			fmt.Fprintf(&b, " when %s then %s", literal(model), inUnits(a.Credits.CostByModel[model]))
		}
		cost = fmt.Sprintf("%s else %s end", &b, cost)
	}
	if a.Credits.CostColumn == "" {
		return "(" + cost + ")::bigint", nil
	}
	c, err := columnOf(a.tasks, a.Credits.CostColumn)
	if err != nil {
		return "", err
	}
	value := column(alias, c.Name)
	converted, err := a.ours(value, c)
	return fmt.Sprintf("case when %[1]s is null then %[2]s::bigint when %[1]s between 0 and %[3]d then %[4]s end",
		value, "("+cost+")", MaxCost/pow10(a.Credits.Decimals), converted), err
}

func pow10(n int) int64 {
	p := int64(1)
	for range n {
		p *= 10
	}
	return p
}

// matches selects the rows that the application's log has for a task.
func (a *application) matches(alias string, m *bridge.Match) (string, error) {
	t, err := a.table(m.Table)
	if err != nil {
		return "", err
	}
	key, err := keyType(a.tasks, a.Key)
	if err != nil {
		return "", err
	}
	theirs, err := keyType(t, m.Task)
	if err != nil {
		return "", err
	}
	value := a.KeyOf(alias)
	if theirs != key {
		value = "(" + fromText(value+"::text", theirs) + ")"
	}
	where, err := matchWhere("l", t, m)
	return fmt.Sprintf("from %s l where %s = %s%s", qualified(m.Table), column("l", m.Task), value, where), err
}

// matchWhere is the further condition of a match, to be added to others.
func matchWhere(alias string, t bridge.CatalogTable, m *bridge.Match) (string, error) {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.Where)) {
		if _, err := columnOf(t, name); err != nil {
			return "", err
		}
		if len(m.Where[name]) == 0 {
			return "", misfit("where: the column %q has no values", name)
		}
		fmt.Fprintf(&b, " and %s::text in (%s)", column(alias, name), literals(m.Where[name]))
	}
	return b.String(), nil
}

// ChargedOf is whether a row was charged.
func (a *application) ChargedOf(alias string) (string, error) {
	switch a.Credits.Charged {
	case "always":
		return "true", nil
	case "never", "":
		return "false", nil
	case "column":
		c, err := columnOf(a.tasks, a.Credits.ChargedColumn)
		if err != nil {
			return "", err
		}
		return isTrue(alias, c)
	case "log":
		if a.Credits.ChargeLog == nil {
			return "", misfit("credits: charged is \"log\", and charge_log is missing")
		}
		rows, err := a.matches(alias, a.Credits.ChargeLog)
		return "exists (select " + rows + ")", err
	}
	return "", misfit("credits: charged must be \"always\", \"column\", \"log\" or \"never\"")
}

// OrNotCharged is the condition that a row shows no charge, to be added to others. A flag of it that the application takes back is a refund.
func (a *application) OrNotCharged(alias string) (string, error) {
	if a.Credits.Charged != "column" && a.Credits.Charged != "log" {
		return "", nil
	}
	charged, err := a.ChargedOf(alias)
	return " or not " + charged, err
}

// RefundsLoggedOf is the number of refunds that the application's log has for a task.
func (a *application) RefundsLoggedOf(alias string) (string, error) {
	rows, err := a.matches(alias, a.Credits.RefundLog)
	return "(select count(*) " + rows + ")", err
}

// RefundedOf is whether a row shows a refund. In the log, those of the runs before a redrive are none of this one.
func (a *application) RefundedOf(alias string) (string, error) {
	var conditions []string
	if a.Credits.RefundedColumn != "" {
		c, err := columnOf(a.tasks, a.Credits.RefundedColumn)
		if err != nil {
			return "", err
		}
		condition, err := isTrue(alias, c)
		if err != nil {
			return "", err
		}
		conditions = append(conditions, condition)
	}
	if a.Credits.RefundLog != nil {
		rows, err := a.matches(alias, a.Credits.RefundLog)
		if err != nil {
			return "", err
		}
		conditions = append(conditions, fmt.Sprintf(`(exists (select %[1]s) and not exists (
               select from %[2]s.tasks x where x.task_id = %[3]s::text and x.bridge_refunds >= (select count(*) %[1]s)))`, rows, a.Schema, a.KeyOf(alias)))
	}
	if len(conditions) == 0 {
		return "false", nil
	}
	return strings.Join(conditions, " or "), nil
}

// assignments are the columns of an update, in order.
type assignments []string

func (s *assignments) set(c bridge.CatalogColumn, expression string) {
	*s = append(*s, pq.QuoteIdentifier(c.Name)+" = "+expression)
}

func (s assignments) String() string { return strings.Join(s, ",\n            ") }

// now is the time of the transaction as a value of a column.
func now(c bridge.CatalogColumn) (string, error) {
	if c.Default != "" && !strings.HasPrefix(strings.ToLower(c.Default), "null") {
		return "default", nil // the application's own way, whatever time zone it means
	}
	switch c.Base {
	case "timestamptz":
		return "now()", nil
	case "timestamp":
		return "now() at time zone 'UTC'", nil
	case "date":
		return "(now() at time zone 'UTC')::date", nil
	}
	return "", misfit("the column %q has the type %s; it must be a time", c.Name, c.Type)
}

func (a *application) setNow(s *assignments, name string) error {
	if name == "" {
		return nil
	}
	c, err := written(a.tasks, name)
	if err != nil {
		return err
	}
	value, err := now(c)
	s.set(c, value)
	return err
}

// setFlag makes a column say yes or no.
func (a *application) setFlag(s *assignments, name string, yes bool) error {
	if name == "" {
		return nil
	}
	c, err := written(a.tasks, name)
	if err != nil {
		return err
	}
	if _, err := isTrue("t", c); err != nil {
		return err
	}
	value := fmt.Sprint(yes)
	switch {
	case kind(c) == timeKind && yes:
		if value, err = now(c); err != nil {
			return err
		}
	case kind(c) == timeKind:
		value = "null"
	case kind(c) != booleanKind && yes:
		value = "1"
	case kind(c) != booleanKind:
		value = "0"
	}
	s.set(c, value)
	return nil
}

// setState writes the word or the columns of a state.
func (a *application) setState(s *assignments, state task.State) error {
	if a.Status.Column != "" {
		words := a.Status.Words(state)
		if len(words) == 0 && state == task.Cancelled {
			words = a.Status.Failed
		}
		if len(words) == 0 {
			return misfit("status: there is no word for %s", state)
		}
		c, err := written(a.tasks, a.Status.Column)
		if err != nil {
			return err
		}
		w, err := word(c, words[0])
		s.set(c, w)
		return err
	}
	flag := map[task.State]string{task.Completed: a.Status.CompletedColumn, task.Failed: a.Status.FailedColumn,
		task.Cancelled: a.Status.CancelledColumn, task.Processing: a.Status.ProcessingColumn}[state]
	if flag == "" && state == task.Cancelled {
		flag = a.Status.FailedColumn
	}
	if flag == "" && (state == task.Failed || state == task.Cancelled) {
		return misfit("status: there is no column for %s", state)
	}
	for _, name := range []string{a.Status.CompletedColumn, a.Status.FailedColumn, a.Status.CancelledColumn, a.Status.ProcessingColumn} {
		// Those of closed states are not set in a live row; only a row that is reopened has one.
		if name == flag || state == task.Pending || name == a.Status.ProcessingColumn {
			if err := a.setFlag(s, name, name == flag); err != nil {
				return err
			}
		}
	}
	return nil
}

// errorText is an error message as a value of its column.
func errorText(c bridge.CatalogColumn, message string) (string, error) {
	if c.NotNull {
		message = fmt.Sprintf("coalesce(%s, '')", message)
	}
	switch {
	case kind(c) == textKind && c.MaxLength > 0:
		return fmt.Sprintf("left(%s, %d)", message, c.MaxLength), nil
	case kind(c) == textKind:
		return message, nil
	case kind(c) == jsonKind:
		return fmt.Sprintf("to_jsonb(%s)::%s", message, c.Base), nil
	}
	return "", misfit("error: the column %q has the type %s; it must be a text", c.Name, c.Type)
}

// noError is the value of the column of error messages where there is no error.
func noError(c bridge.CatalogColumn) string {
	switch {
	case !c.NotNull:
		return "null"
	case kind(c) == jsonKind:
		return fmt.Sprintf(`'""'::%s`, c.Base)
	}
	return "''"
}

// resultOf is the picture's URL as a value of its column.
func (a *application) resultOf(url string) (bridge.CatalogColumn, string, error) {
	c, err := written(a.tasks, a.Result)
	if err != nil {
		return c, "", err
	}
	form := a.ResultForm
	if form == "" {
		form = map[kindOf]string{textKind: "text", arrayKind: "array", jsonKind: `["{url}"]`}[kind(c)]
	}
	switch {
	case form == "text" && kind(c) == textKind:
		return c, url, nil
	case form == "text" && kind(c) == jsonKind:
		return c, fmt.Sprintf("to_jsonb(%s)::%s", url, c.Base), nil
	case form == "array" && kind(c) == arrayKind:
		return c, fmt.Sprintf("array[%s]::%s", url, c.Type), nil
	case (kind(c) == jsonKind || kind(c) == textKind) && strings.Contains(form, "{url}"):
		if !json.Valid([]byte(form)) {
			return c, "", misfit("result_form: %q is not valid JSON", form)
		}
		text := fmt.Sprintf("replace(%s, '{url}', %s)", literal(form), jsonInner(url))
		if kind(c) == jsonKind {
			text += "::" + c.Base
		}
		return c, text, nil
	}
	return c, "", misfit("result_form: %q does not fit the column %q of type %s", a.ResultForm, c.Name, c.Type)
}

// jsonInner is a text as it stands between the quotation marks of a JSON string.
func jsonInner(text string) string {
	return fmt.Sprintf("coalesce(substr(to_json(%s)::text, 2, length(to_json(%[1]s)::text) - 2), '')", text)
}

// StageOf is a stage of ours as a value of their column: null for one that is not written. Empty: there is no such column.
func (a *application) StageOf(stage string) (string, error) {
	if a.Stage == "" {
		return "", nil
	}
	c, err := written(a.tasks, a.Stage)
	if err != nil {
		return "", err
	}
	if len(a.Stages) == 0 {
		switch {
		case kind(c) == textKind && c.MaxLength > 0:
			return fmt.Sprintf("left(%s, %d)", stage, c.MaxLength), nil
		case kind(c) == textKind:
			return stage, nil
		case c.Base == "enum":
			return fmt.Sprintf("case when %s in (%s) then %[1]s::%[3]s end", stage, literals(c.Labels), c.Type), nil
		}
		return "", misfit("stage: the column %q has the type %s; it must be a text or an enum", c.Name, c.Type)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "case %s", stage)
	for _, from := range slices.Sorted(maps.Keys(a.Stages)) {
		w, err := word(c, a.Stages[from])
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, " when %s then %s", literal(from), w)
	}
	return b.String() + " end", nil
}

// setStage writes the stage's word for a closed state, if there is one.
func (a *application) setStage(s *assignments, state task.State) error {
	if a.Stage == "" {
		return nil
	}
	c, err := written(a.tasks, a.Stage)
	if err != nil {
		return err
	}
	text, ok := a.Stages[string(state)]
	if !ok {
		if len(a.Stages) > 0 || c.Base == "enum" && !slices.Contains(c.Labels, string(state)) {
			return nil
		}
		text = string(state)
	}
	w, err := word(c, text)
	s.set(c, w)
	return err
}

// setProgress writes a percentage.
func (a *application) setProgress(s *assignments, percent string) error {
	if a.Progress == "" {
		return nil
	}
	c, err := written(a.tasks, a.Progress)
	if err != nil {
		return err
	}
	value, err := percentage(c, percent)
	s.set(c, value)
	return err
}

func percentage(c bridge.CatalogColumn, percent string) (string, error) {
	switch kind(c) {
	case integerKind, numberKind:
		return percent, nil
	case textKind:
		return fmt.Sprintf("(%s)::text", percent), nil
	}
	return "", misfit("progress: the column %q has the type %s; it must be a number", c.Name, c.Type)
}

// SetClosed are the assignments that close a row.
func (a *application) SetClosed(state string) (string, error) {
	var s assignments
	to := task.State(state)
	if err := a.setState(&s, to); err != nil {
		return "", err
	}
	if to == task.Completed {
		c, value, err := a.resultOf("app_close.url")
		if err != nil {
			return "", err
		}
		s.set(c, value)
		if err := a.setProgress(&s, "100"); err != nil {
			return "", err
		}
	}
	if a.Error != "" {
		c, err := written(a.tasks, a.Error)
		if err != nil {
			return "", err
		}
		value, err := errorText(c, "app_close.message")
		if err != nil {
			return "", err
		}
		if to == task.Completed {
			value = noError(c)
		}
		s.set(c, value)
	}
	if err := a.setStage(&s, to); err != nil {
		return "", err
	}
	if err := a.setNow(&s, a.Completed); err != nil {
		return "", err
	}
	if err := a.setNow(&s, a.Updated); err != nil {
		return "", err
	}
	return s.String(), a.checkAssigned(&s)
}

// checkAssigned refuses an update that would assign nothing, or one column twice.
func (a *application) checkAssigned(s *assignments) error {
	seen := map[string]bool{}
	for _, assignment := range *s {
		name, _, _ := strings.Cut(assignment, " = ")
		if seen[name] {
			return misfit("the column %s has two meanings", name)
		}
		seen[name] = true
	}
	return nil
}

// SetStarted are the assignments for a row that begins to be processed.
func (a *application) SetStarted() (string, error) {
	var s assignments
	if err := a.setState(&s, task.Processing); err != nil {
		return "", err
	}
	if a.Started != "" {
		c, err := written(a.tasks, a.Started)
		if err != nil {
			return "", err
		}
		value, err := now(bridge.CatalogColumn{Name: c.Name, Type: c.Type, Base: c.Base})
		if err != nil {
			return "", err
		}
		s.set(c, fmt.Sprintf("coalesce(%s, %s)", column("t", c.Name), value))
	}
	return a.finishProgress(&s)
}

// SetProgressed are the assignments for a row whose progress or stage changes. Empty: the table shows neither.
func (a *application) SetProgressed() (string, error) {
	if a.Progress == "" && a.Stage == "" {
		return "", nil
	}
	return a.finishProgress(&assignments{})
}

func (a *application) finishProgress(s *assignments) (string, error) {
	if err := a.setProgress(s, "app_progress.percent"); err != nil {
		return "", err
	}
	if a.Stage != "" {
		c, err := written(a.tasks, a.Stage)
		if err != nil {
			return "", err
		}
		stage, err := a.StageOf("app_progress.stage")
		if err != nil {
			return "", err
		}
		s.set(c, fmt.Sprintf("coalesce(%s, %s)", stage, column("t", c.Name)))
	}
	if err := a.setNow(s, a.Updated); err != nil {
		return "", err
	}
	return s.String(), a.checkAssigned(s)
}

// Progressed is the condition that progress or stage differ from what is to be written.
func (a *application) Progressed() (string, error) {
	var conditions []string
	if a.Progress != "" {
		c, err := columnOf(a.tasks, a.Progress)
		if err != nil {
			return "", err
		}
		value, err := percentage(c, "app_progress.percent")
		if err != nil {
			return "", err
		}
		conditions = append(conditions, fmt.Sprintf("%s is distinct from %s", column("t", c.Name), value))
	}
	if a.Stage != "" {
		stage, err := a.StageOf("app_progress.stage")
		if err != nil {
			return "", err
		}
		name := column("t", a.Stage)
		conditions = append(conditions, fmt.Sprintf("%s is distinct from coalesce(%s, %[1]s)", name, stage))
	}
	return strings.Join(conditions, "\n          or "), nil
}

// SetPending are the assignments that make a row wait again: one that was closed, or (closed = false) one that was processing.
func (a *application) SetPending(closed bool) (string, error) {
	var s assignments
	if err := a.setState(&s, task.Pending); err != nil {
		return "", err
	}
	if closed {
		if err := a.clearResult(&s); err != nil {
			return "", err
		}
	}
	for _, name := range []string{a.Started, a.Completed} {
		if name == "" || name == a.Completed && !closed {
			continue
		}
		c, err := written(a.tasks, name)
		if err != nil {
			return "", err
		}
		if !c.NotNull {
			s.set(c, "null")
		}
	}
	if err := a.setProgress(&s, "0"); err != nil {
		return "", err
	}
	if a.Stage != "" {
		c, err := written(a.tasks, a.Stage)
		if err != nil {
			return "", err
		}
		if c.Default != "" || !c.NotNull {
			s.set(c, "default")
		}
	}
	if err := a.setNow(&s, a.Updated); err != nil {
		return "", err
	}
	return s.String(), a.checkAssigned(&s)
}

// clearResult removes the picture and the error from a row.
func (a *application) clearResult(s *assignments) error {
	c, err := written(a.tasks, a.Result)
	if err != nil {
		return err
	}
	empty := map[kindOf]string{textKind: "''", arrayKind: "'{}'", jsonKind: "'null'"}[kind(c)]
	switch {
	case !c.NotNull:
		s.set(c, "null")
	case a.Status.Column == "" && a.Status.CompletedColumn == "":
		s.set(c, empty) // a row with a picture would be completed
	}
	if a.Error == "" {
		return nil
	}
	if c, err = written(a.tasks, a.Error); err == nil {
		s.set(c, noError(c))
	}
	return err
}

// HandsBack reports whether the table shows what is processing apart from what is pending.
func (a *application) HandsBack() (bool, error) {
	condition, err := a.MayStart("t")
	return condition != "", err
}
