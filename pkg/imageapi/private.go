package imageapi

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"

	"imagetasks/pkg/redact"
)

// hide removes the private texts of a request from a text of the API, also where the API has cut them or written them with escapes.
func hide(text string, private []string) string {
	for _, p := range private {
		text = redact.Prompt(text, p)
		text = hideBeginnings(text, p, strings.Join(strings.Fields(p), " "), escaped(p, "%04x"), escaped(p, "%04X"))
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

// leastQuote is how much of a private text's beginning is recognized where the rest is missing, in bytes.
const leastQuote = 16

// hideBeginnings replaces what is equal to the beginning of one of the forms of a private text, as far as it is equal. The time is linear in the
// text's length, unless it consists of such beginnings only.
func hideBeginnings(text string, forms ...string) string {
	next := make([]int, len(forms)) // where each form begins next
	find := func(i, from int) {
		next[i] = len(text)
		if len(forms[i]) >= leastQuote {
			if at := strings.Index(text[from:], forms[i][:leastQuote]); at >= 0 {
				next[i] = from + at
			}
		}
	}
	for i := range forms {
		find(i, 0)
	}
	var b strings.Builder
	for from := 0; ; {
		first := slices.Min(next)
		b.WriteString(text[from:first])
		if first == len(text) {
			return b.String()
		}
		length := 0
		for i, form := range forms {
			if next[i] == first {
				length = max(length, sharedBeginning(form, text[first:]))
			}
		}
		b.WriteString("[prompt]")
		from = first + length
		for i := range forms {
			if next[i] < from {
				find(i, from)
			}
		}
	}
}

func sharedBeginning(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// escaped returns a text as JSON in ASCII, with numbers in that format.
func escaped(text, format string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r >= ' ' && r < 0x7f:
			b.WriteRune(r)
		default:
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&b, `\u`+format, unit)
			}
		}
	}
	return b.String()
}

// echo matches the fields of an answer that hold the prompt, or what the API made of it.
var echo = regexp.MustCompile(`("(?:revised_|actual_|original_|negative_)?prompt"\s*:\s*)"(?:[^"\\]|\\.)*"?`)

// hideHead removes what is private from the beginning of an answer and cuts it to maxHead.
func (c *Client) hideHead(response *http.Response, head []byte, private []string) []byte {
	text := echo.ReplaceAllString(hide(string(head), private), `$1"[prompt]"`)
	text = c.withoutSecrets(response, text)
	return []byte(text[:min(len(text), maxHead)])
}
