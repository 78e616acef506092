package finding_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/task"
)

// codes reads every error code out of its source.
func codes(t *testing.T) []task.Code {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../task/codes.go", nil, 0)
	require.NoError(t, err)
	var out []task.Code
	ast.Inspect(file, func(n ast.Node) bool {
		if value, ok := n.(*ast.ValueSpec); ok {
			for _, v := range value.Values {
				text, err := strconv.Unquote(v.(*ast.BasicLit).Value)
				require.NoError(t, err)
				out = append(out, task.Code(text))
			}
		}
		return true
	})
	require.Greater(t, len(out), 40)
	return out
}

func TestHintFor_EveryCodeInBothLanguages(t *testing.T) {
	// Codes of tasks that have nothing to do with the connection to the API.
	ours := []task.Code{task.CodeStuck, task.CodePendingTimeout, task.CodeCancelled, task.CodeShutdown, task.CodeBadInput, task.CodeInputTooLarge,
		task.CodeBadOptions, task.CodeInputUnavailable, task.CodeSuperseded, task.CodeHandedBack}
	table, err := os.ReadFile("../../docs/proxies.md")
	require.NoError(t, err)
	notOfAConnection := []task.Code{task.CodeInternal, task.CodePictureStore, task.CodeNotAPicture, task.CodeTooLarge,
		task.CodeWorkerLost, task.CodeBadRow, task.CodePictureLost, task.CodeDownload}
	seen := map[task.Code]bool{}
	for _, code := range codes(t) {
		assert.False(t, seen[code], "%s stands for two causes", code)
		seen[code] = true
		hint, ok := finding.HintFor(code)
		assert.NotEqual(t, slices.Contains(ours, code), ok, code)
		if !ok {
			continue
		}
		assert.Equal(t, !slices.Contains(notOfAConnection, code), strings.Contains(string(table), "`"+string(code)+"`"), "%s in docs/proxies.md", code)
		for _, text := range []lang.Text{hint.Cause, hint.Fix} {
			english, chinese := text.In(lang.EN), text.In(lang.ZH)
			assert.True(t, strings.HasSuffix(english, ".") || strings.HasSuffix(english, "?"), english)
			assert.True(t, strings.HasSuffix(chinese, "。") || strings.HasSuffix(chinese, "？"), chinese)
			assert.False(t, strings.ContainsFunc(english, func(r rune) bool { return unicode.Is(unicode.Han, r) }), english)
			assert.True(t, strings.ContainsFunc(chinese, func(r rune) bool { return unicode.Is(unicode.Han, r) }), chinese)
		}
	}
}
