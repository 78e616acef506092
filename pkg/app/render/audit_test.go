package render

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRuleTitles_CoverEveryAuditRule(t *testing.T) {
	text, err := os.ReadFile("../../store/sql/audit.sql")
	require.NoError(t, err)
	var codes []string
	for _, found := range regexp.MustCompile(`(?m)^-- name: audit: (\S+)$`).FindAllSubmatch(text, -1) {
		codes = append(codes, string(found[1]))
	}
	require.NotEmpty(t, codes)
	assert.Len(t, ruleTitles, len(codes))
	for _, code := range codes {
		title := ruleTitles[code]
		assert.NotEmpty(t, title.EN, code)
		assert.Regexp(t, `\p{Han}`, title.ZH, code)
	}
}
