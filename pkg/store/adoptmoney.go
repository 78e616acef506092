package store

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lib/pq"

	"imagetasks/pkg/bridge"
	"imagetasks/pkg/pattern"
)

// HasBalances reports whether the description names a table of balances.
func (a *application) HasBalances() bool { return !a.Credits.Table.IsZero() }

// BalancesTable is the quoted name of the table of balances.
func (a *application) BalancesTable() string { return qualified(a.Credits.Table) }

func (a *application) balances() (bridge.CatalogTable, error) { return a.table(a.Credits.Table) }

// BalanceUser is the user of a balance.
func (a *application) BalanceUser(alias string) string { return column(alias, a.Credits.Key) }

// UserType is the type of the users' ids in the table of balances.
func (a *application) UserType() (string, error) {
	t, err := a.balances()
	if err != nil {
		return "", err
	}
	return keyType(t, a.Credits.Key)
}

// UserFromText converts the parameter of app_user.
func (a *application) UserFromText() (string, error) {
	t, err := a.UserType()
	return fromText("app_user.id", t), err
}

// TheirBalance is a balance in their credits. null counts as 0.
func (a *application) TheirBalance(alias string) (string, error) {
	if _, err := a.balanceColumn(); err != nil {
		return "", err
	}
	return fmt.Sprintf("coalesce(%s, 0)", column(alias, a.Credits.Column)), nil
}

func (a *application) balanceColumn() (bridge.CatalogColumn, error) {
	t, err := a.balances()
	if err != nil {
		return bridge.CatalogColumn{}, err
	}
	c, err := columnOf(t, a.Credits.Column)
	if err == nil && kind(c) != integerKind && kind(c) != numberKind {
		err = misfit("credits: the column %q has the type %s; it must be a number", c.Name, c.Type)
	}
	return c, err
}

// OurBalance is an expression of their credits in our unit.
func (a *application) OurBalance(expression string) (string, error) {
	c, err := a.balanceColumn()
	if err != nil {
		return "", err
	}
	return a.ours(expression, c)
}

// AndCountable is the condition that a balance is a number of our units that fits, to be added to others.
func (a *application) AndCountable(alias string) (string, error) {
	c, err := a.balanceColumn()
	if err != nil || kind(c) == integerKind {
		return "", err
	}
	balance, err := a.TheirBalance(alias)
	limit := MaxBalance / pow10(a.Credits.Decimals) * 1000
	return fmt.Sprintf("\n      and %s between -%d and %[2]d", balance, limit), err
}

// Theirs is an amount in their credits.
func (a *application) Theirs(amount string) (string, error) {
	_, err := a.scale()
	return a.theirs(amount), err
}

// SetBalance is the assignment that adds an amount of ours to a balance, or takes it from it.
func (a *application) SetBalance(sign, amount string) (string, error) {
	t, err := a.balances()
	if err != nil {
		return "", err
	}
	c, err := written(t, a.Credits.Column)
	if err != nil {
		return "", err
	}
	balance, err := a.TheirBalance("b")
	return fmt.Sprintf("%s = %s %s %s", pq.QuoteIdentifier(c.Name), balance, sign, a.theirs(amount)), err
}

// SetRefunded are the assignments that mark a row as refunded. Empty: it has no such column.
func (a *application) SetRefunded(amount string) (string, error) {
	var s assignments
	err := a.setCredits(&s, a.Credits.RefundedColumn, amount)
	return s.String(), err
}

// SetCharged are the assignments that mark a row as charged, and not refunded. Empty: it has no such columns.
func (a *application) SetCharged(amount string) (string, error) {
	var s assignments
	if err := a.setCredits(&s, a.Credits.ChargedColumn, amount); err != nil {
		return "", err
	}
	if err := a.setFlag(&s, a.Credits.RefundedColumn, false); err != nil {
		return "", err
	}
	return s.String(), nil
}

// setCredits writes a number of credits, or yes.
func (a *application) setCredits(s *assignments, name, amount string) error {
	if name == "" {
		return nil
	}
	c, err := written(a.tasks, name)
	if err != nil {
		return err
	}
	if kind(c) == integerKind || kind(c) == numberKind {
		s.set(c, a.theirs(amount))
		return nil
	}
	return a.setFlag(s, name, true)
}

