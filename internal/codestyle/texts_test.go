package codestyle

import (
	"go/ast"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
)

var verb = regexp.MustCompile(`%[-+# 0]*[0-9]*(\.[0-9]+)?(\[[0-9]+\])?[a-zA-Z%]`)

// verbs returns the format verbs of a text, without their widths, and without %%.
func verbs(text string) []string {
	var out []string
	for _, v := range verb.FindAllString(text, -1) {
		if v != "%%" {
			out = append(out, v[len(v)-1:])
		}
	}
	return out
}

// textLiteral returns the fields of a composite literal with EN and ZH strings; lang.Text is the only such type.
func textLiteral(n ast.Node) map[string]string {
	literal, ok := n.(*ast.CompositeLit)
	if !ok {
		return nil
	}
	fields := map[string]string{}
	for _, e := range literal.Elts {
		pair, ok := e.(*ast.KeyValueExpr)
		if !ok {
			return nil
		}
		key, isIdent := pair.Key.(*ast.Ident)
		value, isString := pair.Value.(*ast.BasicLit)
		if !isIdent || !isString || value.Kind != token.STRING {
			return nil
		}
		text, err := strconv.Unquote(value.Value)
		if err != nil {
			return nil
		}
		fields[key.Name] = text
	}
	if fields["EN"] == "" {
		return nil
	}
	return fields
}

func TestTexts_SameArgumentsInBothLanguages(t *testing.T) {
	n := 0
	goFiles(t, func(_ string, fset *token.FileSet, file *ast.File) {
		ast.Inspect(file, func(node ast.Node) bool {
			text := textLiteral(node)
			if text == nil {
				return true
			}
			n++
			at := fset.Position(node.Pos())
			for _, other := range []string{"ZH", "One"} {
				if text[other] != "" {
					assert.Equal(t, verbs(text["EN"]), verbs(text[other]), "%s: EN and %s", at, other)
				}
			}
			assert.False(t, containsHan(text["EN"]), "%s: EN is English", at)
			if text["ZH"] != "" && hasLetters(text["EN"]) && !strings.EqualFold(text["EN"], text["ZH"]) {
				assert.True(t, containsHan(text["ZH"]), "%s: ZH is Chinese", at)
				assert.NotRegexp(t, `\p{Han}[A-Za-z0-9]|[A-Za-z0-9]\p{Han}`, verb.ReplaceAllString(text["ZH"], "。"), "%s: a space between Chinese and Latin text", at)
				assert.NotRegexp(t, `\p{Han}[,;:?!]`, text["ZH"], "%s: full-width punctuation", at)
			}
			return true
		})
	})
	assert.Greater(t, n, 100)
}

func containsHan(s string) bool {
	for _, r := range s {
		if unicode.Is(unicode.Han, r) {
			return true
		}
	}
	return false
}

func hasLetters(s string) bool {
	for _, r := range verb.ReplaceAllString(s, "") {
		if unicode.IsLetter(r) {
			return true
		}
	}
	return false
}
