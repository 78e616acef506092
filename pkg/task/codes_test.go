package task

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Codes lists each constant of the type once.
func TestCodes_Complete(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	require.NoError(t, err)
	constants := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			constants += len(spec.Names)
		}
		return true
	})
	codes := Codes()
	assert.Len(t, codes, constants)
	slices.Sort(codes)
	assert.Len(t, slices.Compact(codes), constants)
}
