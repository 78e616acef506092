package bridge

import (
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// full has a value in every field that adopt may write.
func full() Description {
	return Description{
		Tasks: Table{"My App", "Tasks"}, Key: "id", Only: map[string][]string{"Art der Sache": {"a\"b", "c\\d"}}, Deleted: "del", User: "user", Prompt: "p", Style: "s", Ratio: "r", Model: "m",
		Inputs: []string{"a", "ü"}, Values: map[string]map[string]string{"ratio": {"方形": "1:1", "x y": ""}}, Result: "out", ResultForm: `{"images": [{"url": "{url}"}]}`,
		Error: "e", Progress: "pr", Stage: "st", Stages: map[string]string{"waiting for the API": "generating"}, Created: "c", Started: "sa", Completed: "co", Updated: "u",
		Status: Status{Column: "status", Pending: []string{"new"}, Processing: []string{"run\tning"}, Completed: []string{"已完成"}, Failed: []string{"f"}, Cancelled: []string{"x"}},
		Moving: Moving{Processing: "wait"},
		Credits: Credits{Cost: 2, CostColumn: "cost", CostByModel: map[string]int64{"gpt-image-2": 3}, Charged: "log", ChargedColumn: "cc", RefundedColumn: "rc",
			ChargeLog: &Match{Table{"public", "log"}, "task", map[string][]string{"type": {"use"}}}, RefundLog: &Match{Table{"public", "log"}, "task", nil},
			Table: Table{"public", "users"}, Key: "id", Column: "credits", Decimals: 2, Refund: "balance", Charge: "public.charge({user}, {amount})"},
		Log:     &Insert{Table{"public", "log"}, map[string]string{"Odd Name": "refund of {task} # 1", "b": "{amount}"}},
		History: &Insert{Table{"public", "gallery"}, map[string]string{"url": "{url}"}},
		Notify:  "channel", Path: []string{"My App", "public"}, Settings: map[string]string{"app.source": "it's"}, Questions: []string{"one: \"quoted\"?", "two"},
	}
}

func TestFile_HoldsEveryField(t *testing.T) {
	t.Parallel()
	d := full()
	value := reflect.ValueOf(d)
	for i := range value.NumField() {
		require.False(t, value.Field(i).IsZero(), "full lacks %s", value.Type().Field(i).Name)
	}
	p := Proposal{Description: d, Lines: map[string]Line{"key": {Likely, "it is the\nprimary key", []string{"uid", "n o"}}}}
	text := string(p.File())
	got, err := Parse([]byte(text))
	require.NoError(t, err, text)
	assert.Equal(t, d, got)
	assert.Contains(t, text, `key = "id"  # the column that identifies a task; likely; it is the primary key; also possible: uid, n o`)
	assert.True(t, isSealed([]byte(text)))
	assert.True(t, isSealed([]byte(strings.ReplaceAll(text, "\n", "\r\n")+"\r\n")))
	for line := range strings.Lines(text) {
		if strings.Contains(line, " = ") && !strings.HasPrefix(line, "[") && !strings.HasPrefix(line, "  ") {
			assert.NotContains(t, line, "= \n", "every line has a value")
		}
	}

	empty := string(Proposal{}.File())
	_, err = Parse([]byte(empty))
	require.NoError(t, err)
	assert.Contains(t, empty, `#style = ""  # style; not set`)
}

func TestParse_Faults(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                    "there is no part [bridge]",
		"[endpoints]\na = 1\n":                "there is no part [bridge]",
		"[bridge]\ntasks = \n":                "line 2: ",
		"[bridge]\n\nprompts = \"p\"\n":       "line 3: [bridge] has no key prompts; did you mean prompt?",
		"[bridge]\nzzzzzzzz = 1\n":            "known keys: ",
		"[bridge]\nkey = 5\n":                 "line 2: key must be a text in quotation marks",
		"[bridge]\ntasks = \"tasks\"\n":       `line 2: tasks: the table "tasks" must have the form schema.table`,
		"[bridge]\ninputs = \"a\"\n":          "line 2: inputs must be a list",
		"[bridge]\ninputs = [1.5]\n":          "line 2: inputs must be a text",
		"[bridge.status]\nfaild = [\"x\"]\n":  "line 2: [bridge.status] has no key faild; did you mean failed?",
		"bridge = 1\n":                        "line 1: bridge must be a table",
		"[bridge.credits]\ncost = \"1\"\n":    "line 2: credits.cost must be a whole number",
		"[bridge.credits]\ncost = 2.5\n":      "line 2: credits.cost must be a whole number; a fraction of a credit can come from a column of the task's row only: write cost_column",
		"[bridge.log]\ntable = \"a.b\"\nx=1":  "line 3: [bridge.log] has no key x",
		"[bridge]\nonly = { k = \"image\" }":  "line 2: only.k must be a list",
		"[bridge]\nstatus.pendin = [\"a\"]\n": "line 2: [bridge.status] has no key pendin; did you mean pending?",
	} {
		_, err := Parse([]byte(text))
		assert.ErrorContains(t, err, want, text)
	}
	_, err := Parse([]byte("[bridge]\nkeyy = 1\n\n[bridge.moving]\nprocesing = \"wait\"\n"))
	assert.ErrorContains(t, err, "line 2: ")
	assert.ErrorContains(t, err, "line 5: ", "all faults at once")
}

