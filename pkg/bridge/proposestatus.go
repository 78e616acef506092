package bridge

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"imagetasks/pkg/task"
)

// statusGuess is how a table seems to show the state of a task.
type statusGuess struct {
	column  string // of words; empty: boolean columns
	score   int
	codes   bool                    // whole numbers, whose meaning only the application's code says
	words   map[task.State][]string // the one to write first
	unknown []CatalogValue
	others  []string

	completed, failed, cancelled, processing string // boolean columns
}

// points says how much of a task's life it shows: 2 and more can be that of a queue.
func (g statusGuess) points() int {
	live := len(g.words[task.Pending])+len(g.words[task.Processing]) > 0
	done, failed := len(g.words[task.Completed]) > 0, len(g.words[task.Failed]) > 0
	switch {
	case g.codes:
		return 2
	case g.column == "" && (g.failed != "" || g.completed != ""):
		return 2
	case g.column == "":
		return 0
	case live && done && failed:
		return 4
	case live && (done || failed):
		return 3
	case live:
		return 2
	}
	return 1
}

// works reports whether the words are those of something that is worked, and not only approved or paid.
func (g statusGuess) works() bool {
	return g.column == "" || len(g.words[task.Processing]) > 0 || len(g.words[task.Completed]) > 0
}

// guessStatus finds the column of words, or else boolean columns.
func guessStatus(t CatalogTable) statusGuess {
	var found []statusGuess
	for _, c := range t.Columns {
		if c.isInteger() && !c.Generated {
			found = append(found, guessCodes(t, c)...)
		}
		if !c.isWord() || c.Generated {
			continue
		}
		g := statusGuess{column: c.Name, words: map[task.State][]string{}}
		g.sort(t, c)
		words := nameWords(c.Name)
		for _, state := range []task.State{task.Pending, task.Processing, task.Completed, task.Failed} {
			if len(g.words[state]) > 0 {
				g.score += 2
			}
		}
		named := hasAny(words, "status", "state", "zustand", "状态", "estado")
		switch {
		case len(words) == 1 && named:
			g.score += 3
		case named:
			g.score += 2
		case g.score < 4:
			continue
		}
		if hasAny(words, "payment", "billing", "subscription", "stage", "step", "shipping", "moderation", "review", "支付") {
			g.score -= 5
		}
		if g.score > 0 {
			found = append(found, g)
		}
	}
	slices.SortStableFunc(found, func(a, b statusGuess) int { return cmp.Compare(b.score, a.score) })
	flags := guessFlags(t)
	if len(found) == 0 || found[0].points() < 2 && flags.points() >= 2 {
		return flags
	}
	for _, other := range found[1:] {
		found[0].others = append(found[0].others, other.column)
	}
	return found[0]
}

// guessCodes is guessStatus for a column of whole numbers, whose name alone says what it is.
func guessCodes(t CatalogTable, c CatalogColumn) []statusGuess {
	words := nameWords(c.Name)
	if !hasAny(words, "status", "state", "zustand", "状态", "estado") || len(words) > 2 || hasAny(words, "id", "payment", "billing", "subscription", "shipping", "支付") {
		return nil
	}
	if _, refers := t.reference(c.Name); refers {
		return nil
	}
	g := statusGuess{column: c.Name, codes: true, score: 4 - len(words)}
	return []statusGuess{g}
}

// sort puts the words of a column into the states. Words that are written come before those that are only allowed.
func (g *statusGuess) sort(t CatalogTable, c CatalogColumn) {
	seen := map[string]bool{}
	add := func(word string, rows int64) {
		if word == "" || seen[word] {
			return
		}
		seen[word] = true
		if state, ok := stateOf(word); ok {
			g.words[state] = append(g.words[state], word)
			return
		}
		g.unknown = append(g.unknown, CatalogValue{word, rows})
	}
	first := c.defaultWord()
	if state, ok := stateOf(first); ok && state == task.Pending {
		add(first, 0)
	}
	for _, v := range c.Values {
		add(v.Value, v.Rows)
	}
	add(first, 0)
	// Of several words that are only allowed, the usual one first.
	allowed := slices.Clone(t.allowed(c))
	slices.SortStableFunc(allowed, func(a, b string) int { return cmp.Compare(usual(a), usual(b)) })
	for _, word := range allowed {
		add(word, 0)
	}
}

// usual is the place of a word among those for its state.
func usual(word string) int {
	state, ok := stateOf(word)
	if !ok {
		return len(stateWords)
	}
	return slices.Index(stateWords[state], normalWord(word))
}

// guessFlags finds boolean columns that show the state.
func guessFlags(t CatalogTable) statusGuess {
	var g statusGuess
	for _, c := range t.Columns {
		if !c.isBool() || c.Generated {
			continue
		}
		switch {
		case isName(c.Name, "failed", "is_failed", "has_failed", "error", "is_error", "has_error", "errored", "fehlgeschlagen", "失败"):
			g.failed = cmp.Or(g.failed, c.Name)
		case isName(c.Name, "completed", "is_completed", "complete", "is_complete", "done", "is_done", "finished", "is_finished", "succeeded", "success", "fertig", "ist_fertig", "已完成", "完成"):
			g.completed = cmp.Or(g.completed, c.Name)
		case isName(c.Name, "cancelled", "canceled", "is_cancelled", "is_canceled", "aborted", "abgebrochen", "已取消"):
			g.cancelled = cmp.Or(g.cancelled, c.Name)
		case isName(c.Name, "processing", "is_processing", "in_progress", "is_running", "running", "started", "is_generating", "generating", "处理中"):
			g.processing = cmp.Or(g.processing, c.Name)
		}
	}
	return g
}

