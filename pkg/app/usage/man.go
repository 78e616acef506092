package usage

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/lang"
)

// pages returns the lines of a program and of all its commands that are not hidden.
func pages(program *cli.App) []Line {
	all := []Line{Read(program, nil)}
	for i := 0; i < len(all); i++ {
		var below []Line
		for _, c := range visible(all[i].Commands()) {
			below = append(below, Line{Program: program, Path: append(append([]*cli.Command{}, all[i].Path...), c)})
		}
		all = append(all[:i+1], append(below, all[i+1:]...)...)
	}
	return all
}

// ManPage returns the manual page of a program, in roff.
func ManPage(program *cli.App, language lang.Lang, version, date string) string {
	var b strings.Builder
	name := strings.ToUpper(program.Name)
	fmt.Fprintf(&b, ".TH %s 1 %s \"imagetasks %s\" \"imagetasks\"\n.nh\n.ad l\n", roff(name), date, roff(version))
	heading := func(macro string, text string) { fmt.Fprintf(&b, ".%s \"%s\"\n", macro, roff(text)) }
	list := func(entries []entry) {
		for _, e := range entries {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(e.label), roff(e.text))
		}
	}
	for i, line := range pages(program) {
		p := of(line, language)
		if i == 0 {
			heading("SH", manName.In(language))
			fmt.Fprintf(&b, "%s \\- %s\n", roff(p.name), roff(p.usage))
			heading("SH", manSynopsis.In(language))
			fmt.Fprintf(&b, ".B %s\n", roff(p.synopsis))
			if len(p.description) > 0 {
				heading("SH", manDescription.In(language))
			}
		} else {
			if i == 1 {
				heading("SH", manCommands.In(language))
			}
			heading("SS", p.synopsis)
			fmt.Fprintf(&b, "%s\n", roff(p.usage))
		}
		for n, text := range p.description {
			if n > 0 || i > 0 {
				b.WriteString(".PP\n")
			}
			fmt.Fprintf(&b, "%s\n", roff(text))
		}
		if i == 0 {
			heading("SH", manOptions.In(language))
		}
		list(p.options)
		if i == 0 {
			list(p.settings)
		} else if names := p.settingNames(language); len(names) > 0 {
			fmt.Fprintf(&b, ".PP\n%s\n", roff(manSettings.In(language, strings.Join(names, "; "))))
		}
	}
	heading("SH", manSettingsTitle.In(language))
	list(allSettings(language))
	heading("SH", manExit.In(language))
	list([]entry{{"0", manExit0.In(language)}, {"1", manExit1.In(language)}, {"2", manExit2.In(language)}, {"3", manExit3.In(language)}})
	return b.String()
}

// roff escapes a text: backslashes, hyphens that are typed, and what begins a request. A line may end within long words, and between Chinese characters.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n", " ", `"`, `\(dq`, "'", `\(aq`, "^", `\(ha`, "~", `\(ti`, "`", `\(ga`).Replace(text)
	var b strings.Builder
	if strings.HasPrefix(text, ".") {
		b.WriteString(`\&`)
	}
	for i, piece := range pieces(text) {
		if i > 0 {
			b.WriteString(`\:`)
		}
		b.WriteString(strings.NewReplacer("/", `/\:`, "&", `&\:`, ",", `,\:`, "=", `=\:`).Replace(piece))
	}
	return b.String()
}

var (
	manName          = lang.Text{EN: "NAME", ZH: "名称"}
	manSynopsis      = lang.Text{EN: "SYNOPSIS", ZH: "概要"}
	manDescription   = lang.Text{EN: "DESCRIPTION", ZH: "说明"}
	manOptions       = lang.Text{EN: "OPTIONS", ZH: "选项"}
	manCommands      = lang.Text{EN: "COMMANDS", ZH: "命令"}
	manSettings      = lang.Text{EN: "Settings: %s.", ZH: "配置项：%s。"}
	manSettingsTitle = lang.Text{EN: "SETTINGS", ZH: "配置项"}
	manExit          = lang.Text{EN: "EXIT STATUS", ZH: "退出码"}
	manExit0         = lang.Text{EN: "done", ZH: "完成"}
	manExit1         = lang.Text{EN: "it could not do its work", ZH: "未能完成工作"}
	manExit2         = lang.Text{EN: "wrong usage or settings", ZH: "用法或配置有误"}
	manExit3         = lang.Text{EN: "it did its work, and something is still wrong", ZH: "已完成工作，但仍有问题"}
)
