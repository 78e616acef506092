package receiver

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/alert"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
)

var root = filepath.Join("..", "..", "..")

// variables are those that the examples name.
func variables(name string) (string, bool) {
	values := map[string]string{
		"FEISHU_URL": "https://open.feishu.cn/open-apis/bot/v2/hook/x", "FEISHU_SECRET": "s", "DINGTALK_URL": "https://oapi.dingtalk.com/robot/send?access_token=x",
		"DINGTALK_SECRET": "SECx", "WECOM_URL": "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=x", "SLACK_URL": "https://hooks.slack.com/services/x",
		"PAGER_URL": "https://pager.example/x", "PAGER_SECRET": secrets[JSON], "PAGER_PROXY": "http://u:p@127.0.0.1:1", "ALERT_PROXY_URL": "http://u:p@127.0.0.1:1",
		"NO_URL": "open.feishu.cn", "SHORT_SECRET": "whsec_AAAA",
	}
	v, ok := values[name]
	return v, ok
}

// The examples of the documents can be used as they are.
func TestParse_Examples(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "docs", "alerts.md"))
	require.NoError(t, err)
	examples := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	require.Len(t, examples, len(Kinds()))
	var all []Config
	for _, example := range examples {
		found, faults := Parse([]byte(example[1]), variables)
		require.Empty(t, faults, example[1])
		require.Len(t, found, 1)
		all = append(all, found...)
	}
	for i, kind := range []Kind{Feishu, DingTalk, WeCom, Slack, JSON} {
		assert.Equal(t, kind, all[i].Kind)
	}
	assert.Equal(t, lang.ZH, all[1].Lang)
	assert.Equal(t, 2*time.Hour, all[1].Repeat)
	assert.Equal(t, []finding.Severity{finding.Error}, all[2].Severities)
	assert.Equal(t, "http://127.0.0.1:7890", all[3].Proxy)
	assert.Equal(t, lang.EN, all[4].Lang)
	assert.Equal(t, "http://u:p@127.0.0.1:1", all[4].Proxy)
	assert.Len(t, all[4].Codes, 3)

	example, err := os.ReadFile(filepath.Join(root, "imagetasks.example.toml"))
	require.NoError(t, err)
	_, commented, _ := strings.Cut(string(example), "#[[alert]]")
	part := regexp.MustCompile(`(?m)^#`).ReplaceAllString("#[[alert]]"+commented, "")
	found, faults := Parse([]byte(part), variables)
	require.Empty(t, faults)
	require.Len(t, found, 1)
	assert.Equal(t, DingTalk, found[0].Kind)
	for _, k := range keySetters() {
		assert.Regexp(t, `(?m)^#*`+k.name+` = `, part, "every key is shown")
	}
}

// The document lists each code under its severity.
func TestDocument_Codes(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "docs", "alerts.md"))
	require.NoError(t, err)
	rows := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(error|warning|info)`.*$").FindAllStringSubmatch(string(text), -1) {
		rows[row[1]] = row[0]
	}
	require.Len(t, rows, 3)
	for _, codes := range [][]finding.Code{alert.HostCodes(), alert.InstallationCodes(), alert.EventCodes(), {finding.DatabaseUnavailable}} {
		for _, code := range codes {
			switch code {
			case finding.StoppedWithDueTasks, finding.ClaimingPaused, finding.NotSupervised, finding.MonitorOverdue:
				assert.Contains(t, string(text), "`"+string(code)+"`")
			default:
				assert.Contains(t, rows[string(code.Severity())], "`"+string(code)+"`", code)
			}
		}
	}
}

func TestParse_Faults(t *testing.T) {
	t.Parallel()
	least := "[[alert]]\nname = \"ops\"\nurl_env = \"FEISHU_URL\"\n"
	for text, want := range map[string]string{
		"[[alert]\n":                       "line 2 is not valid TOML",
		"[[alerts]]\nname = \"a\"\n":       "unknown part [[alerts]]; did you mean [[alert]]?",
		"[alert]\nname = \"a\"\n":          "a part of its own with two brackets",
		"[[alert]]\n":                      "alert 1: name: it is missing",
		least + least:                      "another receiver has this name",
		least + "urls = 1\n":               `alert "ops": urls: there is no such key`,
		least + "url = \"https://x/y\"\n":  "it is secret and must not be in this file",
		least + "type = \"teams\"\n":       `must be "feishu"`,
		least + "secret_env = \"NO\"\n":    "the environment variable NO is not set",
		least + "proxy = \"http://a:b@c\"": "must not be in this file",
		least + "lang = \"fr\"\n":          `must be "en" or "zh"`,
		least + "codes = [\"oops\"]\n":     `"oops" is no code of a problem`,
		least + "severities = [\"bad\"]\n": `must be a list of "error"`,
		least + "repeat = \"5s\"\n":        `must be a time from "1m"`,
		"[[alert]]\nname = \"alert_webhook_url\"\nurl_env = \"FEISHU_URL\"\n":                                  "belongs to the receiver of ALERT_WEBHOOK_URL",
		"[[alert]]\nname = \"a\"\nurl_env = \"https://hooks.slack.com/secret\"\n":                              "must be the name of the environment variable",
		"[[alert]]\nname = \"a\"\nurl_env = \"NO_URL\"\n":                                                      "must be an http or https URL",
		"[[alert]]\nname = \"a\"\nurl_env = \"WECOM_URL\"\nsecret_env = \"FEISHU_SECRET\"\n":                   "signs nothing",
		"[[alert]]\nname = \"a\"\nurl_env = \"PAGER_URL\"\nsecret_env = \"SHORT_SECRET\"\n":                    "must be whsec_",
		"[[alert]]\nname = \"a\"\nurl_env = \"PAGER_URL\"\nproxy = \"off\"\nproxy_env = \"ALERT_PROXY_URL\"\n": "can't be combined",
	} {
		_, faults := Parse([]byte(text), variables)
		require.NotEmpty(t, faults, text)
		var all []string
		for _, err := range faults {
			all = append(all, err.Error())
			assert.NotContains(t, err.Error(), "hooks.slack.com")
			assert.NotContains(t, err.Error(), "whsec_AAAA")
		}
		assert.Contains(t, strings.Join(all, "\n"), want, text)
	}
	found, faults := Parse([]byte("[[endpoint]]\nname = \"x\"\n"), variables)
	assert.Empty(t, found)
	assert.Empty(t, faults)
}