// Codes are words, with quotation marks or without.
func TestParse_Codes(t *testing.T) {
	t.Parallel()
	d, err := Parse([]byte("[bridge]\nonly = { kind = [3, \"4\"], on = [true] }\n[bridge.status]\npending = [0]\nfailed = [-1, \"2\"]\n[bridge.history]\ntable = \"a.b\"\ncolumns = { state = 2 }\n"))
	require.NoError(t, err)
	assert.Equal(t, map[string][]string{"kind": {"3", "4"}, "on": {"true"}}, d.Only)
	assert.Equal(t, []string{"0"}, d.Status.Pending)
	assert.Equal(t, []string{"-1", "2"}, d.Status.Failed)
	assert.Equal(t, map[string]string{"state": "2"}, d.History.Columns)
}

func TestLineOf(t *testing.T) {
	t.Parallel()
	text := []byte("# c\n[bridge]\ntasks = '''\n[bridge.status]\n'''\ninputs = [\n  'a', # ]\n  'b',\n]\n[bridge.credits.charge_log]\ntask = 'x'\n")
	assert.Equal(t, 3, LineOf(text, "tasks"))
	assert.Equal(t, 6, LineOf(text, "inputs"))
	assert.Equal(t, 11, LineOf(text, "credits.charge_log.task"))
	assert.Equal(t, 2, LineOf(text, "status.pending"), "the nearest line above")
}

func TestReplaceBridge(t *testing.T) {
	t.Parallel()
	part := Proposal{Description: full()}.File()
	d := full()
	d.Key = "other"
	next := Proposal{Description: d}.File()

	before := "# mine\r\n[endpoints]\n\turl = \"\"\"\n[bridge]\nnot a table\"\"\"\n"
	after := "\n# about alerts\n[alerts]\nwhen = [ \"a\", # ]\n]\n\n\n"
	file, err := ReplaceBridge([]byte(before), part, false)
	require.NoError(t, err)
	assert.Equal(t, before+"\n"+string(part), string(file))
	file = append(file, after...)

	changed, err := ReplaceBridge(file, next, false)
	require.NoError(t, err)
	assert.Equal(t, before+"\n"+string(next)+after, string(changed), "everything else stays")
	same, err := ReplaceBridge(changed, next, false)
	require.NoError(t, err)
	assert.Equal(t, string(changed), string(same))

	edited := []byte(strings.Replace(string(file), `key = "id"`, `key = "uid"`, 1))
	_, err = ReplaceBridge(edited, next, false)
	assert.ErrorIs(t, err, ErrEdited)
	forced, err := ReplaceBridge(edited, next, true)
	require.NoError(t, err)
	assert.Equal(t, string(changed), string(forced))

	// By hand, in several places, and without an end of the last line.
	scattered := "[bridge]\nkey = 'a'\n[alerts]\nx = 1\n[bridge.status]\ncolumn = 's'"
	forced, err = ReplaceBridge([]byte(scattered), next, true)
	require.NoError(t, err)
	assert.Equal(t, string(next)+"[alerts]\nx = 1\n", string(forced))

	for text, want := range map[string]string{"x = ": "line 1: ", "bridge.key = 'a'\n": "line 1: the part [bridge] is written as a key"} {
		_, err = ReplaceBridge([]byte(text), next, true)
		assert.ErrorContains(t, err, want)
	}
	for text, want := range map[string]string{"": string(part), "a = 1": "a = 1\n\n" + string(part)} {
		file, err = ReplaceBridge([]byte(text), part, false)
		require.NoError(t, err)
		assert.Equal(t, want, string(file))
	}
}
