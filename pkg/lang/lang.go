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

// Message is a text with what fills it in, for those who learn the language later. As JSON it is the English text.
type Message struct {
	text Text
	args []any
}

// NewMessage keeps a text. Arguments that are a Said themselves are said in the same language.
func NewMessage(text Text, args ...any) Message { return Message{text, args} }

// In returns the text in a language.
func (s Message) In(l Lang) string {
	args := make([]any, len(s.args))
	for i, a := range s.args {
		if said, ok := a.(Message); ok {
			a = said.In(l)
		}
		args[i] = a
	}
	return s.text.In(l, args...)
}

// String returns the English text.
func (s Message) String() string { return s.In(EN) }

// IsZero reports whether nothing was said.
func (s Message) IsZero() bool { return s.text == Text{} }

// MarshalText implements encoding.TextMarshaler.
func (s Message) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler: the text is the same in every language then.
func (s *Message) UnmarshalText(text []byte) error {
	*s = Message{text: Text{EN: "%s"}, args: []any{string(text)}}
	return nil
}

// Pad fills a text up to a width in columns of a terminal, where a Chinese character takes two.
func Pad(text string, width int) string {
	for _, r := range text {
		width--
		if r > 0x2e80 {
			width--
		}
	}
	return text + strings.Repeat(" ", max(width, 0))
}
