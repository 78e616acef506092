package bridge

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// logGuess is a table that may be the log of credits.
type logGuess struct {
	table  CatalogTable
	task   string // column of the task's key; "": none
	kind   string // column of the kind of a row
	amount string
	score  int
}

// guessLogs returns the tables that may be logs of credits, the best first.
func (p *proposer) guessLogs() []logGuess {
	d := p.out.Description
	var found []logGuess
	for _, t := range p.catalog.Tables {
		if t.Table == d.Tasks || t.Table == d.Credits.Table {
			continue
		}
		g := logGuess{table: t}
		before := false
		for _, c := range t.Columns {
			words := nameWords(c.Name)
			switch {
			case isAmount(c) && g.amount == "":
				g.amount = c.Name
			case c.isWord() && hasAny(words, "type", "kind", "operation", "action", "reason", "category", "state", "status", "typ", "类型") && g.kind == "" && kindWords(t, c, "refund", "charge", "other") != nil:
				g.kind = c.Name
			case c.isNumber() && hasAny(words, "old", "new", "before", "after", "balance"):
				before = true
			}
		}
		g.task = p.taskColumn(t)
		name := nameWords(t.Table.Name)
		if hasAny(name, "log", "transaction", "ledger", "history", "entry", "entrie", "movement", "usage", "记录", "日志", "流水", "hold") {
			g.score += 2
		}
		if hasAny(name, creditWords...) || hasAny(name, "billing") {
			g.score += 2
		}
		if g.kind != "" {
			g.score += 2
		}
		if before {
			g.score++
		}
		if g.task != "" {
			g.score++
		}
		if hasAny(name, "purchase", "order", "payment", "invoice", "plan", "package", "product", "lot") {
			g.score -= 3
		}
		user := ""
		for _, c := range t.Columns {
			if t.userScore(c) > 0 || p.refersToUser(t, c.Name) {
				user = c.Name
			}
		}
		if g.amount != "" && user != "" && !t.isUnique(user) && (g.kind != "" || before) && g.score >= 3 {
			found = append(found, g)
		}
	}
	slices.SortStableFunc(found, func(a, b logGuess) int { return cmp.Compare(b.score, a.score) })
	return found
}

// refersToUser reports whether a column refers to the same table as the tasks' user.
func (p *proposer) refersToUser(t CatalogTable, column string) bool {
	user, ok := p.table.reference(p.out.Description.User)
	key, found := t.reference(column)
	return ok && found && key.To == user.To
}

// taskColumn returns the column of another table that holds the key of a task: by a foreign key, or by its name and type.
func (p *proposer) taskColumn(t CatalogTable) string {
	d := p.out.Description
	key, _ := p.table.Column(d.Key)
	single := strings.TrimSuffix(strings.Join(nameWords(d.Tasks.Name), "_"), "s")
	short := nameWords(single)
	last := ""
	if len(short) > 0 {
		last = short[len(short)-1]
	}
	byName := ""
	for _, c := range t.Columns {
		if ref, ok := t.reference(c.Name); ok {
			if ref.To == d.Tasks && slices.Equal(ref.Referred, []string{d.Key}) {
				return c.Name
			}
			continue
		}
		if (c.isText() || c.Base == key.Base) && isName(c.Name, single, single+"_id", last, last+"_id", last+"_ref", "task_id", "task", "job_id", "job_ref", "generation_id", "request_id", "任务id") {
			byName = cmp.Or(byName, c.Name)
		}
	}
	return byName
}

// kindWords returns the words of a column that mean one of these kinds of rows.
func kindWords(t CatalogTable, c CatalogColumn, kinds ...string) []string {
	var out []string
	for _, word := range append(valuesOf(c), t.allowed(c)...) {
		for _, kind := range kinds {
			if slices.Contains(logWords[kind], normalWord(word)) && !slices.Contains(out, word) {
				out = append(out, word)
			}
		}
	}
	return out
}

