package crontab

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestParse(t *testing.T) {
	at := time.Date(2026, 11, 24, 15, 31, 27, 0, time.UTC)
	block := "# BEGIN imagetasks /srv/a b\n# Installed 2026-11-24T15:31:27Z\n*/5 * * * * x\n# END imagetasks /srv/a b\n"
	for name, c := range map[string]struct {
		text, project string
		want          State
	}{
		"empty":                    {"", "/srv/a b", State{Status: NotInstalled}},
		"installed":                {"1 * * * * mail\n" + block, "/srv/a b", State{Status: Installed, InstalledAt: at}},
		"another project":          {block, "/srv/a", State{Status: NotInstalled}},
		"without the time":         {"# BEGIN imagetasks /p\n# END imagetasks /p\n", "/p", State{Status: Installed}},
		"unreadable time":          {"# BEGIN imagetasks /p\n# Installed yesterday\n# END imagetasks /p\n", "/p", State{Status: Installed}},
		"time of another project":  {block + "# BEGIN imagetasks /p\n# END imagetasks /p\n", "/p", State{Status: Installed}},
		"time outside of a block":  {"# Installed 2026-11-24T15:31:27Z\n# BEGIN imagetasks /p\n# END imagetasks /p\n", "/p", State{Status: Installed}},
		"begin as part of a line":  {"x # BEGIN imagetasks /p\n", "/p", State{Status: NotInstalled}},
		"crontab without new line": {"# BEGIN imagetasks /p\n# Installed 2026-11-24T15:31:27Z", "/p", State{Status: Installed, InstalledAt: at}},
	} {
		assert.Equal(t, c.want, parse([]byte(c.text), c.project), name)
	}
}
