package settings_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/settings"
)

func TestSupabaseHint(t *testing.T) {
	t.Parallel()
	hint := func(values map[string]string) string {
		return settings.SupabaseHint(func(name string) (string, bool) { v, ok := values[name]; return v, ok })
	}
	assert.Empty(t, hint(map[string]string{"DATABASE_URL": "postgres://localhost/a", "NEXT_PUBLIC_SUPABASE_URL": ""}))
	cloud := hint(map[string]string{"NEXT_PUBLIC_SUPABASE_URL": "https://abcdef.supabase.co"})
	assert.Contains(t, cloud, "NEXT_PUBLIC_SUPABASE_URL is the address")
	assert.Contains(t, cloud, "https://supabase.com/dashboard/project/abcdef, click Connect, choose Session pooler")
	assert.Contains(t, hint(map[string]string{"SUPABASE_URL": "http://127.0.0.1:54321"}), "in the Supabase dashboard")
}
