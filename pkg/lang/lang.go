// Package lang renders texts for operators in English or Chinese. Services return codes and arguments; the command line
// turns them into text here, in the language of the reader.
package lang

import (
	"fmt"
	"strings"
	"time"
)

// Lang is a language.
type Lang string

// The supported languages.
const (
	EN Lang = "en"
	ZH Lang = "zh"
)

// Parse parses a language in the forms that people write: en, zh, zh_CN.UTF-8.
func Parse(text string) (Lang, error) {
	switch tag, _, _ := strings.Cut(strings.ToLower(strings.ReplaceAll(text, "-", "_")), "_"); tag {
	case "zh", "chinese":
		return ZH, nil
	case "en", "english":
		return EN, nil
	}
	return EN, fmt.Errorf("unknown language %q; use en or zh", text)
}

// FromEnvironment returns the language that LC_ALL, LC_MESSAGES or LANG selects, in this order (POSIX.1-2017, section
// 8.2). A language that is not supported selects English.
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

// Text is a format string in each language, for the same arguments in the same order.
type Text struct {
	EN string
	ZH string // empty: EN is used in both languages
	// One replaces EN when the first argument is 1, an int or int64: "%d task is stuck" instead of "%d tasks are stuck".
	One string
}

// In returns the text in a language, formatted as by fmt.Sprintf. Arguments that are a Message or a time.Duration are
// rendered in the same language.
func (t Text) In(l Lang, args ...any) string {
	format := t.EN
	switch {
	case l == ZH && t.ZH != "":
		format = t.ZH
	case t.One != "" && len(args) > 0 && (args[0] == 1 || args[0] == int64(1)):
		format = t.One
	}
	if len(args) == 0 {
		return format
	}
	rendered := make([]any, len(args))
	for i, arg := range args {
		switch arg := arg.(type) {
		case Message:
			rendered[i] = arg.In(l)
		case time.Duration:
			rendered[i] = Duration(arg, l)
		default:
			rendered[i] = arg
		}
	}
	return fmt.Sprintf(format, rendered...)
}

// Message is a text with its arguments, to be rendered once the reader's language is known.
type Message struct {
	text Text
	args []any
}

// NewMessage returns a message.
func NewMessage(text Text, args ...any) Message { return Message{text, args} }

// In returns the message in a language.
func (m Message) In(l Lang) string { return m.text.In(l, m.args...) }

// String returns the message in English.
func (m Message) String() string { return m.In(EN) }

// IsZero reports whether the message is empty.
func (m Message) IsZero() bool { return m.text == Text{} }

// MarshalText implements encoding.TextMarshaler: documents are in English.
func (m Message) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// Duration returns a duration as people read it: 1.5s, 11s, 3m10s; 1.5 秒, 11 秒, 3 分 10 秒. It is rounded to what matters at
// its size.
func Duration(d time.Duration, l Lang) string {
	switch {
	case d < time.Second:
		d = d.Round(time.Millisecond)
	case d < 10*time.Second:
		d = d.Round(10 * time.Millisecond)
	default:
		d = d.Round(time.Second)
	}
	if l != ZH {
		return trimZeros(d.String())
	}
	if d > 0 && d < time.Second {
		return fmt.Sprintf("%d 毫秒", d.Milliseconds())
	}
	var parts []string
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{time.Hour, "小时"}, {time.Minute, "分"}} {
		if n := d / unit.size; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, unit.name))
			d %= unit.size
		}
	}
	if d > 0 || len(parts) == 0 {
		parts = append(parts, fmt.Sprintf("%g 秒", d.Seconds()))
	}
	return strings.Join(parts, " ")
}

// trimZeros turns 20m0s into 20m, and 2h0m0s into 2h.
func trimZeros(s string) string {
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Width returns the terminal columns that a text takes; a Chinese character takes two.
func Width(text string) int {
	width := 0
	for _, r := range text {
		width++
		if r > 0x2e80 {
			width++
		}
	}
	return width
}

// Pad pads a text with spaces to a width in terminal columns.
func Pad(text string, width int) string {
	return text + strings.Repeat(" ", max(width-Width(text), 0))
}