// chargeLog returns the log whose rows show the charge of a task, the column of the task's key in it, and the words of charges.
func (p *proposer) chargeLog() (CatalogTable, string, []string) {
	for _, g := range p.guessLogs() {
		kind, ok := g.table.Column(g.kind)
		if !ok || g.task == "" {
			continue
		}
		task, _ := g.table.Column(g.task)
		if charges := kindWords(g.table, kind, "charge"); len(charges) > 0 && (task.Filled > 0 || g.table.Rows == 0) {
			return g.table, g.task, charges
		}
	}
	return CatalogTable{}, "", nil
}

// where returns the condition on the column that holds the kind of a log's rows.
func (p *proposer) where(t CatalogTable, words []string) map[string][]string {
	for _, g := range p.guessLogs() {
		if g.table.Table == t.Table {
			return map[string][]string{g.kind: words}
		}
	}
	return nil
}

// logs proposes the row of the log for a refund, and how to see that the application made one.
func (p *proposer) logs() {
	d := &p.out.Description
	if d.Credits.Charged == "never" {
		return
	}
	found := p.guessLogs()
	if len(found) == 0 {
		return
	}
	g := found[0]
	var others []string
	for _, other := range found[1:] {
		others = append(others, other.table.Table.String())
	}
	kind, _ := g.table.Column(g.kind)
	refunds := kindWords(g.table, kind, "refund")
	if g.task != "" && len(refunds) > 0 {
		d.Credits.RefundLog = &Match{Table: g.table.Table, Task: g.task, Where: map[string][]string{g.kind: refunds}}
		p.line("credits.refund_log.table", Likely, others, "a row there shows a refund that the application made itself")
		p.line("credits.refund_log.task", Likely, nil, "the task's key there")
	}
	if d.Credits.Refund != "balance" {
		return // functions of the application write their log
	}
	insert := &Insert{Table: g.table.Table, Columns: map[string]string{}}
	for _, c := range g.table.Columns {
		text := p.logValue(g, c, refunds)
		if text != "" {
			insert.Columns[c.Name] = text
			p.line("log.columns."+c.Name, Likely, nil, "%s", c.Type)
		}
		p.needed("log", g.table, c, text)
	}
	d.Log = insert
	p.kinds = append(p.kinds, g.table.Table)
	sure := Likely
	if g.score < 5 {
		sure = Guess
	}
	p.line("log.table", sure, others, "%s; one row for each refund; remove [bridge.log] to write none", rows(g.table))
	if g.kind != "" && len(refunds) == 0 {
		if p.table.Table == g.table.Table || g.table.allowed(kind) != nil {
			p.ask("log.columns: no word of the column %s means a refund; it allows %s. Which one is to be written?", g.kind, strings.Join(g.table.allowed(kind), ", "))
		}
	}
}

// logValue returns what is written to a column of the log for a refund; "": nothing.
func (p *proposer) logValue(g logGuess, c CatalogColumn, refunds []string) string {
	words := nameWords(c.Name)
	switch {
	case c.Generated || c.Identity:
		return ""
	case c.Name == g.amount:
		return "{amount}"
	case c.Name == g.task:
		return "{task}"
	case c.Name == g.kind:
		if len(refunds) > 0 {
			return refunds[0]
		}
		if g.table.allowed(c) == nil {
			return "refund"
		}
		return ""
	case g.table.userScore(c) > 0 || p.refersToUser(g.table, c.Name):
		return "{user}"
	case c.isNumber() && hasAny(words, "old", "before"):
		return "{balance_before}"
	case c.isNumber() && (hasAny(words, "new", "after") || isName(c.Name, "balance")):
		return "{balance}"
	case c.isText() && c.Base != "uuid" && hasAny(words, "note", "description", "reason", "comment", "remark", "memo", "details", "备注", "说明"):
		return "refund of task {task}"
	}
	if ref, ok := g.table.reference(c.Name); ok && ref.To == p.table.Table && len(ref.Referred) == 1 {
		return "{row." + ref.Referred[0] + "}"
	}
	return ""
}

