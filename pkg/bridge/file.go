package bridge

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"imagetasks/pkg/suggest"
)

// ErrNoBridge means that a file has no part [bridge].
var ErrNoBridge = errors.New("there is no part [bridge]; write one with: task-processor adopt")

// ErrEdited means that somebody changed the part [bridge] of a file.
var ErrEdited = errors.New("its part [bridge] was edited by hand and stays as it is; to replace it: task-processor adopt --force")

// File returns the part [bridge] as TOML, with a comment on each line.
func (p Proposal) File() []byte {
	w := &fileWriter{lines: p.Lines}
	d := p.Description
	w.table("bridge", "tables and columns of the application; names are as in the catalog, words exactly as the application writes them")
	if len(d.Questions) > 0 {
		w.text.WriteString("# Answer each question in the lines below, then remove it here. adopt --plan and --apply refuse a file with questions.\nquestions = [\n")
		for _, q := range d.Questions {
			fmt.Fprintf(&w.text, "  %s,\n", tomlString(q))
		}
		w.text.WriteString("]\n")
	}
	w.value("tasks", d.Tasks, "the table of tasks, schema.table")
	w.value("key", d.Key, "the column that identifies a task")
	w.value("only", d.Only, "the rows that are image tasks, where the table holds others: { kind = [\"image\"] }")
	w.value("deleted", d.Deleted, "the column of a soft delete: a row where it is set is as if deleted")
	w.value("user", d.User, "the column of the user's id")
	w.value("prompt", d.Prompt, "prompt")
	w.value("style", d.Style, "style")
	w.value("ratio", d.Ratio, "aspect ratio")
	w.value("model", d.Model, "model")
	w.value("inputs", d.Inputs, "columns of input pictures")
	w.value("result", d.Result, "gets the URL of the picture")
	w.value("result_form", d.ResultForm, "text, array, or JSON with {url} in it")
	w.value("error", d.Error, "gets the error message")
	w.value("progress", d.Progress, "gets the percentage")
	w.value("stage", d.Stage, "gets the stage")
	w.value("created", d.Created, "gives the order of tasks")
	w.value("started", d.Started, "gets the time of the start")
	w.value("completed", d.Completed, "gets the time of the end")
	w.value("updated", d.Updated, "gets the time of each change")
	w.value("notify", d.Notify, "channel of pg_notify for each closed task")
	w.value("search_path", d.Path, "schemas")
	if len(d.Values) > 0 {
		w.table("bridge.values", "what the words of the columns ratio, style and model mean")
		for _, name := range slices.Sorted(maps.Keys(d.Values)) {
			w.value(name, d.Values[name], "their word = ours")
		}
	}
	if len(d.Stages) > 0 {
		w.table("bridge.stages", cmp.Or(w.comment("stages"), "our stage = theirs"))
		for _, name := range slices.Sorted(maps.Keys(d.Stages)) {
			w.value(name, d.Stages[name], "our stage = theirs")
		}
	}
	if len(d.Settings) > 0 {
		w.table("bridge.settings", "set for the transactions that write to the application's tables")
		for _, name := range slices.Sorted(maps.Keys(d.Settings)) {
			w.value(name, d.Settings[name], "set_config")
		}
	}
	w.table("bridge.status", "how the table shows the state of a task; of several words the first is written")
	st := d.Status
	w.value("column", st.Column, "the column of words, or of codes such as \"0\"")
	for _, state := range []struct {
		key   string
		words []string
	}{{"pending", st.Pending}, {"processing", st.Processing}, {"completed", st.Completed}, {"failed", st.Failed}, {"cancelled", st.Cancelled}} {
		w.value(state.key, state.words, "")
	}
	w.value("completed_column", st.CompletedColumn, "boolean, without a column of words")
	w.value("failed_column", st.FailedColumn, "boolean, without a column of words")
	w.value("cancelled_column", st.CancelledColumn, "boolean, without a column of words")
	w.value("processing_column", st.ProcessingColumn, "boolean, without a column of words")

	w.table("bridge.moving", "rows that are processing when the bridge is put in place")
	w.value("processing", d.Moving.Processing, "wait, requeue or fail")

	cr := d.Credits
	w.table("bridge.credits", "what a task costs, how to see that it was charged, and where credits are")
	w.value("cost", cr.Cost, "credits of a task")
	w.value("cost_column", cr.CostColumn, "column of tasks that holds them")
	w.value("cost_by_model", cr.CostByModel, "{ \"model\" = 2 }")
	w.value("charged", cr.Charged, "always, column, log or never")
	w.value("charged_column", cr.ChargedColumn, "boolean, or a number")
	w.value("refunded_column", cr.RefundedColumn, "boolean, or the number of credits")
	w.value("table", cr.Table, "balances")
	w.value("key", cr.Key, "the user's id there")
	w.value("column", cr.Column, "the balance")
	w.value("decimals", cr.Decimals, "digits after the point")
	w.value("refund", cr.Refund, "balance, a call such as public.refund_credits({user}, {amount}, {task}), or \"\": none")
	w.value("charge", cr.Charge, "the same, for redrive")
	w.match("bridge.credits.charge_log", cr.ChargeLog, "the row that shows a charge")
	w.match("bridge.credits.refund_log", cr.RefundLog, "the row that shows a refund by the application")
	w.insert("bridge.log", d.Log, "a row for each refund")
	w.insert("bridge.history", d.History, "a row for each completed task")
	return seal(w.text.Bytes())
}

