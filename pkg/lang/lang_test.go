package lang_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/lang"
)

func TestLanguagesAsPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]lang.Lang{"zh": lang.ZH, "zh_CN.UTF-8": lang.ZH, "zh-Hans": lang.ZH, "ZH": lang.ZH, "en": lang.EN, "en_US.UTF-8": lang.EN} {
		got, err := lang.Parse(text)
		assert.NoError(t, err)
		assert.Equal(t, want, got, text)
	}
	_, err := lang.Parse("fr")
	assert.ErrorContains(t, err, `"fr"`)
}

func TestTheEnvironmentsOrder(t *testing.T) {
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

func TestATextInEachLanguage(t *testing.T) {
	text := lang.Text{EN: "%d tasks at 100%%", ZH: "%d 个任务，100%%"}
	assert.Equal(t, "3 tasks at 100%", text.In(lang.EN, 3))
	assert.Equal(t, "3 个任务，100%", text.In(lang.ZH, 3))
	assert.Equal(t, "as it is: 100%", lang.Text{EN: "as it is: 100%"}.In(lang.ZH))
}