// needed asks for a column of an insert that must have a value and has none.
func (p *proposer) needed(key string, t CatalogTable, c CatalogColumn, text string) {
	if text == "" && c.needsValue() {
		p.ask("%s.columns: the column %s of %s is not null and has no default. What is to be written to it (type %s)?", key, c.Name, t.Table, c.Type)
	}
}

// history proposes the row of a gallery for a completed task, where the application has a table for it.
func (p *proposer) history() {
	d := &p.out.Description
	type gallery struct {
		table CatalogTable
		url   string
		score int
	}
	var found []gallery
	for _, t := range p.catalog.Tables {
		if t.Table == d.Tasks || t.Table == d.Credits.Table || guess(t).fits {
			continue
		}
		name := nameWords(t.Table.Name)
		user := slices.ContainsFunc(t.Columns, func(c CatalogColumn) bool { return t.userScore(c) > 0 || p.refersToUser(t, c.Name) })
		urls := rank(t, func(c CatalogColumn) int {
			if !c.isText() {
				return 0
			}
			return resultScore(c)
		})
		if !user || len(urls) == 0 {
			continue
		}
		g := gallery{table: t, url: urls[0].name}
		if hasAny(name, "history", "gallery", "library", "collection", "creation", "showcase", "feed", "历史", "画廊", "作品", "galerie", "verlauf") {
			g.score += 3
		}
		if hasAny(name, imageWords...) {
			g.score++
		}
		if best(rank(t, promptScore)) >= 9 {
			g.score += 2
		}
		if p.taskColumn(t) != "" {
			g.score++
		}
		if hasAny(name, "upload", "input", "reference", "template", "style", "like", "favorite", "share") {
			g.score -= 4
		}
		if g.score >= 3 {
			found = append(found, g)
		}
	}
	if len(found) == 0 {
		return
	}
	slices.SortStableFunc(found, func(a, b gallery) int { return cmp.Compare(b.score, a.score) })
	g := found[0]
	var others []string
	for _, other := range found[1:] {
		others = append(others, other.table.Table.String())
	}
	insert := &Insert{Table: g.table.Table, Columns: map[string]string{}}
	for _, c := range g.table.Columns {
		text := p.historyValue(g.table, c, g.url)
		if text != "" {
			insert.Columns[c.Name] = text
			p.line("history.columns."+c.Name, Likely, nil, "%s", c.Type)
		}
		p.needed("history", g.table, c, text)
	}
	d.History = insert
	p.kinds = append(p.kinds, g.table.Table)
	sure := Likely
	if g.score < 5 || len(others) > 0 {
		sure = Guess
	}
	p.line("history.table", sure, others, "%s; one row for each completed task; remove [bridge.history] if the application writes it itself or reads the tasks", rows(g.table))
	if sure == Guess {
		p.ask("history: is a row of %s to be written for each completed task (what users see as their pictures)? If not, remove [bridge.history]", g.table.Table)
	}
	for _, check := range g.table.Checks {
		if strings.Contains(check, quoteName(g.url)) {
			p.note("%s: the column %s has a %s: IMAGE_BASE_URL must make URLs that pass it", g.table.Table, g.url, check)
		}
	}
}

// historyValue returns what is written to a column of the gallery; "": nothing.
func (p *proposer) historyValue(t CatalogTable, c CatalogColumn, url string) string {
	d := p.out.Description
	switch {
	case c.Generated || c.Identity:
		return ""
	case c.Name == url:
		return "{url}"
	case t.userScore(c) > 0 || p.refersToUser(t, c.Name):
		return "{user}"
	case promptScore(c) >= 9:
		return "{prompt}"
	case styleScore(c) > 0:
		return "{style}"
	case isName(c.Name, "aspect_ratio", "ratio") && c.isText():
		return "{ratio}"
	case c.isText() && (modelScore(c) > 0 || isName(c.Name, "model_used")):
		return "{model}"
	case c.isText() && isName(c.Name, "size", "image_size"):
		return "{size}"
	case c.Name == p.taskColumn(t):
		return "{task}"
	case c.isWord() && isName(c.Name, "status", "state"):
		for _, word := range append(valuesOf(c), append(t.allowed(c), c.defaultWord())...) {
			if state, ok := stateOf(word); ok && state == "completed" {
				return word
			}
		}
	}
	if ref, ok := t.reference(c.Name); ok && ref.To == d.Tasks && len(ref.Referred) == 1 {
		return "{row." + ref.Referred[0] + "}"
	}
	return ""
}