// state proposes how the table shows the state.
func (p *proposer) state() {
	g := guessStatus(p.table)
	st := &p.out.Description.Status
	if g.column == "" {
		p.flags(g)
		return
	}
	c, _ := p.table.Column(g.column)
	p.used[g.column] = true
	st.Column = g.column
	sure := Likely
	switch {
	case g.points() == 4 && len(g.others) == 0:
		sure = Certain
	case g.points() < 2:
		sure = Guess
	}
	p.line("status.column", sure, g.others, c.Type)
	allowed := p.table.allowed(c)
	if g.codes {
		p.codes(c, allowed)
		return
	}
	if allowed != nil {
		p.because("status.column", "it allows %s", strings.Join(allowed, ", "))
	}
	st.Pending, st.Processing, st.Completed, st.Failed, st.Cancelled =
		g.words[task.Pending], g.words[task.Processing], g.words[task.Completed], g.words[task.Failed], g.words[task.Cancelled]
	for _, state := range []task.State{task.Pending, task.Processing, task.Completed, task.Failed, task.Cancelled} {
		if words := st.Words(state); len(words) > 0 {
			p.line("status."+string(state), wordSureness(c, words), nil, "%s", wordRows(c, words))
		}
	}
	switch {
	case len(st.Pending) == 0 && len(st.Processing) > 0:
		// Tasks are inserted with the word of those that run.
		st.Pending = st.Processing
		p.line("status.pending", Likely, nil, "no word means waiting: new rows have the word of running ones, and rows that have it are taken as waiting")
	case len(st.Pending) > 0 && len(st.Processing) == 0:
		st.Processing = st.Pending
		p.line("status.processing", Likely, nil, "no word is known to mean running: the word of waiting rows stays until the task is closed")
	case len(st.Pending) == 0:
		p.ask("status.pending: which words of %s mean that a task is waiting, and status.processing: which that it is running? Words: %s", g.column, wordList(c, allowed))
	}
	for _, state := range []struct {
		key   string
		words []string
	}{{"completed", st.Completed}, {"failed", st.Failed}} {
		if len(state.words) == 0 {
			p.ask("status.%s: which word of the column %s means that a task has %s? Words: %s", state.key, g.column,
				map[string]string{"completed": "completed", "failed": "failed"}[state.key], wordList(c, allowed))
		}
	}
	if len(st.Cancelled) == 0 && len(st.Failed) > 0 {
		p.line("status.cancelled", Likely, nil, "no word means cancelled: %q is written", st.Failed[0])
	}
	for _, v := range g.unknown {
		count := "no rows of the sample"
		if v.Rows > 0 {
			count = fmt.Sprintf("%d rows of the sample", v.Rows)
		}
		p.ask("status: what does the word %q of the column %s mean (%s)? Add it to the words of one state; a row with a word of none is left alone", v.Value, g.column, count)
	}
}

// codes asks for the meaning of each code.
func (p *proposer) codes(c CatalogColumn, allowed []string) {
	codes := valuesOf(c)
	for _, code := range append(slices.Clone(allowed), c.defaultWord()) {
		if code != "" && !slices.Contains(codes, code) {
			codes = append(codes, code)
		}
	}
	list := "none is known, the sample has none"
	if len(codes) > 0 {
		slices.SortFunc(codes, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
		list = wordRows(c, codes)
	}
	first := ""
	if word := c.defaultWord(); word != "" {
		first = fmt.Sprintf("; new rows have %s by default", word)
	}
	p.ask("status: what do the codes of the column %s mean (%s%s)? Write each into one of pending, processing, completed, failed and cancelled, as the application's code defines them: pending = [\"0\"]. "+
		"A row with a code of none is left alone", c.Name, list, first)
}

func wordSureness(c CatalogColumn, words []string) Sureness {
	for _, v := range c.Values {
		if v.Value == words[0] {
			return Certain
		}
	}
	return Likely
}

// wordRows says how many rows of the sample have each of the words.
func wordRows(c CatalogColumn, words []string) string {
	var parts []string
	for _, word := range words {
		rows := int64(0)
		for _, v := range c.Values {
			if v.Value == word {
				rows = v.Rows
			}
		}
		parts = append(parts, fmt.Sprintf("%s: %d", word, rows))
	}
	return "rows of the sample: " + strings.Join(parts, ", ")
}

func wordList(c CatalogColumn, allowed []string) string {
	words := valuesOf(c)
	for _, word := range allowed {
		if !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	if len(words) == 0 {
		return "none is known, the sample has none"
	}
	return strings.Join(words, ", ")
}

// flags proposes boolean columns.
func (p *proposer) flags(g statusGuess) {
	st := &p.out.Description.Status
	if g.failed == "" && g.completed == "" {
		p.ask("status.column: which column shows the state of a task? Candidates: %s", columnsOf(p.table, func(c CatalogColumn) bool { return c.isState() || c.isBool() }))
		return
	}
	st.CompletedColumn, st.FailedColumn, st.CancelledColumn, st.ProcessingColumn = g.completed, g.failed, g.cancelled, g.processing
	for key, column := range map[string]string{"completed_column": g.completed, "failed_column": g.failed, "cancelled_column": g.cancelled, "processing_column": g.processing} {
		if column != "" {
			p.used[column] = true
			p.line("status."+key, Likely, nil, "no column of words shows the state")
		}
	}
	if g.completed == "" {
		p.line("status.completed_column", Likely, nil, "none: a row is completed when its result is not null")
	}
	if g.failed == "" {
		p.ask("status.failed_column: which column shows that a task has failed? Candidates: %s", columnsOf(p.table, func(c CatalogColumn) bool { return c.isBool() && !p.used[c.Name] }))
	}
}