// RefundsByBalance and ChargesByBalance report whether credits are added to, and taken from, the column of balances.
func (a *application) RefundsByBalance() bool { return a.Credits.Refund == "balance" }

// ChargesByBalance is described at RefundsByBalance.
func (a *application) ChargesByBalance() bool { return a.Credits.Charge == "balance" }

// RefundCall is the call of the application's function that refunds.
func (a *application) RefundCall() (string, error) {
	if a.RefundsByBalance() || a.Credits.Refund == "" {
		return "", nil
	}
	return a.call("refund", a.Credits.Refund, "app_refund")
}

// ChargeCall is the call of the application's function that charges.
func (a *application) ChargeCall() (string, error) {
	if a.ChargesByBalance() || a.Credits.Charge == "" {
		return "", nil
	}
	return a.call("charge", a.Credits.Charge, "app_charge")
}

// call returns the call of a function of the application. Nothing of its text becomes SQL but names, quoted, and literals: the arguments are cast to
// the types of the function that is found.
func (a *application) call(what, text, caller string) (string, error) {
	c, err := parseCall(text)
	if err != nil {
		return "", misfit("credits: %s: %v", what, err)
	}
	r, err := a.routine(c)
	if err != nil {
		return "", misfit("credits: %s: %v", what, err)
	}
	args := make([]string, len(c.args))
	for i, arg := range c.args {
		at := i
		if arg.name != "" {
			at = slices.Index(r.argNames, arg.name)
		}
		value := map[string]string{"{user}": caller + ".user_id", "{task}": caller + ".key", "{reason}": caller + ".reason",
			"{amount}": a.theirs(caller + ".amount")}[arg.value]
		if value == "" {
			value = arg.value // a literal, checked by parseCall
		}
		args[i] = fmt.Sprintf("(%s)::%s", value, r.argTypes[at])
		if arg.name != "" {
			args[i] = pq.QuoteIdentifier(arg.name) + " => " + args[i]
		}
	}
	return fmt.Sprintf("%s.%s(%s)", pq.QuoteIdentifier(c.schema), pq.QuoteIdentifier(c.name), strings.Join(args, ", ")), nil
}