// notes reports what an operator should know about the tables of the description.
func (p *proposer) notes() {
	d := p.out.Description
	tables := []Table{d.Tasks, d.Credits.Table}
	writes := map[Table][]string{d.Tasks: {"SELECT", "UPDATE", "TRIGGER"}, d.Credits.Table: {"SELECT", "UPDATE", "TRIGGER"}}
	for _, match := range []*Match{d.Credits.ChargeLog, d.Credits.RefundLog} {
		if match != nil {
			tables, writes[match.Table] = append(tables, match.Table), []string{"SELECT", "TRIGGER"}
		}
	}
	for _, insert := range []*Insert{d.Log, d.History} {
		if insert != nil {
			tables, writes[insert.Table] = append(tables, insert.Table), append(writes[insert.Table], "INSERT")
		}
	}
	seen := map[Table]bool{{}: true}
	for _, name := range tables {
		t, ok := p.catalog.Find(name)
		if seen[name] || !ok {
			continue
		}
		seen[name] = true
		p.note("%s: %s", name, rows(t))
		for _, trigger := range t.Triggers {
			state := ""
			if !trigger.Enabled {
				state = ", disabled"
			}
			p.note("%s: trigger %s calls %s%s; what it does with rows that the bridge writes is the application's", name, trigger.Name, trigger.Function, state)
		}
		if t.Secured {
			p.note("%s: row-level security is on%s", name, map[bool]string{true: fmt.Sprintf(", and hides rows from the role %s", p.catalog.Role)}[t.RowLevel])
		}
		var needed []string
		for _, c := range t.Columns {
			if c.needsValue() {
				needed = append(needed, c.Name)
			}
			if c.Base == "enum" {
				p.note("%s: the column %s is the enum %s: %s", name, c.Name, c.Type, strings.Join(c.Labels, ", "))
			}
		}
		if len(needed) > 0 && len(writes[name]) > 0 && writes[name][len(writes[name])-1] == "INSERT" {
			p.note("%s: not null and without a default: %s", name, strings.Join(needed, ", "))
		}
		if fix := p.catalog.missing(t, writes[name]); fix != "" {
			p.note("%s: the role %s lacks privileges; run as the owner of the table: %s", name, p.catalog.Role, fix)
		}
	}
	for _, t := range p.catalog.Tables {
		if t.Note != "" && !seen[t.Table] {
			p.note("%s: %s", t.Table, t.Note)
		}
	}
}

// missing returns the statements that grant what is missing of the needed privileges on a table; "": nothing is.
func (c Catalog) missing(t CatalogTable, needed []string) string {
	var lacks, fixes []string
	for _, privilege := range needed {
		if slices.Contains(t.Missing, privilege) && !slices.Contains(lacks, privilege) {
			lacks = append(lacks, privilege)
		}
	}
	if usage, known := c.Schemas[t.Table.Schema]; known && !usage {
		fixes = append(fixes, fmt.Sprintf("grant usage on schema %s to %s", quoteName(t.Table.Schema), quoteName(c.Role)))
	}
	if len(lacks) > 0 {
		fixes = append(fixes, fmt.Sprintf("grant %s on %s to %s", strings.ToLower(strings.Join(lacks, ", ")), t.Table, quoteName(c.Role)))
	}
	return strings.Join(fixes, "; ")
}
