package bridge

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTable_Text(t *testing.T) {
	for text, want := range map[string]Table{
		"public.tasks":         {"public", "tasks"},
		`"My App"."Order"`:     {"My App", "Order"},
		`public."a.b""c"`:      {"public", `a.b"c`},
		`"Public".tasks`:       {"Public", "tasks"},
		"public.GeneratedItem": {"public", "GeneratedItem"},
	} {
		var got Table
		require.NoError(t, got.UnmarshalText([]byte(text)), text)
		assert.Equal(t, want, got)
		var again Table
		require.NoError(t, again.UnmarshalText([]byte(got.String())), got.String())
		assert.Equal(t, want, again)
	}
	for _, text := range []string{"tasks", "a.b.c", ".tasks", "public.", `"public.tasks`, `"public"x.tasks`, `"".tasks`, `"public".`} {
		var got Table
		assert.Error(t, got.UnmarshalText([]byte(text)), text)
	}
}
