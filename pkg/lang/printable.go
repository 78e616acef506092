package lang

import (
	"regexp"
	"strings"
	"unicode"
)

// unprintable finds what a terminal does instead of showing it, and colors, which are kept.
var unprintable = regexp.MustCompile(`\x1b\[[0-9;]*m|[\p{Cc}\x{61c}\x{200e}\x{200f}\x{202a}-\x{202e}\x{2066}-\x{2069}]`)

// Printable returns a text without characters that control a terminal or change the order of the text around them: names of models and messages come
// from users and from other hosts. Line breaks, tabs and colors are kept.
func Printable(text string) string {
	return unprintable.ReplaceAllStringFunc(text, func(found string) string {
		if found == "\n" || found == "\t" || len(found) > 2 && strings.HasPrefix(found, "\x1b[") {
			return found
		}
		return string(unicode.ReplacementChar)
	})
}
