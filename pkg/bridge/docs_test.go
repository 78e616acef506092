package bridge_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/bridge"
)

// keys returns the keys of a part of imagetasks.toml, those of its parts after a point.
func keys(part reflect.Type, prefix string) []string {
	var out []string
	for i := range part.NumField() {
		field := part.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("toml"), ",")
		kind := field.Type
		if kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		if kind.Kind() == reflect.Struct && kind != reflect.TypeFor[bridge.Table]() {
			out = append(out, keys(kind, prefix+name+".")...)
			continue
		}
		out = append(out, prefix+name)
	}
	return out
}

// docs/adopting.md describes each key of the description once, and no other. Keys that mean the same in two parts share a row.
func TestDescription_Documented(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "..", "docs", "adopting.md"))
	require.NoError(t, err)
	_, section, found := strings.Cut(string(content), "\n## The description\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(section, -1) {
		for _, key := range strings.Split(row[1], ", ") {
			documented = append(documented, strings.Trim(key, "`"))
		}
	}
	assert.ElementsMatch(t, keys(reflect.TypeFor[bridge.Description](), ""), documented)
}