const sealPrefix = "# checksum: "

// seal adds a line after the first one by which ReplaceBridge sees whether somebody changed the text.
func seal(part []byte) []byte {
	first, rest, _ := bytes.Cut(part, []byte("\n"))
	return slices.Concat(first, []byte("\n"+sealPrefix+checksum(part)+" (adopt replaces this part only while it is unchanged)\n"), rest)
}

// checksum does not depend on the line that holds it, line ends and empty lines at the end.
func checksum(part []byte) string {
	var kept bytes.Buffer
	for line := range bytes.Lines(part) {
		line = bytes.TrimRight(line, "\r\n")
		if !bytes.HasPrefix(line, []byte(sealPrefix)) {
			kept.Write(line)
			kept.WriteByte('\n')
		}
	}
	sum := sha256.Sum256(bytes.TrimRight(kept.Bytes(), "\n"))
	return hex.EncodeToString(sum[:8])
}

// isSealed reports whether a part is as adopt wrote it.
func isSealed(part []byte) bool {
	for line := range bytes.Lines(part) {
		if rest, ok := bytes.CutPrefix(line, []byte(sealPrefix)); ok {
			return bytes.HasPrefix(rest, []byte(checksum(part)))
		}
	}
	return false
}

type fileWriter struct {
	text   bytes.Buffer
	prefix string
	lines  map[string]Line
}

func (w *fileWriter) table(name, comment string) {
	if w.text.Len() > 0 {
		w.text.WriteByte('\n')
	}
	fmt.Fprintf(&w.text, "[%s]  # %s\n", name, oneLine(comment))
	w.prefix = strings.TrimPrefix(strings.TrimPrefix(name, "bridge"), ".")
	if w.prefix != "" {
		w.prefix += "."
	}
}

// value writes a line; one without a value as a comment.
func (w *fileWriter) value(key string, value any, meaning string) {
	comment := w.comment(w.prefix + key)
	if meaning != "" {
		comment = strings.TrimSuffix(meaning+"; "+comment, "; ")
	}
	v := reflect.ValueOf(value)
	none := v.IsZero() || (v.Kind() == reflect.Map || v.Kind() == reflect.Slice) && v.Len() == 0
	_, given := w.lines[w.prefix+key]
	if none && (!given || v.Kind() != reflect.String && v.Kind() != reflect.Int64 && v.Kind() != reflect.Int) {
		w.text.WriteByte('#')
		if !given {
			comment = strings.TrimPrefix(comment+"; not set", "; ")
		}
	}
	fmt.Fprintf(&w.text, "%s = %s", tomlKey(key), tomlValue(value))
	if comment != "" {
		fmt.Fprintf(&w.text, "  # %s", oneLine(comment))
	}
	w.text.WriteByte('\n')
}

func (w *fileWriter) match(name string, m *Match, meaning string) {
	if m == nil {
		return
	}
	w.table(name, meaning)
	w.value("table", m.Table, "")
	w.value("task", m.Task, "")
	w.value("where", m.Where, "and these columns have one of these values")
}

func (w *fileWriter) insert(name string, in *Insert, meaning string) {
	if in == nil {
		return
	}
	w.table(name, meaning)
	w.value("table", in.Table, "")
	w.table(name+".columns", "column = text with placeholders")
	for _, column := range slices.Sorted(maps.Keys(in.Columns)) {
		w.value(column, in.Columns[column], "")
	}
}

