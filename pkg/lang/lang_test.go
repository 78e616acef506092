package lang_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/lang"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]lang.Lang{"zh": lang.ZH, "zh_CN.UTF-8": lang.ZH, "zh-Hans": lang.ZH, "ZH": lang.ZH, "en": lang.EN, "en_US.UTF-8": lang.EN} {
		got, err := lang.Parse(text)
		assert.NoError(t, err)
		assert.Equal(t, want, got, text)
	}
	_, err := lang.Parse("fr")
	assert.ErrorContains(t, err, `"fr"`)
}

func TestFromEnvironment_Order(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want lang.Lang
	}{
		{nil, lang.EN},
		{map[string]string{"LANG": "zh_CN.UTF-8"}, lang.ZH},
		{map[string]string{"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, lang.EN},
		{map[string]string{"LANG": "en_US", "LC_MESSAGES": "zh_TW"}, lang.ZH},
		{map[string]string{"LANG": "de_DE"}, lang.EN},
		{map[string]string{"LANG": "zh_CN", "LC_ALL": ""}, lang.ZH},
	} {
		got := lang.FromEnvironment(func(name string) (string, bool) { v, ok := c.env[name]; return v, ok })
		assert.Equal(t, c.want, got, c.env)
	}
}

func TestText_In(t *testing.T) {
	text := lang.Text{EN: "%d tasks at 100%%", One: "%d task at 100%%", ZH: "%d 个任务，100%%"}
	assert.Equal(t, "3 tasks at 100%", text.In(lang.EN, 3))
	assert.Equal(t, "1 task at 100%", text.In(lang.EN, 1))
	assert.Equal(t, "0 tasks at 100%", text.In(lang.EN, 0))
	assert.Equal(t, "1 个任务，100%", text.In(lang.ZH, 1))
	assert.Equal(t, "unchanged: 100%", lang.Text{EN: "unchanged: 100%"}.In(lang.ZH))
}

func TestMessage_RendersItsArgumentsInTheSameLanguage(t *testing.T) {
	inner := lang.NewMessage(lang.Text{EN: "%d tasks", One: "%d task", ZH: "%d 个任务"}, 1)
	m := lang.NewMessage(lang.Text{EN: "%s, %s ago", ZH: "%s，%s前"}, inner, 11*time.Second)
	assert.Equal(t, "1 task, 11s ago", m.In(lang.EN))
	assert.Equal(t, "1 个任务，11 秒前", m.In(lang.ZH))
	assert.False(t, m.IsZero())
	assert.True(t, lang.Message{}.IsZero())
	text, err := json.Marshal(m)
	assert.NoError(t, err)
	assert.Equal(t, `"1 task, 11s ago"`, string(text))
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration][2]string{
		0:                             {"0s", "0 秒"},
		1234567 * time.Nanosecond:     {"1ms", "1 毫秒"},
		2113 * time.Millisecond:       {"2.11s", "2.11 秒"},
		11400 * time.Millisecond:      {"11s", "11 秒"},
		190 * time.Second:             {"3m10s", "3 分 10 秒"},
		20 * time.Minute:              {"20m", "20 分"},
		2 * time.Hour:                 {"2h", "2 小时"},
		2*time.Hour + 5*time.Second:   {"2h0m5s", "2 小时 5 秒"},
		25*time.Hour + 30*time.Minute: {"25h30m", "25 小时 30 分"},
	} {
		assert.Equal(t, want[0], lang.Duration(d, lang.EN))
		assert.Equal(t, want[1], lang.Duration(d, lang.ZH))
	}
}
