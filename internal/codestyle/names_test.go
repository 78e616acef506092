package codestyle

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// root is the project's directory, seen from this package.
var root = filepath.Join("..", "..")

// forbiddenNames reads names.txt.
func forbiddenNames(t *testing.T) map[string]string {
	t.Helper()
	f, err := os.Open("names.txt")
	require.NoError(t, err)
	defer f.Close()
	names := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, instead, _ := strings.Cut(lines.Text(), " ")
		if name != "" && name != "#" {
			require.NotEmpty(t, instead, name)
			names[strings.ToLower(name)] = instead
		}
	}
	require.NoError(t, lines.Err())
	require.NotEmpty(t, names)
	return names
}

// goFiles calls visit with every Go file of the project.
func goFiles(t *testing.T, visit func(path string, fset *token.FileSet, file *ast.File)) {
	t.Helper()
	n := 0
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "var" || d.Name() == "bin") {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".go" {
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		n++
		visit(path, fset, file)
		return nil
	}))
	require.Greater(t, n, 100, "the walk found the project")
}

// declared calls visit with every package-level identifier and every method of a file.
func declared(file *ast.File, visit func(*ast.Ident)) {
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			visit(decl.Name)
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					visit(spec.Name)
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						visit(name)
					}
				}
			}
		}
	}
}

func TestNames_NoneIsForbidden(t *testing.T) {
	forbidden := forbiddenNames(t)
	goFiles(t, func(path string, fset *token.FileSet, file *ast.File) {
		base := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(path), ".go"), "_test")
		if instead, bad := forbidden[strings.ToLower(base)]; bad {
			assert.Fail(t, "forbidden file name", "%s: use %s", path, instead)
		}
		declared(file, func(name *ast.Ident) {
			if instead, bad := forbidden[strings.ToLower(name.Name)]; bad {
				assert.Fail(t, "forbidden name", "%s: %s: use %s", fset.Position(name.Pos()), name.Name, instead)
			}
		})
	})
}

// A test is named for its subject: TestSubject, or TestSubject_Behaviour. A name of six words or more without a subject is a
// sentence, which nobody finds again.
func TestNames_TestsNameTheirSubject(t *testing.T) {
	words := regexp.MustCompile(`[A-Z][a-z0-9]*`)
	goFiles(t, func(path string, fset *token.FileSet, file *ast.File) {
		if !strings.HasSuffix(path, "_test.go") {
			return
		}
		declared(file, func(name *ast.Ident) {
			rest, isTest := strings.CutPrefix(name.Name, "Test")
			if !isTest || rest == "Main" {
				return
			}
			subject, _, _ := strings.Cut(rest, "_")
			if n := len(words.FindAllString(subject, -1)); n > 5 {
				assert.Fail(t, "a test's name is a sentence", "%s: %s", fset.Position(name.Pos()), name.Name)
			}
			assert.NotRegexp(t, `^(The|A|An|What|Who|Where|When|Each|Every|Nothing|Nobody|No|It|How|Of)[A-Z][a-z]`, rest, "%s", fset.Position(name.Pos()))
		})
	})
}
