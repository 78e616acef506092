package bridge

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"imagetasks/pkg/pattern"
)

// balanceGuess is a column that may hold the users' balances.
type balanceGuess struct {
	table  CatalogTable
	key    string
	column string
	score  int
	frozen []string // other columns of the same row that hold a part of the credits
	lots   bool     // several rows of one user that expire
}

var (
	creditWords    = []string{"credit", "balance", "coin", "token", "point", "gem", "guthaben", "积分", "余额", "点数", "saldo"}
	notBalance     = []string{"total", "used", "spent", "limit", "max", "monthly", "daily", "lifetime", "purchased", "earned", "cost", "price", "per", "deducted", "refunded", "returned", "charged", "old", "new", "before", "after", "change", "bought", "initial", "reset", "count", "input", "output"}
	frozenWords    = []string{"frozen", "held", "hold", "reserved", "locked", "blocked", "pending", "冻结", "gesperrt"}
	availableWords = []string{"available", "remaining", "left", "current", "amount", "可用", "剩余"}
)

// guessBalances returns the columns that may hold balances, the best first.
func (p *proposer) guessBalances() []balanceGuess {
	var found []balanceGuess
	user, _ := p.table.reference(p.out.Description.User)
	for _, t := range p.catalog.Tables {
		if t.Table == p.table.Table || !p.settings.Balance.IsZero() && t.Table != p.settings.Balance {
			continue
		}
		name := nameWords(t.Table.Name)
		creditTable := hasAny(name, append([]string{"wallet", "账户"}, creditWords...)...)
		account := creditTable || isUserTable(t.Table)
		if hasAny(name, "log", "history", "transaction", "entry", "entrie", "purchase", "order", "payment", "plan", "package", "price", "日志", "记录") {
			continue
		}
		var frozen []string
		for _, c := range t.Columns {
			if c.isNumber() && hasAny(nameWords(c.Name), frozenWords...) {
				frozen = append(frozen, c.Name)
			}
		}
		for _, c := range t.Columns {
			words := nameWords(c.Name)
			if !c.isNumber() || c.Generated || slices.Contains(frozen, c.Name) || hasAny(words, notBalance...) || hasAny(words, "id") {
				continue
			}
			g := balanceGuess{table: t, column: c.Name, frozen: frozen}
			switch {
			case hasAny(words, creditWords...):
				g.score = 5
			case account && hasAny(words, availableWords...):
				g.score = 3
			default:
				continue
			}
			if creditTable {
				g.score++
			}
			var relation int
			g.key, relation = p.balanceKey(t, user)
			if g.key == "" {
				continue
			}
			g.score += relation
			if !t.isUnique(g.key) {
				if !slices.ContainsFunc(t.Columns, func(c CatalogColumn) bool {
					return c.isTime() && hasAny(nameWords(c.Name), "expires", "expire", "expiry", "expiration", "until", "expired", "过期", "gültig")
				}) {
					continue
				}
				g.lots = true
			}
			found = append(found, g)
		}
	}
	slices.SortStableFunc(found, func(a, b balanceGuess) int { return cmp.Compare(b.score, a.score) })
	return found
}

// balanceKey returns the column of a table that holds the user's id, and how well it fits the tasks' user.
func (p *proposer) balanceKey(t CatalogTable, user ForeignKey) (string, int) {
	if t.Table == user.To && len(user.Referred) == 1 {
		return user.Referred[0], 4
	}
	tasksUser, _ := p.table.Column(p.out.Description.User)
	name, best := "", 0
	for _, c := range t.Columns {
		score := 0
		if key, ok := t.reference(c.Name); ok && key.To == user.To && !user.To.IsZero() {
			score = 4
		} else if t.userScore(c) > 0 && (c.Base == tasksUser.Base || c.isText() || tasksUser.isText()) {
			score = 2
		} else if isUserTable(t.Table) && t.isUnique(c.Name) && isName(c.Name, "id") && c.Base == tasksUser.Base && user.To.IsZero() {
			score = 2
		}
		if score > 0 && t.isUnique(c.Name) {
			score++
		}
		if score > best {
			name, best = c.Name, score
		}
	}
	return name, best
}

