package usage

import (
	"regexp"
	"slices"
	"strings"

	"imagetasks/pkg/lang"
)

// verb matches the verbs of a format.
var verb = regexp.MustCompile(`%[-+# 0]*[0-9]*[a-zA-Z]`)

// Message returns the text of an error or a warning in a language. Errors come from every layer, PostgreSQL's functions included, and most have only an
// English text: it is recognised here, at the edge, by the formats of the catalog messages. What is not in it stays as it is.
func Message(text string, l lang.Lang) string {
	if l == lang.EN {
		return text
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = translate(line, l)
	}
	return strings.Join(lines, "\n")
}

// Messages returns the texts that Message recognises.
func Messages() []lang.Text { return messages }

func translate(line string, l lang.Lang) string {
	for _, t := range slices.Concat(messages, systemMessages) {
		values := scan(t.EN, line)
		if values == nil {
			continue
		}
		args := make([]any, len(values))
		for i, value := range values {
			args[i] = translate(value, l)
		}
		return lang.Text{EN: t.EN, ZH: verb.ReplaceAllString(t.ZH, "%s")}.In(l, args...)
	}
	for _, divider := range []struct{ en, zh string }{{"; ", "；"}, {"；", "；"}, {": ", "："}, {"：", "："}} {
		left, right, found := strings.Cut(line, divider.en)
		if !found {
			continue
		}
		if newLeft, newRight := translate(left, l), translate(right, l); newLeft != left || newRight != right {
			return newLeft + divider.zh + newRight
		}
	}
	return line
}

// scan returns the values with which a format made a line; nil where it did not.
func scan(format, line string) []string {
	parts := verb.Split(strings.ReplaceAll(format, "%%", "\x00"), -1)
	for i, part := range parts {
		parts[i] = strings.ReplaceAll(part, "\x00", "%")
	}
	rest, found := strings.CutPrefix(line, parts[0])
	if !found {
		return nil
	}
	values := []string{}
	for i, part := range parts[1:] {
		at := strings.Index(rest, part)
		if i == len(parts)-2 { // the last value reaches as far as possible
			at = len(rest) - len(part)
			if !strings.HasSuffix(rest, part) {
				at = -1
			}
		}
		if at <= 0 {
			return nil
		}
		values, rest = append(values, rest[:at]), rest[at+len(part):]
	}
	if rest != "" {
		return nil
	}
	return values
}
