package settings

import (
	"fmt"
	"net/url"
	"strings"
)

// SupabaseHint returns what to do where the database URL is missing and the application is one on Supabase, whose variables name only the address
// of its API; "" where none of them is set.
func SupabaseHint(lookup func(name string) (string, bool)) string {
	for _, name := range []string{"NEXT_PUBLIC_SUPABASE_URL", "SUPABASE_URL"} {
		value, ok := lookup(name)
		if !ok || value == "" {
			continue
		}
		where := "in the Supabase dashboard of the project"
		if u, err := url.Parse(value); err == nil {
			if project, cloud := strings.CutSuffix(u.Hostname(), ".supabase.co"); cloud {
				where = "at https://supabase.com/dashboard/project/" + project
			}
		}
		return fmt.Sprintf("not set; %s is the address of Supabase's API, which does not lead to the database: %s, click Connect, "+
			"choose Session pooler, copy the connection string into DATABASE_URL and put the database password in it", name, where)
	}
	return ""
}
