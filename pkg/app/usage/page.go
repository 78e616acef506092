package usage

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/lang"
	"imagetasks/pkg/settings"
)

// entry is a command, a flag or a setting with what it means.
type entry struct{ label, text string }

// page is what the help of a command, or of a program itself, says.
type page struct {
	name        string // with the program's
	usage       string
	synopsis    string
	description []string // lines
	commands    []entry
	options     []entry
	settings    []entry
	others      []string // the names of further settings
	everything  bool     // the command uses all settings
	program     string
}

// of returns the page of the program, or of the command that a line names.
func of(l Line, language lang.Lang) page {
	p := page{name: l.Name(), program: l.Program.Name}
	usage, description, args := l.Program.Usage, l.Program.Description, l.Program.ArgsUsage
	if c := l.Command(); c != nil {
		usage, description, args = c.Usage, c.Description, c.ArgsUsage
	}
	p.usage = Translate(usage, language)
	if description != "" {
		p.description = strings.Split(Translate(description, language), "\n")
	}
	p.synopsis = p.name
	commands := visible(l.Commands())
	for _, c := range commands {
		p.commands = append(p.commands, entry{strings.Join(c.Names(), ", "), Translate(c.Usage, language)})
	}
	switch {
	case len(l.Path) == 0 && len(commands) > 0:
		p.synopsis += " " + textCommandOrNone.In(language)
	case len(commands) > 0:
		p.synopsis += " " + textCommand.In(language)
	}
	p.synopsis += " " + textOptions.In(language)
	if args != "" {
		p.synopsis += " " + args
	}
	p.addFlags(l.Flags(), language)
	p.options = append(p.options, entry{"--help, -h", textHelpFlag.In(language)})
	if len(l.Path) == 0 {
		p.options = append(p.options, entry{"--version, -v", textVersionFlag.In(language)})
	}
	return p
}

// settingNames returns what the settings of a command are called, or that it uses all.
func (p *page) settingNames(language lang.Lang) (all []string) {
	if p.everything {
		return []string{textEverySetting.In(language)}
	}
	for _, e := range p.settings {
		all = append(all, e.label)
	}
	return append(all, p.others...)
}

// addFlags adds the flags, and the settings that matter to the command.
func (p *page) addFlags(flags []cli.Flag, language lang.Lang) {
	isSetting := map[string]bool{"lang": true, "env-file": true}
	all := settings.List()
	for _, s := range all {
		if s.Flag != "" && strings.Contains(flagUsage(findFlag(flags, s.Flag)), "[$"+s.Env+"]") {
			isSetting[s.Flag] = true
		}
	}
	for _, f := range flags {
		if name := f.Names()[0]; visibleFlag(f) && !isSetting[name] {
			p.options = append(p.options, flagEntry(f, language))
		}
	}
	for _, name := range []string{"lang", "env-file"} {
		if f := findFlag(flags, name); f != nil {
			p.settings = append(p.settings, flagEntry(f, language))
		}
	}
	if findFlag(flags, "database-url") == nil {
		return
	}
	m := mattersTo(p.name)
	for _, s := range all {
		switch {
		case m.shown != nil && m.shown(s):
			e := entry{s.Env, settingText(s, language)}
			if isSetting[s.Flag] {
				e.label = "--" + s.Flag + ", " + s.Env
			}
			p.settings = append(p.settings, e)
		case m.named != nil && m.named(s):
			p.others = append(p.others, s.Env)
		}
	}
	p.everything = m.named != nil && !slices.ContainsFunc(all, func(s settings.Setting) bool { return !m.shown(s) && !m.named(s) })
}

func flagUsage(f cli.Flag) string {
	if documented, ok := f.(cli.DocGenerationFlag); ok {
		return documented.GetUsage()
	}
	return ""
}

// flagEntry describes a flag. The name of its value stands in backquotes in its usage, as package flag has it.
func flagEntry(f cli.Flag, language lang.Lang) entry {
	documented := f.(cli.DocGenerationFlag)
	usage := documented.GetUsage()
	value := ""
	if parts := strings.SplitN(usage, "`", 3); len(parts) == 3 {
		value = parts[1]
	} else if documented.TakesValue() {
		value = "TEXT"
		switch f.(type) {
		case *cli.IntFlag, *cli.Int64Flag:
			value = "N"
		case *cli.DurationFlag:
			value = "TIME"
		}
	}
	label := ""
	for i, name := range f.Names() {
		if i > 0 {
			label += ", "
		}
		label += strings.Repeat("-", min(len(name), 2)) + name
	}
	if value != "" {
		label += " " + value
	}
	text := strings.ReplaceAll(Translate(usage, language), "`", "")
	return entry{label, text + defaultText(Translate(flagDefault(f), language), language)}
}

// flagDefault returns the default of a flag; "" for none, and for that of a switch.
func flagDefault(f cli.Flag) string {
	switch f := f.(type) {
	case *cli.BoolFlag:
		return ""
	case *cli.IntFlag:
		return given(f.DefaultText, f.GetValue(), "0")
	case *cli.Int64Flag:
		return given(f.DefaultText, f.GetValue(), "0")
	case *cli.DurationFlag:
		return given(f.DefaultText, f.GetValue(), "0s")
	case *cli.StringFlag:
		return given(f.DefaultText, f.Value, "")
	}
	return ""
}

// given returns the first text that says something.
func given(text, value, zero string) string {
	if text == "" && value != zero {
		return value
	}
	return text
}

func defaultText(value string, l lang.Lang) string {
	if value == "" {
		return ""
	}
	return textDefault.In(l, value)
}

var (
	textOptions       = lang.Text{EN: "[options]", ZH: "[选项]"}
	textCommand       = lang.Text{EN: "COMMAND", ZH: "命令"}
	textCommandOrNone = lang.Text{EN: "[COMMAND]", ZH: "[命令]"}
	textDefault       = lang.Text{EN: " (default: %s)", ZH: "（默认：%s）"}
	textEverySetting  = lang.Text{EN: "all", ZH: "全部"}
	textHelpFlag      = lang.Text{EN: "show this help", ZH: "显示此帮助"}
	textVersionFlag   = lang.Text{EN: "show the version", ZH: "显示版本"}
)
