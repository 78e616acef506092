package receiver

import (
	"strings"
	"unicode/utf8"

	"imagetasks/pkg/alert"
	"imagetasks/pkg/lang"
)

// cut cuts a text to n characters.
func cut(text string, n int) string {
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	return string([]rune(text)[:n-1]) + "…"
}

// cutBytes cuts a text to n bytes, at the end of a character.
func cutBytes(text string, n int) string {
	if len(text) <= n {
		return text
	}
	const dots = "…"
	end := n - len(dots)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + dots
}

// maxLine bounds a line about an item, in characters: a reason may be long.
const maxLine = 600

// style is how a service writes texts.
type style struct {
	escape  func(string) string
	heading func(string) string // of what is escaped
	code    func(string) string // of what is not escaped
	newline string
}

// block returns the text of an item.
func (s style) block(i alert.Item, m alert.Message, l lang.Lang) string {
	lines := []string{s.heading(s.escape(i.Heading(l)))}
	for _, line := range i.Lines(m, l) {
		text := cut(oneLine(line.Text), maxLine)
		if line.Code {
			text = s.code(text)
		} else {
			text = s.escape(text)
		}
		if line.Label != "" {
			text = s.escape(line.Label) + textColon.In(l) + text
		}
		lines = append(lines, text)
	}
	return strings.Join(lines, s.newline)
}

// blocks returns the texts of the items whose length together, with the separators, is at most limit bytes. The last one says how many are left out.
func (s style) blocks(m alert.Message, l lang.Lang, limit int, separator string) []string {
	if len(m.Items) == 0 {
		return []string{s.escape(alert.TestLine(l))}
	}
	const reserve = 100 // for the number of those that are left out
	var out []string
	used := 0
	for n, i := range m.Items {
		text := s.block(i, m, l)
		if n == 0 {
			text = cutBytes(text, limit-reserve)
		}
		if used+len(text)+len(separator) > limit-reserve && n > 0 {
			return append(out, s.escape(textMore.In(l, len(m.Items)-n)))
		}
		used += len(text) + len(separator)
		out = append(out, text)
	}
	return out
}

// oneLine joins the lines of a text.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

func plain(text string) string { return text }

// escapeMarkdown makes a text stand as it is in the markdown of DingTalk and WeCom. Neither documents escapes: characters that could begin a link, an
// image, a mention, a quotation or a tag become their full-width forms.
func escapeMarkdown(text string) string { return markdown().Replace(text) }

func markdown() *strings.Replacer {
	return strings.NewReplacer("[", "［", "]", "］", "<", "＜", ">", "＞", "`", "'", "*", "＊", "_", "＿", "#", "＃", "!", "！", "~", "～", "\\", "＼", "@", "＠", "|", "｜")
}

// markdownCode returns a text as code. A name in it that could begin a link or a mention is changed as in other texts: nobody gives an endpoint such a
// name.
func markdownCode(text string) string {
	if strings.ContainsAny(text, "[]<>!@`") {
		text = escapeMarkdown(text)
	}
	return "`" + text + "`"
}

var (
	textColon = lang.Text{EN: ": ", ZH: "："}
	textMore  = lang.Text{EN: "… and %d more; see task-processor status", ZH: "……另有 %d 项，请运行 task-processor status 查看"}
)
