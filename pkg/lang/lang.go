// Package lang says things to operators in their language, English or Chinese.
package lang

import (
	"fmt"
	"strings"
)

// Lang is a language.
type Lang string

// The languages.
const (
	EN Lang = "en"
	ZH Lang = "zh"
)

// Parse reads a language as people write it: en, zh, zh_CN.UTF-8.
func Parse(text string) (Lang, error) {
	switch tag, _, _ := strings.Cut(strings.ToLower(strings.ReplaceAll(text, "-", "_")), "_"); tag {
	case "zh", "chinese":
		return ZH, nil
	case "en", "english":
		return EN, nil
	}
	return EN, fmt.Errorf("unknown language %q; there are en and zh", text)
}

// FromEnvironment returns the language that LC_ALL, LC_MESSAGES and LANG ask for, in this order
// (POSIX.1-2017, section 8.2); English where they ask for none of ours.
func FromEnvironment(lookup func(string) (string, bool)) Lang {
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if v, ok := lookup(name); ok && v != "" {
			if l, err := Parse(v); err == nil {
				return l
			}
			return EN
		}
	}
	return EN
}

// Text is one thing to say, in each language.
type Text struct{ EN, ZH string }

// In returns the text in a language, with its verbs filled in as by fmt.Sprintf.
func (t Text) In(l Lang, args ...any) string {
	format := t.EN
	if l == ZH && t.ZH != "" {
		format = t.ZH
	}
	if len(args) == 0 {
		return format
	}
	return fmt.Sprintf(format, args...)
}