// routine finds the one function that a call can mean.
func (a *application) routine(c call) (routine, error) {
	var found []routine
	for _, r := range a.routines {
		if r.schema != c.schema || r.name != c.name || len(c.args) > len(r.argTypes) {
			continue
		}
		fits := true
		given := make([]bool, len(r.argTypes))
		for i, arg := range c.args {
			at := i
			if arg.name != "" {
				at = slices.Index(r.argNames, arg.name)
			}
			if at < 0 || given[at] {
				fits = false
				break
			}
			given[at] = true
		}
		for i := range given {
			fits = fits && (given[i] || i >= len(given)-r.defaults)
		}
		if fits {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return routine{}, fmt.Errorf("there is no function %s.%s that takes these %d arguments", c.schema, c.name, len(c.args))
	case 1:
		return found[0], nil
	}
	return routine{}, fmt.Errorf("%d functions %s.%s take these arguments; name the arguments as in f(p_user => {user})", len(found), c.schema, c.name)
}

// call is a call of a function of the application: public.refund({user}, {amount}, p_reason => 'image failed').
type call struct {
	schema, name string
	args         []argument
}

type argument struct {
	name  string // may be empty
	value string // a placeholder or an SQL literal
}

const nameInSQL = `"(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_$]*`

var (
	callPattern     = pattern.New(`^\s*(` + nameInSQL + `)\s*\.\s*(` + nameInSQL + `)\s*\((.*)\)\s*;?\s*$`)
	argumentPattern = pattern.New(`^\s*(?:(` + nameInSQL + `)\s*(?:=>|:=)\s*)?(\{user\}|\{amount\}|\{task\}|\{reason\}|'(?:[^']|'')*'|-?[0-9]+(?:\.[0-9]+)?|true|false|null)\s*(,|$)`)
)

func parseCall(text string) (call, error) {
	match := callPattern().FindStringSubmatch(text)
	if match == nil {
		return call{}, fmt.Errorf("%q must be \"balance\" or a call such as public.refund_credits({user}, {amount}, {task})", text)
	}
	c := call{schema: unquoteName(match[1]), name: unquoteName(match[2])}
	for rest := match[3]; strings.TrimSpace(rest) != ""; {
		arg := argumentPattern().FindStringSubmatch(rest)
		if arg == nil {
			return call{}, fmt.Errorf("%q: the arguments may be {user}, {amount}, {task}, {reason}, numbers, 'texts', true, false and null", text)
		}
		value := arg[2]
		if strings.HasPrefix(value, "'") {
			value = literal(strings.ReplaceAll(value[1:len(value)-1], "''", "'"))
		}
		if rest = rest[len(arg[0]):]; arg[3] == "," && strings.TrimSpace(rest) == "" {
			return call{}, fmt.Errorf("%q: an argument is missing", text)
		}
		name := arg[1]
		if name != "" {
			name = unquoteName(name)
		}
		c.args = append(c.args, argument{name, value})
	}
	return c, nil
}

// unquoteName returns the name that SQL reads.
func unquoteName(name string) string {
	if strings.HasPrefix(name, `"`) {
		return strings.ReplaceAll(name[1:len(name)-1], `""`, `"`)
	}
	return strings.ToLower(name)
}

// value is an SQL expression of a type.
type value struct {
	expression string
	bridge.CatalogColumn
}

func textValue(expression string) value {
	return value{expression, bridge.CatalogColumn{Base: "text", Type: "text"}}
}

func numberValue(expression string) value {
	return value{expression, bridge.CatalogColumn{Base: "numeric", Type: "numeric"}}
}

// as returns a value as one of a column.
func (v value) as(c bridge.CatalogColumn) string {
	switch {
	case kind(c) == jsonKind && kind(v.CatalogColumn) != jsonKind:
		return fmt.Sprintf("to_jsonb(%s)::%s", v.expression, c.Base)
	case kind(c) == arrayKind && kind(v.CatalogColumn) != arrayKind:
		return fmt.Sprintf("array[%s::text]::%s", v.expression, c.Type)
	case kind(c) == textKind:
		return v.expression + "::text" // too long a text is an error, not cut
	case c.Base == v.Base, kind(c) == integerKind, kind(c) == numberKind:
		return fmt.Sprintf("(%s)::%s", v.expression, c.Type)
	}
	return fmt.Sprintf("(%s)::text::%s", v.expression, c.Type)
}

// insert is a statement that inserts a row for the task's row t.
type insert struct {
	Table   string
	Columns []string
	Values  []string
}

var placeholder = pattern.New(`\{(?:row\.[^{}]+|[a-z_]+)\}`)

// insertOf returns an insert, given what the placeholders stand for.
func (a *application) insertOf(what string, in *bridge.Insert, values map[string]value) (insert, error) {
	out := insert{Table: qualified(in.Table)}
	t, err := a.table(in.Table)
	if err != nil {
		return out, err
	}
	if len(in.Columns) == 0 {
		return out, misfit("%s: no columns are named", what)
	}
	for _, name := range slices.Sorted(maps.Keys(in.Columns)) {
		c, err := written(t, name)
		if err != nil {
			return out, err
		}
		expression, err := a.fillIn(in.Columns[name], c, values)
		if err != nil {
			return out, misfit("%s: the column %q: %v", what, name, err)
		}
		out.Columns = append(out.Columns, pq.QuoteIdentifier(name))
		out.Values = append(out.Values, expression)
	}
	for _, c := range t.Columns {
		if _, ok := in.Columns[c.Name]; !ok && c.NotNull && c.Default == "" && !c.Identity && !c.Generated {
			return out, misfit("%s: the column %q of the table %s needs a value", what, c.Name, t.Table)
		}
	}
	return out, nil
}

// fillIn returns a text with placeholders as a value of a column.
func (a *application) fillIn(text string, c bridge.CatalogColumn, values map[string]value) (string, error) {
	var expressions, names []string
	at := 0
	for _, found := range placeholder().FindAllStringIndex(text, -1) {
		name := text[found[0]:found[1]]
		v, err := a.placeholder(name, values)
		if err != nil {
			return "", err
		}
		if found[0] == 0 && found[1] == len(text) {
			return v.as(c), nil
		}
		if at < found[0] {
			expressions = append(expressions, literal(text[at:found[0]]))
		}
		expressions, names = append(expressions, v.expression+"::text"), append(names, name)
		at = found[1]
	}
	if len(names) == 0 {
		return word(c, text)
	}
	if kind(c) == jsonKind {
		whole := literal(text)
		for i, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
			_ = i
			v, err := a.placeholder(name, values)
			if err != nil {
				return "", err
			}
			whole = fmt.Sprintf("replace(%s, %s, %s)", whole, literal(name), jsonInner(v.expression+"::text"))
		}
		return whole + "::" + c.Base, nil
	}
	if at < len(text) {
		expressions = append(expressions, literal(text[at:]))
	}
	return textValue("concat(" + strings.Join(expressions, ", ") + ")").as(c), nil
}

