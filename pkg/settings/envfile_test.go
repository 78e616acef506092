package settings_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/settings"
)

func TestReadEnvFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), ".env")
	require.NoError(t, os.WriteFile(path, []byte("# comment\nexport A=1\nB='x $y # z'\nC=\"two\\nlines\"\n\nD=\n"), 0o600))
	values, err := settings.ReadEnvFile(path)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"A": "1", "B": "x $y # z", "C": "two\nlines", "D": ""}, values)

	_, err = settings.ReadEnvFile(path + ".missing")
	assert.True(t, settings.IsMissing(err))
}

func TestParseEnv_AcceptedForms(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"\ufeffA=1\nB=2\n":                       {"A": "1", "B": "2"},
		"A=1\r\nB='x'\r\n\r\n# c\r\n":            {"A": "1", "B": "x"},
		"  A = 1 # comment\n\tB=x#y":             {"A": "1", "B": "x#y"},
		"A='one\ntwo'\nB=\"three\nfour\" # c\n":  {"A": "one\ntwo", "B": "three\nfour"},
		"export\tA=1\nexport=2\n":                {"A": "1", "export": "2"},
		"A=http://u:p@h:1/?x=y:z\n":              {"A": "http://u:p@h:1/?x=y:z"},
		"A=1\nB=${A}2\n":                         {"A": "1", "B": "12"},
		`A="a \"b\" c"` + "\n":                   {"A": `a "b" c`},
		"A=\n\nB=1\n":                            {"A": "", "B": "1"},
		"":                                       {},
		"# only\n   \n":                          {},
		"npm.config=1\n":                         {"npm.config": "1"},
		"A=\u4e2d\u6587\nB='\uff1d'\n# \uff1d\n": {"A": "\u4e2d\u6587", "B": "\uff1d"},
	} {
		values, err := settings.ParseEnv([]byte(text))
		require.NoError(t, err, "%q", text)
		assert.Equal(t, want, values, "%q", text)
	}
}

func TestParseEnv_RefusesByLineNumber(t *testing.T) {
	for text, want := range map[string]string{
		"A=1\nB='\nx'\nhunter2 hunter2\nC=2\n":    "line 4 is not NAME=value",
		"A=1\nOPENAI_PROXY http://hunter2@h:1\n":  "line 2 is not NAME=value",
		"OPENAI_PROXY\uff1dhttp://hunter2@h:1\n":  "line 1 is not NAME=value",
		"A=1\r\n\r\nOPENAI_PROXY: http://h:1\r\n": "line 3 is not NAME=value",
		"OPENAI PROXY=http://hunter2\n":           "line 1 is not NAME=value",
		"OPENAI_PROXY\nB=1\n":                     "line 1 is not NAME=value",
		"export OPENAI_PROXY\nB=1\n":              "line 1 is not NAME=value",
		"=hunter2\n":                              "line 1 is not NAME=value",
		"1A=x\n":                                  "line 1 is not NAME=value",
		"A-B=x\n":                                 "line 1 is not NAME=value",
		"\u540d=x\n":                              "line 1 is not NAME=value",
		"A=1\nB='hunter2\nC=3\n":                  "line 2 has a quote that is not closed",
		"A='x'y\n":                                "line 1 has text after the closing quote",
		"A='x\ny' B=2\n":                          "line 2 has text after the closing quote",
		"\ufeff\n\nA: 1\n":                        "line 3 is not NAME=value",
		"A=1\x00":                                 "not a text file",
		strings.Repeat("A=1\n", 1<<16):            "larger than 65536 bytes",
	} {
		values, err := settings.ParseEnv([]byte(text))
		assert.EqualError(t, err, want, "%.80q", text)
		assert.Nil(t, values)
	}
}

func FuzzParseEnv(f *testing.F) {
	f.Add([]byte("A=1\nexport B=\"${A}\"\n"))
	f.Add([]byte("A='unterminated\n"))
	f.Add([]byte("\xff=\\"))
	f.Add([]byte("export ="))
	f.Add([]byte("A=\u00a0'x\r\ny'\r\n\ufeffB=1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		values, err := settings.ParseEnv(text)
		if err != nil {
			assert.Nil(t, values)
			assert.Regexp(t, `^(line \d+ (is not NAME=value|has a quote that is not closed|has text after the closing quote)|not a text file|larger than \d+ bytes)$`, err.Error())
		}
		for name := range values {
			assert.Regexp(t, `^[A-Za-z_][A-Za-z0-9_.]*$`, name)
		}
	})
}
