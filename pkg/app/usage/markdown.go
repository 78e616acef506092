package usage

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/lang"
)

// Markdown returns a chapter about a program and its commands, for docs/commands.md or its Chinese version.
func Markdown(program *cli.App, language lang.Lang) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n", program.Name)
	for i, line := range pages(program) {
		p := of(line, language)
		if i > 0 {
			fmt.Fprintf(&b, "### %s\n\n", p.name)
		}
		fmt.Fprintf(&b, "    %s\n\n%s\n\n", p.synopsis, sentence(p.usage, language))
		if len(p.description) > 0 {
			fmt.Fprintf(&b, "%s\n\n", markdown(strings.Join(p.description, "\n")))
		}
		if len(p.commands) == 0 || i == 0 {
			b.WriteString(textTableHead.In(language) + "\n|---|---|\n")
			for _, e := range p.options {
				fmt.Fprintf(&b, "| `%s` | %s |\n", e.label, strings.ReplaceAll(markdown(e.text), "|", `\|`))
			}
			b.WriteString("\n")
		}
		if names := p.settingNames(language); len(names) > 0 {
			if !p.everything {
				for i, name := range names {
					names[i] = "`" + name + "`"
				}
			}
			fmt.Fprintf(&b, "%s\n\n", manSettings.In(language, strings.Join(names, ", ")))
		}
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// sentence makes a sentence of what a command does.
func sentence(text string, language lang.Lang) string {
	text = strings.ToUpper(text[:1]) + text[1:]
	return markdown(textSentence.In(language, text))
}

// markdown escapes what would be a tag or a link.
func markdown(text string) string {
	return strings.NewReplacer("<", `\<`, "[", `\[`, "*", `\*`, "_", `\_`).Replace(text)
}

var (
	textTableHead = lang.Text{EN: "| option | meaning |", ZH: "| 选项 | 说明 |"}
	textSentence  = lang.Text{EN: "%s.", ZH: "%s。"}
)
