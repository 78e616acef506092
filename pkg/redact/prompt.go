package redact

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

const promptMask = "[prompt]"

// Prompt returns s, a text of the API, without the prompt, as it is or JSON-escaped: an API that refuses a prompt often quotes
// it, and prompts are private. A prompt shorter than 8 bytes is replaced only where it is not part of a longer word. Apply it
// to the API's text before that becomes part of a message of ours, so that it can't damage our words.
func Prompt(s, prompt string) string {
	forms := promptForms(prompt)
	var b strings.Builder
next:
	for i := 0; i < len(s); {
		for _, form := range forms {
			if strings.HasPrefix(s[i:], form) && (len(form) >= longWord || isWord(s, i, i+len(form))) {
				b.WriteString(promptMask)
				i += len(form)
				continue next
			}
		}
		b.WriteByte(s[i])
		i++
	}
	return b.String()
}

// promptForms returns the texts that stand for a prompt, the longest first; none for a blank one.
func promptForms(prompt string) []string {
	trimmed := strings.TrimSpace(prompt)
	if trimmed == "" {
		return nil
	}
	forms := []string{prompt}
	for _, escapeHTML := range []bool{true, false} {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(escapeHTML)
		if err := enc.Encode(prompt); err == nil {
			forms = append(forms, strings.Trim(strings.TrimSpace(b.String()), `"`))
		}
	}
	forms = append(forms, trimmed, strings.Join(strings.Fields(prompt), " "))
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) })
	return forms
}
