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