// comment says how sure a line is, why, and what else was possible.
func (w *fileWriter) comment(key string) string {
	line, ok := w.lines[key]
	if !ok {
		return ""
	}
	parts := []string{string(line.Sure)}
	if line.Why != "" {
		parts = append(parts, line.Why)
	}
	if len(line.Others) > 0 {
		parts = append(parts, "also possible: "+strings.Join(line.Others, ", "))
	}
	return strings.Join(parts, "; ")
}

// oneLine makes a comment of a text that may hold anything.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

func tomlKey(key string) string {
	bare := key != ""
	for _, r := range key {
		bare = bare && (r == '_' || r == '-' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9')
	}
	if bare {
		return key
	}
	return tomlString(key)
}

// tomlString quotes a text: JSON's escapes are among those of TOML.
func tomlString(text string) string {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(text) // a string can always be encoded
	return strings.ReplaceAll(strings.TrimSuffix(out.String(), "\n"), "\x7f", `\u007f`)
}

func tomlValue(value any) string {
	switch value := value.(type) {
	case Table:
		if value.IsZero() {
			return `""`
		}
		return tomlString(value.String())
	case string:
		return tomlString(value)
	case []string:
		var parts []string
		for _, v := range value {
			parts = append(parts, tomlString(v))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case map[string]string:
		return inlineTable(value)
	case map[string]int64:
		return inlineTable(value)
	case map[string][]string:
		return inlineTable(value)
	}
	return fmt.Sprint(value)
}

func inlineTable[V any](m map[string]V) string {
	if len(m) == 0 {
		return "{}"
	}
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, tomlKey(key)+" = "+tomlValue(m[key]))
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

// Parse reads the part [bridge] of a file; other parts are left to others. Its errors name the line. It does not check the description against a database:
// see Validate.
func Parse(text []byte) (Description, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	var all map[string]any
	if _, err := toml.Decode(string(text), &all); err != nil {
		return Description{}, syntaxError(err)
	}
	part, ok := all["bridge"]
	if !ok {
		return Description{}, ErrNoBridge
	}
	check := &shapeCheck{lines: keyLines(text)}
	check.value("bridge", part, reflect.TypeFor[Description]())
	if len(check.faults) > 0 {
		slices.SortStableFunc(check.faults, func(a, b lineError) int { return a.line - b.line })
		var faults []error
		for _, f := range check.faults {
			faults = append(faults, f)
		}
		return Description{}, errors.Join(faults...)
	}
	checked, err := toml.Marshal(part) // with codes as words
	if err != nil {
		return Description{}, fmt.Errorf("read the part [bridge]: %w", err)
	}
	var d Description
	if err := toml.Unmarshal(checked, &d); err != nil {
		return Description{}, fmt.Errorf("read the part [bridge]: %w", err)
	}
	return d, nil
}

func syntaxError(err error) error {
	if parse, ok := errors.AsType[toml.ParseError](err); ok {
		return lineError{parse.Position.Line, parse.Message}
	}
	return err
}

// lineError is an error in a line of a file.
type lineError struct {
	line int
	text string
}

func (e lineError) Error() string {
	if e.line == 0 {
		return e.text
	}
	return fmt.Sprintf("line %d: %s", e.line, e.text)
}

// Keys returns the description as it stands in a file.
func (d Description) Keys() (map[string]any, error) {
	text, err := toml.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("write the description: %w", err)
	}
	var out map[string]any
	err = toml.Unmarshal(text, &out)
	return out, err
}

// LineOf returns the number of the line of a key of the part [bridge], such as status.pending, or of the nearest one above it; 0 if there is none.
func LineOf(text []byte, key string) int { return nearestLine(keyLines(text), "bridge."+key) }

func nearestLine(lines map[string]int, path string) int {
	for {
		if line := lines[path]; line > 0 {
			return line
		}
		i := strings.LastIndex(path, ".")
		if i < 0 {
			return 0
		}
		path = path[:i]
	}
}

// shapeCheck compares what a file holds with what a type can hold. The decoder of TOML would name neither the key nor the line.
type shapeCheck struct {
	lines  map[string]int
	faults []lineError
}

func (c *shapeCheck) fault(path, text string, args ...any) {
	c.faults = append(c.faults, lineError{nearestLine(c.lines, path), fmt.Sprintf(text, args...)})
}

func (c *shapeCheck) value(path string, value any, want reflect.Type) {
	name := strings.TrimPrefix(path, "bridge.")
	wrong := func(expected string) {
		c.fault(path, "%s must be %s", name, expected)
	}
	if want == reflect.TypeFor[Table]() {
		text, ok := value.(string)
		if !ok {
			wrong("a text such as \"public.tasks\"")
			return
		}
		if err := new(Table).UnmarshalText([]byte(text)); err != nil {
			c.fault(path, "%s: %v", name, err)
		}
		return
	}
	switch want.Kind() {
	case reflect.Pointer:
		c.value(path, value, want.Elem())
	case reflect.Struct:
		table, ok := value.(map[string]any)
		if !ok {
			wrong("a table, such as [" + path + "]")
			return
		}
		known := map[string]reflect.Type{}
		for i := range want.NumField() {
			key, _, _ := strings.Cut(want.Field(i).Tag.Get("toml"), ",")
			known[key] = want.Field(i).Type
		}
		for _, key := range slices.Sorted(maps.Keys(table)) {
			field, ok := known[key]
			if !ok {
				c.fault(path+"."+key, "[%s] has no key %s%s", path, key, suggest.DidYouMean(key, slices.Sorted(maps.Keys(known))))
				continue
			}
			c.value(path+"."+key, table[key], field)
		}
	case reflect.Map:
		table, ok := value.(map[string]any)
		if !ok {
			wrong("a table, such as [" + path + "]")
			return
		}
		for _, key := range slices.Sorted(maps.Keys(table)) {
			table[key] = asWord(table[key], want.Elem())
			c.value(path+"."+key, table[key], want.Elem())
		}
	case reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			wrong("a list, such as [\"a\", \"b\"]")
			return
		}
		for i := range list {
			list[i] = asWord(list[i], want.Elem())
			c.value(path, list[i], want.Elem())
		}
	case reflect.String:
		if _, ok := value.(string); !ok {
			wrong("a text in quotation marks")
		}
	case reflect.Int, reflect.Int64:
		_, whole := value.(int64)
		_, fraction := value.(float64)
		switch {
		case fraction && strings.HasPrefix(name, "credits.cost"):
			wrong("a whole number; a fraction of a credit can come from a column of the task's row only: write cost_column")
		case !whole:
			wrong("a whole number")
		}
	}
}

