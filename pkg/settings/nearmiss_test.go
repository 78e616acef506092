package settings_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/settings"
)

func TestNearMisses(t *testing.T) {
	for name, want := range map[string]string{
		"STUCK_AFTR": "STUCK_AFTER", "stuck_after": "STUCK_AFTER", "STUCKAFTER": "STUCK_AFTER", "OPENAI_PROXY_URL": "OPENAI_PROXY",
		"OPENAI_APIKEY": "OPENAI_API_KEY", "DATABASE_URI": "DATABASE_URL", "TASK_LEASES": "TASK_LEASE", "OPEN_AI_PROXY": "OPENAI_PROXY",
		"LOG_LEVLE": "LOG_LEVEL", //nolint:misspell // that is the point
	} {
		assert.Equal(t, []settings.NearMiss{{Name: name, Setting: want}}, settings.NearMisses(map[string]string{name: "x"}), name)
	}
	others := map[string]string{}
	for _, name := range []string{"NEXT_PUBLIC_SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "TUZI_API_KEY", "TUZI_BASE_URL", "TASK_PROCESS_SECRET_KEY",
		"NEXT_PUBLIC_SITE_URL", "FTP_PROXY", "NODE_ENV", "PORT", "https_proxy", "DIRECT_URL", "LOG_FILE", "IMAGE_SIZE", "STUCK_AFTER", "PATH", "TZ"} {
		others[name] = "x"
	}
	assert.Empty(t, settings.NearMisses(others))
	assert.Empty(t, settings.NearMisses(map[string]string{"DATABASE_URI": "x", "DATABASE_URL": "y"}), "the setting is there as well")
}
