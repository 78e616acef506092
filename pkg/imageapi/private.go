package imageapi

import (
	"net/http"
	"strings"

	"imagetasks/pkg/pattern"
	"imagetasks/pkg/redact"
)

const promptMask = "[prompt]"

// hide removes the private texts of a request from a text of the API, also pieces of them, and with other escapes, cases and spaces.
func hide(text string, private []string) string {
	for _, p := range private {
		text = redact.Prompt(text, p)
		q := newQuotes(p)
		parts := strings.Split(text, promptMask) // our own mask is left alone
		for i := range parts {
			parts[i] = q.hide(parts[i])
		}
		text = strings.Join(parts, promptMask)
		for strings.Contains(text, promptMask+promptMask) {
			text = strings.ReplaceAll(text, promptMask+promptMask, promptMask)
		}
	}
	return text
}

// longest returns the largest length that a private text may have in an answer, in bytes.
func longest(private []string) int {
	n := 0
	for _, p := range private {
		n = max(n, 6*len(p))
	}
	return n
}

// echo matches the fields of an answer that hold the prompt, or what the API made of it.
var echo = pattern.New(`("(?:revised_|actual_|original_|negative_)?prompt"\s*:\s*)"(?:[^"\\]|\\.)*"?`)

// hideHead removes what is private from the beginning of an answer and cuts it to maxHead.
func (c *Client) hideHead(response *http.Response, head []byte, private []string) []byte {
	text := echo().ReplaceAllString(hide(string(head), private), `$1"[prompt]"`)
	text = c.withoutSecrets(response, text)
	return []byte(text[:min(len(text), maxHead)])
}