// asWord returns a whole number or a boolean among words as the word that it is: pending = [0].
func asWord(value any, want reflect.Type) any {
	switch value.(type) {
	case int64, bool:
		if want.Kind() == reflect.String {
			return fmt.Sprint(value)
		}
	}
	return value
}

// ReplaceBridge returns a file with another part [bridge], which it appends where the file has none. Everything else stays as it is, byte for
// byte. A part that was edited by hand is replaced only with force; without, the error is ErrEdited.
func ReplaceBridge(file, part []byte, force bool) ([]byte, error) {
	var all map[string]any
	if _, err := toml.Decode(string(bytes.TrimPrefix(file, []byte("\ufeff"))), &all); err != nil {
		return nil, syntaxError(err)
	}
	if _, exists := all["bridge"]; !exists {
		before := file
		switch {
		case len(before) == 0:
		case !bytes.HasSuffix(before, []byte("\n")):
			before = slices.Concat(before, []byte("\n\n"))
		default:
			before = slices.Concat(before, []byte("\n"))
		}
		return slices.Concat(before, part), nil
	}
	spans, err := bridgeSpans(file)
	if err != nil {
		return nil, err
	}
	var old, out []byte
	at := 0
	for i, s := range spans {
		out = append(out, file[at:s.begin]...)
		if i == 0 {
			out = append(out, part...)
		}
		old = append(old, file[s.begin:s.end]...)
		at = s.end
	}
	out = append(out, file[at:]...)
	if !force && !isSealed(old) {
		return nil, ErrEdited
	}
	return out, nil
}

type span struct{ begin, end int }

