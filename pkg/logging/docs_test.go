package logging_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// docs/logs.md lists each field that the programs write, and no other.
func TestDocs_ListEachField(t *testing.T) {
	written := map[string]bool{"time": true, "level": true, "msg": true, "error": true}
	require.NoError(t, filepath.WalkDir("../", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		addFields(written, file)
		return nil
	}))
	text, err := os.ReadFile("../../docs/logs.md")
	require.NoError(t, err)
	documented := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for _, found := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(cells[1], -1) {
			assert.False(t, documented[found[1]], "%s twice", found[1])
			documented[found[1]] = true
		}
	}
	assert.Equal(t, slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(written)))
}

// addFields adds the names of the fields in a file: of WithField, logrus.Fields, and maps that become them.
func addFields(to map[string]bool, file *ast.File) {
	add := func(e ast.Expr) {
		if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
			name, _ := strconv.Unquote(l.Value)
			to[name] = true
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if s, ok := n.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "WithField" {
				add(n.Args[0])
			}
		case *ast.CompositeLit:
			if isFields(n.Type) {
				for _, e := range n.Elts {
					add(e.(*ast.KeyValueExpr).Key)
				}
			}
		case *ast.FuncDecl:
			// A variable of a function that has or makes fields, and the map of processor.Result.Fields.
			if n.Body != nil && makesFields(n) {
				ast.Inspect(n.Body, func(inner ast.Node) bool {
					switch inner := inner.(type) {
					case *ast.AssignStmt:
						if i, ok := inner.Lhs[0].(*ast.IndexExpr); ok {
							add(i.Index)
						}
					case *ast.CompositeLit:
						if _, ok := inner.Type.(*ast.MapType); ok && n.Name.Name == "fields" {
							for _, e := range inner.Elts {
								add(e.(*ast.KeyValueExpr).Key)
							}
						}
					}
					return true
				})
			}
		}
		return true
	})
}

func makesFields(f *ast.FuncDecl) (makes bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			makes = makes || isFields(n)
		case *ast.Ident:
			makes = makes || n.Name == "fields"
		}
		return true
	})
	return makes
}

// isFields reports whether a type is logrus.Fields.
func isFields(e ast.Expr) bool {
	s, ok := e.(*ast.SelectorExpr)
	return ok && s.Sel.Name == "Fields"
}