// credits proposes what a task costs and where credits are.
func (p *proposer) credits() {
	cr := &p.out.Description.Credits
	p.flagsOfCredits()
	all := p.guessBalances()
	i := slices.IndexFunc(all, func(g balanceGuess) bool { return !g.lots })
	lots := slices.IndexFunc(all, func(g balanceGuess) bool { return g.lots })
	switch {
	case i >= 0 && (lots < 0 || all[i].score >= all[lots].score):
		p.balance(all[i], slices.DeleteFunc(slices.Clone(all), func(g balanceGuess) bool { return g.lots }))
	case lots >= 0:
		p.lots(all[lots])
	case len(p.creditFunctions("")) > 0 || cr.ChargedColumn != "" || cr.CostColumn != "":
		p.line("credits.table", Guess, nil, "no balance was found")
		p.ask("credits.table: where are the users' balances? Set table, key and column, or refund and charge to functions of the application%s, or charged = \"never\"",
			functionList(p.creditFunctions("")))
	default:
		cr.Charged = "never"
		p.line("credits.charged", Likely, []string{"always", "column", "log"}, "neither credits nor functions for them were found: nothing is refunded")
		return
	}
	p.charged()
	p.cost()
}

// flagsOfCredits finds the columns of tasks that show cost, charge and refund.
func (p *proposer) flagsOfCredits() {
	cr, t := &p.out.Description.Credits, p.table
	flag := func(phrases ...string) func(CatalogColumn) int {
		return func(c CatalogColumn) int { return nameScore(c, c.isBool() || c.isNumber(), phrases...) }
	}
	cr.ChargedColumn = p.pick("credits.charged_column", rank(t, flag("credits_deducted", "credit_deducted", "charged", "is_charged", "credits_charged", "deducted", "paid",
		"is_paid", "credits_consumed", "credits_used", "credit_used", "已扣费", "已扣积分")))
	cr.RefundedColumn = p.pick("credits.refunded_column", rank(t, flag("credits_refunded", "credit_refunded", "refunded", "is_refunded", "refund", "credits_returned",
		"refunded_credits", "refunded_coins", "refund_amount", "returned_credits", "已退款")))
	cr.CostColumn = p.pick("credits.cost_column", rank(t, func(c CatalogColumn) int {
		return nameScore(c, c.isNumber(), "cost", "credits_cost", "credit_cost", "cost_credits", "cost_in_credits", "price", "credits", "credit", "credits_required", "coins", "tokens_cost",
			"消耗积分", "kosten", "preis")
	}))
	charged, _ := t.Column(cr.ChargedColumn)
	if cr.CostColumn == "" && charged.isNumber() {
		p.because("credits.charged_column", "a number: not null and not 0 means charged")
	}
}

func (p *proposer) balance(g balanceGuess, all []balanceGuess) {
	cr := &p.out.Description.Credits
	cr.Table, cr.Key, cr.Column = g.table.Table, g.key, g.column
	var others []string
	close := false
	for _, other := range all {
		if other.table.Table != g.table.Table || other.column != g.column {
			others = append(others, other.table.Table.String()+" "+other.column)
			close = close || other.score >= g.score
		}
	}
	sure := Likely
	switch {
	case close:
		sure = Guess
		p.ask("credits.table: several columns can hold the users' balances: %s %s, %s. Set table, key and column", g.table.Table, g.column, strings.Join(others, ", "))
	case g.score >= 8 && len(others) == 0:
		sure = Certain
	case g.score < 6:
		sure = Guess
		p.ask("credits.table: little speaks for %s, column %s. Are the users' credits there?", g.table.Table, g.column)
	}
	p.line("credits.table", sure, others, "%s", rows(g.table))
	p.line("credits.key", sure, nil, "the user's id there")
	column, _ := g.table.Column(g.column)
	p.line("credits.column", sure, nil, "%s", column.Type)
	switch {
	case column.Base == "numeric":
		cr.Decimals = max(column.Scale, 0)
		if column.Scale < 0 {
			cr.Decimals = min(column.Digits, 6)
		}
		p.line("credits.decimals", Likely, nil, "digits after the point")
		if cr.Decimals > 6 {
			cr.Decimals = 6
			p.line("credits.decimals", Guess, nil, "the column has %d digits after the point; 6 at most are used", column.Scale)
		}
	case !column.isInteger():
		p.ask("credits.column: %s is of type %s, whose sums are not exact. The bridge needs a whole number or numeric: name functions in refund and charge", g.column, column.Type)
	}
	cr.Refund, cr.Charge = "balance", "balance"
	refunds, charges := p.creditFunctions("refund"), p.creditFunctions("charge")
	p.line("credits.refund", Likely, refunds, "adds to the column")
	p.line("credits.charge", Likely, charges, "takes from the column, for redrive")
	if len(g.frozen) > 0 {
		cr.Refund, cr.Charge = "", ""
		p.line("credits.refund", Guess, refunds, "credits can be frozen")
		p.line("credits.charge", Guess, charges, "credits can be frozen")
		p.ask("credits.refund and credits.charge: %s also has the column %s. If a task's credits are frozen there until it is closed, set refund and charge to functions of the application that do so%s; "+
			"else set both to \"balance\"", g.table.Table, strings.Join(g.frozen, ", "), functionList(append(refunds, charges...)))
	}
}