func (a *application) placeholder(name string, values map[string]value) (value, error) {
	if of, ok := strings.CutPrefix(strings.Trim(name, "{}"), "row."); ok {
		c, err := columnOf(a.tasks, of)
		return value{column("t", of), c}, err
	}
	v, ok := values[name]
	if !ok {
		return value{}, fmt.Errorf("%s is not known here; known are %s and {row.NAME}", name, strings.Join(slices.Sorted(maps.Keys(values)), ", "))
	}
	return v, nil
}

// rowValues are the placeholders that stand for columns of the task's row. Those that the table lacks are null.
func (a *application) rowValues() (map[string]value, error) {
	key, err := columnOf(a.tasks, a.Key)
	if err != nil {
		return nil, err
	}
	out := map[string]value{"{task}": {column("t", a.Key), key}}
	for name, of := range map[string]string{"{prompt}": a.Prompt, "{style}": a.Style, "{ratio}": a.Ratio, "{model}": a.Model} {
		out[name] = textValue("null::text")
		if of == "" {
			continue
		}
		c, err := columnOf(a.tasks, of)
		if err != nil {
			return nil, err
		}
		out[name] = value{column("t", of), c}
	}
	return out, nil
}

// RefundLog is the row that records a refund, or nil.
func (a *application) RefundLog() (*insert, error) {
	if a.Log == nil {
		return nil, nil
	}
	values, err := a.rowValues()
	if err != nil {
		return nil, err
	}
	amount, err := a.Theirs("app_refund.amount")
	if err != nil {
		return nil, err
	}
	values["{user}"], values["{amount}"], values["{reason}"] = textValue("app_refund.user_id"), numberValue(amount), textValue("app_refund.reason")
	values["{balance}"], values["{balance_before}"] = numberValue("balance_after"), numberValue("balance_before")
	in, err := a.insertOf("log", a.Log, values)
	return &in, err
}

// HistoryRow is the row of a completed task.
func (a *application) HistoryRow() (insert, error) {
	values, err := a.rowValues()
	if err != nil {
		return insert{}, err
	}
	user, err := columnOf(a.tasks, a.User)
	if err != nil {
		return insert{}, err
	}
	cost, err := a.CostOf("t")
	if err != nil {
		return insert{}, err
	}
	values["{user}"], values["{url}"], values["{size}"] = value{column("t", a.User), user}, textValue("app_history.url"), textValue("(app_history.details ->> 'size')")
	values["{amount}"] = numberValue(a.theirs("(" + cost + ")"))
	if a.Model == "" {
		values["{model}"] = textValue("(app_history.details ->> 'model')")
	} else {
		values["{model}"] = textValue(fmt.Sprintf("coalesce(app_history.details ->> 'model', %s::text)", column("t", a.Model)))
	}
	return a.insertOf("history", a.History, values)
}