// bridgeSpans returns where the tables of the part [bridge] stand. Comments and empty lines before the table that follows belong to that one.
func bridgeSpans(file []byte) ([]span, error) {
	var spans []span
	inside, end := false, 0
	for _, line := range scanLines(file) {
		switch {
		case line.header != nil:
			isBridge := line.header[0] == "bridge"
			if isBridge && !inside {
				spans = append(spans, span{begin: line.begin})
			}
			if !isBridge && inside {
				spans[len(spans)-1].end = end
			}
			inside = isBridge
		case line.key != nil && line.top && line.key[0] == "bridge":
			return nil, lineError{line.number, "the part [bridge] is written as a key of the file and not as a table, and can't be replaced; remove it first"}
		}
		if !line.blank {
			end = line.end
		}
	}
	if inside {
		spans[len(spans)-1].end = end
	}
	if len(spans) == 0 {
		return nil, errors.New("the part [bridge] can't be found; remove it first")
	}
	return spans, nil
}

// fileLine is a line of TOML that is not within a value.
type fileLine struct {
	number, begin, end int
	header             []string // of a table
	key                []string
	top                bool // before the first table
	blank              bool // empty or a comment
}

// scanLines finds the tables and keys of a TOML text that is known to be correct.
func scanLines(text []byte) []fileLine {
	var out []fileLine
	var quote string // of the text of several lines that is open
	depth, at, top := 0, 0, true
	for n, line := range slices.Collect(bytes.Lines(text)) {
		begin := at
		at += len(line)
		content := strings.TrimSpace(strings.TrimPrefix(string(line), "\ufeff"))
		if quote == "" && depth == 0 {
			l := fileLine{number: n + 1, begin: begin, end: at, top: top}
			switch {
			case content == "" || content[0] == '#':
				l.blank = true
			case content[0] == '[':
				l.header, _ = splitKey(strings.TrimLeft(content, "["))
				top, l.top = false, false
				out = append(out, l)
				continue
			default:
				l.key, _ = splitKey(content)
			}
			out = append(out, l)
		} else if len(out) > 0 {
			out[len(out)-1].end = at
		}
		quote, depth = scanValue(string(line), quote, depth)
	}
	return out
}

// scanValue returns which text of several lines and how many brackets are open at the end of a line.
func scanValue(line, quote string, depth int) (string, int) {
	for i := 0; i < len(line); i++ {
		rest := line[i:]
		switch {
		case quote != "":
			switch {
			case quote[0] == '"' && rest[0] == '\\':
				i++
			case strings.HasPrefix(rest, quote):
				i += len(quote) - 1
				if len(quote) == 3 {
					for i+1 < len(line) && line[i+1] == quote[0] { // the text ends in quotation marks
						i++
					}
				}
				quote = ""
			}
		case strings.HasPrefix(rest, `"""`) || strings.HasPrefix(rest, "'''"):
			quote = rest[:3]
			i += 2
		case rest[0] == '"' || rest[0] == '\'':
			quote = rest[:1]
		case rest[0] == '#':
			return quote, depth
		case rest[0] == '[' || rest[0] == '{':
			depth++
		case rest[0] == ']' || rest[0] == '}':
			depth--
		}
	}
	if len(quote) == 1 {
		quote = "" // it can't be open in a correct file
	}
	return quote, depth
}

// splitKey reads the dotted key at the beginning of a line.
func splitKey(text string) (key []string, rest string) {
	for {
		text = strings.TrimLeft(text, " \t")
		var part string
		switch {
		case strings.HasPrefix(text, `"`):
			end := 1
			for end < len(text) && text[end] != '"' {
				if text[end] == '\\' {
					end++
				}
				end++
			}
			end = min(end+1, len(text))
			if json.Unmarshal([]byte(text[:end]), &part) != nil {
				part = strings.Trim(text[:end], `"`)
			}
			text = text[end:]
		case strings.HasPrefix(text, "'"):
			part, text, _ = strings.Cut(text[1:], "'")
		default:
			end := strings.IndexAny(text, " \t.=]")
			if end < 0 {
				end = len(text)
			}
			part, text = text[:end], text[end:]
		}
		key = append(key, part)
		text = strings.TrimLeft(text, " \t")
		if !strings.HasPrefix(text, ".") {
			return key, text
		}
		text = text[1:]
	}
}

// keyLines returns the number of the line of each table and key, by its path. Keys within an inline table have that of the table.
func keyLines(text []byte) map[string]int {
	out := map[string]int{}
	var table []string
	for _, line := range scanLines(text) {
		path := table
		switch {
		case line.header != nil:
			table = line.header
			path = table
		case line.key != nil:
			path = append(slices.Clone(table), line.key...)
		default:
			continue
		}
		if name := strings.Join(path, "."); out[name] == 0 {
			out[name] = line.number
		}
	}
	return out
}
