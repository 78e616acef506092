package usage

import (
	"strings"

	"imagetasks/pkg/lang"
	"imagetasks/pkg/settings"
)

const (
	width  = 80 // terminal columns of help
	column = 26 // where the descriptions begin
)

// HelpText returns the help of the program, or of the command that a line names.
func HelpText(l Line, language lang.Lang) string {
	p := of(l, language)
	var b strings.Builder
	b.WriteString(wrap(p.name+" - "+p.usage, "", "  "))
	b.WriteString("\n" + wrap(textUsage.In(language, p.synopsis), "", "  "))
	if len(p.description) > 0 {
		b.WriteString("\n")
	}
	for _, line := range p.description {
		b.WriteString(wrap(line, "", ""))
	}
	for _, part := range []struct {
		title   lang.Text
		entries []entry
	}{{titleCommands, p.commands}, {titleOptions, p.options}, {titleSettings, p.settings}} {
		if len(part.entries) == 0 {
			continue
		}
		b.WriteString("\n" + part.title.In(language) + "\n")
		for _, e := range part.entries {
			b.WriteString(e.lines())
		}
	}
	if len(p.others) > 0 {
		b.WriteString("\n" + textOthers.In(language) + "\n" + wrap(strings.Join(p.others, " "), "  ", "  "))
	}
	switch {
	case len(p.commands) > 0:
		b.WriteString("\n" + wrap(textMoreCommands.In(language, p.program), "", "  "))
	case len(p.settings) > 0:
		b.WriteString("\n" + wrap(textMoreSettings.In(language, p.program), "", "  "))
	}
	return b.String()
}

// SettingsText returns the help of all settings.
func SettingsText(language lang.Lang) string {
	var b strings.Builder
	b.WriteString(wrap(textAllSettings.In(language), "", ""))
	last := settings.Group("")
	all := settings.List()
	for i, e := range allSettings(language) {
		if group := all[i].Group; group != last {
			last = group
			b.WriteString("\n" + settings.Title(group).In(language) + "\n")
		}
		b.WriteString(e.lines())
	}
	return b.String()
}

// allSettings describes each setting of settings.List.
func allSettings(language lang.Lang) (all []entry) {
	for _, s := range settings.List() {
		label := s.Env
		if s.Flag != "" {
			label += ", --" + s.Flag
		}
		all = append(all, entry{label, settingText(s, language)})
	}
	return all
}

func settingText(s settings.Setting, language lang.Lang) string {
	return lang.Text{EN: s.Usage, ZH: s.UsageZH}.In(language) + defaultText(s.Default, language)
}

// lines returns an entry with its text beside the label, or below a long one.
func (e entry) lines() string {
	margin := strings.Repeat(" ", column)
	label := "  " + e.label
	if lang.Width(label)+2 > column {
		return label + "\n" + wrap(e.text, margin, margin)
	}
	return wrap(e.text, lang.Pad(label, column), margin)
}

// wrap breaks a text into lines of the width of a terminal: between words, and between Chinese characters.
func wrap(text, first, next string) string {
	var b strings.Builder
	line, empty := first, true
	for _, piece := range pieces(text) {
		if !empty && lang.Width(line)+lang.Width(strings.TrimRight(piece, " ")) > width {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line, empty = next, true
		}
		if empty {
			piece = strings.TrimLeft(piece, " ")
		}
		line, empty = line+piece, empty && piece == ""
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
	return b.String()
}

// noLineStart are characters that don't begin a line in Chinese, and noLineEnd those that don't end one.
const (
	noLineStart = "，。；：、？！）》」』”’…%"
	noLineEnd   = "（《「『“‘"
)

// pieces divides a text where a line may end: after a space, and on both sides of a wide character.
func pieces(text string) (all []string) {
	piece, wideBefore := "", false
	last := rune(0)
	for _, r := range text {
		wide := lang.Width(string(r)) > 1
		breaks := last == ' ' && r != ' ' || (wide || wideBefore) && r != ' ' && !strings.ContainsRune(noLineStart, r) && !strings.ContainsRune(noLineEnd, last)
		if piece != "" && breaks {
			all, piece = append(all, piece), ""
		}
		piece += string(r)
		last, wideBefore = r, wide
	}
	return append(all, piece)
}

var (
	textUsage        = lang.Text{EN: "Usage: %s", ZH: "用法：%s"}
	titleCommands    = lang.Text{EN: "Commands:", ZH: "命令："}
	titleOptions     = lang.Text{EN: "Options:", ZH: "选项："}
	titleSettings    = lang.Text{EN: "Settings, as flags, in the environment or in the env file:", ZH: "配置项，可用参数、环境变量或配置文件设置："}
	textOthers       = lang.Text{EN: "Further settings that it uses:", ZH: "还使用以下配置项："}
	textMoreCommands = lang.Text{EN: "More: %[1]s help COMMAND, %[1]s help settings", ZH: "更多信息：%[1]s help 命令，%[1]s help settings"}
	textMoreSettings = lang.Text{EN: "All settings: %s help settings", ZH: "全部配置项：%s help settings"}
	textAllSettings  = lang.Text{EN: "Settings stand in the environment or in the env file (.env), and some have a flag. A flag takes precedence over the environment, and that over the file.",
		ZH: "配置项写在环境变量或配置文件（.env）中，部分配置项有对应的参数。参数优先于环境变量，环境变量优先于文件。"}
)