// lots proposes credits that are not one number.
func (p *proposer) lots(g balanceGuess) {
	refunds, charges := p.creditFunctions("refund"), p.creditFunctions("charge")
	p.line("credits.refund", Guess, refunds, "credits are rows of %s that expire", g.table.Table)
	p.line("credits.charge", Guess, charges, "credits are rows of %s that expire", g.table.Table)
	p.ask("credits.refund and credits.charge: credits are rows of %s that expire, not one number for each user. Set refund and charge to functions of the application%s, "+
		"or to \"\", which gives no refunds", g.table.Table, functionList(append(refunds, charges...)))
}

func functionList(functions []string) string {
	if len(functions) == 0 {
		return ", such as public.refund_credits({user}, {amount}, {task})"
	}
	slices.Sort(functions)
	return ": " + strings.Join(slices.Compact(functions), ", ")
}

// creditFunctions returns calls of functions of the application that give back ("refund") or take credits ("charge"), or of all for credits.
func (p *proposer) creditFunctions(kind string) []string {
	wanted := map[string][]string{
		"refund": {"refund", "release", "return", "add", "grant", "restore", "退款"},
		"charge": {"charge", "deduct", "consume", "use", "hold", "spend", "take", "debit", "decrement", "扣"},
	}
	var out []string
	for _, f := range p.catalog.Routines {
		words := nameWords(f.Name)
		credits := hasAny(words, append([]string{"lot", "wallet", "refund", "charge", "hold", "release"}, creditWords...)...)
		if !credits || kind != "" && !hasAny(words, wanted[kind]...) || f.Arguments == "" {
			continue
		}
		if call, ok := callOf(f); ok {
			out = append(out, call)
		}
	}
	return out
}

var argument = pattern.New(`^(?:IN |INOUT )?("(?:[^"]|"")+"|\S+)(?: (.+))?$`)

// callOf writes a call of a function with a placeholder for each argument, or false if the meaning of one is not known.
func callOf(f CatalogFunc) (string, bool) {
	var out []string
	for _, text := range strings.Split(f.Arguments, ", ") {
		m := argument().FindStringSubmatch(text)
		if m == nil {
			return "", false
		}
		words := nameWords(m[1])
		switch {
		case hasAny(words, append([]string{"task", "job", "order", "generation", "work", "image", "picture", "artwork"}, taskWords...)...):
			out = append(out, "{task}")
		case hasAny(words, "amount", "value", "cost", "count", "n", "number") || hasAny(words, creditWords...):
			out = append(out, "{amount}")
		case hasAny(words, userNames...) || hasAny(words, "uid", "owner"):
			out = append(out, "{user}")
		case hasAny(words, "reason", "note", "description", "comment"):
			out = append(out, "{reason}")
		default:
			return "", false
		}
	}
	if !slices.Contains(out, "{user}") || !slices.Contains(out, "{amount}") {
		return "", false
	}
	return quoteName(f.Schema) + "." + quoteName(f.Name) + "(" + strings.Join(out, ", ") + ")", true
}

