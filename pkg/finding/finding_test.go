package finding_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/task"
)

// allCodes reads the codes from the source, so that a new one can't be forgotten here.
func allCodes(t *testing.T) []finding.Code {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "finding.go", nil, 0)
	require.NoError(t, err)
	var out []finding.Code
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Code" {
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			out = append(out, finding.Code(text))
		}
		return true
	})
	require.NotEmpty(t, out)
	return out
}

func TestFinding_TextOfEveryCodeInBothLanguages(t *testing.T) {
	for _, code := range allCodes(t) {
		for _, count := range []int{1, 2} {
			f := finding.Finding{Code: code, Count: count, Total: 9, PID: 4159, Since: time.Unix(1e9, 0), Seconds: 190, Subject: "subject",
				Cause: task.CodeNoQuota, Reason: "reason"}
			english, chinese := f.Text(lang.EN), f.Text(lang.ZH)
			assert.NotContains(t, english, "%!", code)
			assert.NotContains(t, chinese, "%!", code)
			assert.NotEqual(t, english, chinese, code)
			assert.True(t, strings.ContainsFunc(chinese, func(r rune) bool { return unicode.Is(unicode.Han, r) }), chinese)
			assert.False(t, strings.ContainsFunc(english, func(r rune) bool { return unicode.Is(unicode.Han, r) }), english)
			if count == 1 {
				assert.NotRegexp(t, `\b1 \w+s\b`, english)
			}
		}
	}
}

func TestFinding_PausedScopes(t *testing.T) {
	for _, scope := range []string{"endpoint", "model"} {
		f := finding.Finding{Code: finding.ClaimingPaused, Scope: scope, Name: "relay-1", Subject: "ann", Since: time.Unix(1e9, 0), Reason: "its bill"}
		for _, l := range []lang.Lang{lang.EN, lang.ZH} {
			text := f.Text(l)
			assert.NotContains(t, text, "%!")
			for _, part := range []string{"relay-1", "ann", "its bill"} {
				assert.Contains(t, text, part)
			}
		}
		assert.Equal(t, finding.Command{Program: "task-processor", Args: []string{"resume", "--" + scope, "relay-1"}}, f.Next())
	}
	whole := finding.Finding{Code: finding.ClaimingPaused, Subject: "ann"}
	assert.Equal(t, finding.Command{Program: "task-processor", Args: []string{"resume"}}, whole.Next())
}

func TestDocument_RoundTrip(t *testing.T) {
	documents := finding.Documents([]finding.Finding{{Code: finding.TasksStuck, Count: 1}, {Code: finding.DatabaseUnavailable, Reason: "away"}},
		func(c finding.Command) string { return "bin/" + c.Program })
	text, err := json.Marshal(documents)
	require.NoError(t, err)
	assert.JSONEq(t, `[{"code":"tasks_stuck","count":1,"what":"1 task is stuck","do":"bin/fix-stuck-tasks"},
		{"code":"database_unavailable","reason":"away","what":"the database is unavailable: away"}]`, string(text))
	var back []finding.Document
	require.NoError(t, json.Unmarshal(text, &back))
	assert.Equal(t, documents, back)
}
