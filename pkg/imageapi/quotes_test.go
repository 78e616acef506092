package imageapi

import (
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The API may quote the prompt in part, and with the escapes of whatever it passed.
func TestGenerate_HidesQuotationsOfThePrompt(t *testing.T) {
	const prompt = "A portrait of Zoë O'Brien & her \"dog\" <Rex>\nin the café on 5th Avenue, 黑猫和白狗在月光下跳舞，油画风格"
	inJSON := mustJSON(t, prompt)
	for name, quoted := range map[string]string{
		"plain": prompt, "JSON": inJSON, "JSON in JSON": mustJSON(t, inJSON), "HTML": html.EscapeString(prompt),
		"query": url.QueryEscape(prompt), "path": url.PathEscape(prompt), "Go": fmt.Sprintf("%q", prompt), "ASCII": fmt.Sprintf("%+q", prompt),
		"bytes": strings.NewReplacer("ë", `\xc3\xab`, "é", `\xc3\xa9`).Replace(prompt[:70]),
		"upper": strings.ToUpper(prompt), "lower": strings.ToLower(prompt), "decomposed": strings.NewReplacer("ë", "e\u0308", "é", "e\u0301").Replace(prompt),
		"middle": "Rex in the café on 5th Avenue", "middle, Chinese": "白狗在月光下跳舞", "end": "月光下跳舞，油画风格",
		"spaces": strings.ReplaceAll(prompt, " ", "\t  "), "typographic": strings.NewReplacer("'", "’", "\"", "”").Replace(prompt),
		"full width": "５ｔｈ Ａｖｅｎｕｅ, 黑猫和白狗",
	} {
		c := sampleClient(t, sample{400, nil, `{"error":{"message":` + mustJSON(t, "Refused: "+quoted+" - see the terms") + `,"code":"x"}}`}.response)
		_, err := c.Generate(t.Context(), Request{Prompt: prompt}, io.Discard)
		require.Error(t, err)
		assert.Contains(t, err.Error(), "Refused: ", name)
		assert.Contains(t, err.Error(), "see the terms", name)
		for _, private := range []string{"portrait", "PORTRAIT", "Zo", "Brien", "BRIEN", "Rex", "REX", "5th", "５", "Avenue", "AVENUE", "猫", "白狗", "月光", "%B", `\u`} {
			assert.NotContains(t, err.Error(), private, "%s: %s", name, quoted)
		}
	}
}

// Words of the API that a prompt happens to have are shown, and short prompts are not replaced within words.
func TestHide_LeavesOtherWords(t *testing.T) {
	for prompt, text := range map[string]string{
		"A cat that looks at the picture": "the picture of a cat is too large",
		"Red cat":                         "shared cattle",
		"画一只猫":                            "模型画一张图失败",
		"":                                "nothing",
	} {
		assert.Equal(t, text, hide(text, []string{prompt}), prompt)
	}
	assert.Equal(t, `"[prompt]" is refused`, hide(`"A RED CAT" is refused`, []string{"a red cat"}))
}

func TestHide_IsBounded(t *testing.T) {
	began := time.Now()
	for _, prompt := range []string{strings.Repeat("a", 32<<10), strings.Repeat("ab", 16<<10) + "c", strings.Repeat("猫", 8<<10)} {
		for _, text := range []string{strings.Repeat("a", 64<<10), strings.Repeat("ab", 32<<10), strings.Repeat("aaaaab", 10<<10), strings.Repeat("%E7%8C%AB", 7<<10)} {
			assert.LessOrEqual(t, len(hide(text, []string{prompt})), len(text))
		}
	}
	assert.Less(t, time.Since(began), 10*time.Second)
}

// An error of the API reaches logs, terminals and pages.
func TestGenerate_ErrorHasNoControlCharacters(t *testing.T) {
	c := sampleClient(t, sample{400, nil, `{"error":{"message":` + mustJSON(t, "a\x1b[31mred\x07 \x00 \u202eabc\u2066 \u009b31m\r\nb") + `,"code":"x"}}`}.response)
	_, err := c.Generate(t.Context(), Request{Prompt: "x"}, io.Discard)
	assert.EqualError(t, err, "the API refused the request (400): a?[31mred? ? ?abc? ?31m b")
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}