// charged proposes how to see that a task was charged.
func (p *proposer) charged() {
	cr := &p.out.Description.Credits
	others := []string{"always", "never"}
	log, task, charges := p.chargeLog()
	switch c, _ := p.table.Column(cr.ChargedColumn); {
	case cr.ChargedColumn != "":
		share := chargedShare(c)
		others = []string{"always", "never"}
		if share >= 0.5 {
			cr.Charged = "column"
			p.line("credits.charged", Certain, others, "the column %s is set in %d%% of the rows of the sample", c.Name, int(share*100))
			return
		}
		cr.Charged = "always"
		p.line("credits.charged", Guess, []string{"column", "never"}, "the column %s is set in %d%% of the rows of the sample only", c.Name, int(share*100))
		p.ask("credits.charged: the column %s is set in %d%% of the rows of the sample. Does the application charge every task without setting it (charged = \"always\"), "+
			"or only those where it is set (charged = \"column\")? A task that was not charged must not be refunded", c.Name, int(share*100))
	case task != "" && len(charges) > 0:
		cr.Charged = "log"
		cr.ChargeLog = &Match{Table: log.Table, Task: task, Where: p.where(log, charges)}
		p.line("credits.charged", Likely, others, "%s has rows for charges of tasks", log.Table)
		p.line("credits.charge_log.table", Likely, nil, rows(log))
		p.line("credits.charge_log.task", Likely, nil, "the task's key there")
	default:
		cr.Charged = "always"
		p.line("credits.charged", Guess, []string{"never", "log"}, "the table does not show it: every task counts as charged, and gets a refund when it fails or is cancelled")
	}
}

// chargedShare returns the share of rows of the sample that a column marks as charged.
func chargedShare(c CatalogColumn) float64 {
	var set, all int64
	for _, v := range c.Values {
		all += v.Rows
		if v.Value == "true" || !c.isBool() && strings.Trim(v.Value, "0.") != "" {
			set += v.Rows
		}
	}
	if all == 0 {
		if c.isBool() {
			return 0
		}
		return c.Filled
	}
	return c.Filled * float64(set) / float64(all)
}

// cost proposes what a task costs: what the table says, or what the log's charges say.
func (p *proposer) cost() {
	cr := &p.out.Description.Credits
	charged, _ := p.table.Column(cr.ChargedColumn)
	if cr.CostColumn == "" && charged.isNumber() && chargedShare(charged) > 0 {
		cr.CostColumn = cr.ChargedColumn
		p.line("credits.cost_column", Likely, nil, "it holds the number of credits")
	}
	cr.Cost = 1
	if cr.CostColumn != "" {
		p.line("credits.cost", Likely, nil, "only for rows where the column %s is null", cr.CostColumn)
		return
	}
	if costs := p.loggedCosts(); len(costs) == 1 {
		if _, err := fmt.Sscanf(costs[0], "%d", &cr.Cost); err == nil && cr.Cost > 0 {
			p.line("credits.cost", Likely, nil, "the amount of the charges in the log")
			return
		}
		cr.Cost = 1
	} else if len(costs) > 1 {
		p.line("credits.cost", Guess, costs, "the log has charges of different amounts")
		p.ask("credits.cost: the log has charges of %s credits. What does a task cost? Set cost, or cost_by_model", strings.Join(costs, ", "))
		return
	}
	p.line("credits.cost", Guess, nil, "no column and no log says what a task costs; this is what a failed or cancelled task is refunded")
	p.ask("credits.cost: what does the application charge for a task? %d was assumed. Set cost, or cost_by_model", cr.Cost)
}

// loggedCosts returns the different amounts of the charges in the log, without signs.
func (p *proposer) loggedCosts() []string {
	log, task, charges := p.chargeLog()
	if task == "" || len(charges) == 0 {
		return nil
	}
	var out []string
	for _, c := range log.Columns {
		if !isAmount(c) {
			continue
		}
		for _, v := range c.Values {
			if amount, negative := strings.CutPrefix(v.Value, "-"); negative && !slices.Contains(out, amount) {
				out = append(out, amount)
			}
		}
	}
	return out
}

func isAmount(c CatalogColumn) bool {
	words := nameWords(c.Name)
	return c.isNumber() && hasAny(words, "amount", "change", "delta", "credit", "value", "coin", "token", "point", "积分", "金额", "betrag") &&
		!hasAny(words, "old", "new", "before", "after", "id", "price", "cent", "balance")
}
