package usage

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/lang"

	_ "embed"
)

//go:embed complete.bash
var bashScript string

//go:embed complete.zsh
var zshScript string

//go:embed complete.fish
var fishScript string

// Script returns the completion script of a shell for a program.
func Script(shell, program string) (string, error) {
	scripts := map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}
	script, ok := scripts[shell]
	if !ok {
		return "", lang.Errorf(lang.Text{EN: "there is no completion for the shell %q; there is for: bash, zsh, fish", ZH: "没有 shell %q 的补全脚本；可用的有：bash、zsh、fish"}, shell)
	}
	return strings.NewReplacer("@PROGRAM@", program, "@FUNCTION@", "_"+strings.ReplaceAll(program, "-", "_")).Replace(script), nil
}

// The last line for a word that is the path of a file or directory, which the shell completes.
const (
	completeFiles       = ":files"
	completeDirectories = ":directories"
)

// fixedValues are the values that a flag can have.
var fixedValues = map[string][]string{
	"lang":        {"en", "zh"},
	"log-level":   {"error", "warn", "info", "debug"},
	"log-format":  {"text", "json"},
	"state":       {"pending", "processing", "completed", "failed", "cancelled"},
	"by":          {"day", "model", "endpoint", "user"},
	"scope":       {"queue", "endpoint", "model"},
	"env-file":    {completeFiles},
	"file":        {completeFiles},
	"image":       {completeFiles},
	"mask":        {completeFiles},
	"log-dir":     {completeDirectories},
	"dir":         {completeDirectories},
	"image-store": {completeDirectories},
}

// Complete prints the candidates for the last word of a command line, if the arguments are those of a completion script: one per line, followed by
// a tab and a description. done is false for other arguments.
func Complete(out io.Writer, program *cli.App, args []string, l lang.Lang) (done bool, err error) {
	if len(args) < 2 || args[0] != complete {
		return false, nil
	}
	shell, words := args[1], args[2:]
	if len(words) == 0 {
		words = []string{""}
	}
	prefix := ""
	if shell == "bash" {
		words, prefix = joinWords(words)
	}
	current := words[len(words)-1]
	for _, e := range candidates(program, words[:len(words)-1], current) {
		if strings.HasPrefix(e.label, current) || strings.HasPrefix(e.label, ":") {
			text, _, _ := strings.Cut(strings.ReplaceAll(Translate(e.text, l), "`", ""), " [$")
			if _, err := fmt.Fprintf(out, "%s\t%s\n", strings.TrimPrefix(e.label, prefix), text); err != nil {
				return true, err
			}
		}
	}
	return true, nil
}

// joinWords joins words that bash has split at "=" and ":". prefix is the start of the last word that bash keeps when it inserts a candidate.
func joinWords(words []string) (joined []string, prefix string) {
	glue := false
	for _, word := range words {
		divider := word == "=" || word == ":"
		if n := len(joined); n > 0 && (glue || divider) {
			prefix = joined[n-1]
			if divider {
				prefix += word
			}
			joined[n-1] += word
		} else {
			joined, prefix = append(joined, word), ""
		}
		glue = divider
	}
	return joined, prefix
}

// candidates returns what can stand after some words, where the next one begins with current.
func candidates(program *cli.App, words []string, current string) []entry {
	line := Read(program, words)
	if slices.Contains(words, "--") {
		return nil
	}
	if name, _, inline := strings.Cut(current, "="); inline && isFlag(current) {
		return valuesOf(name, name+"=")
	}
	if n := len(words); n > 0 && isFlag(words[n-1]) && !strings.Contains(words[n-1], "=") {
		f := findFlag(line.Flags(), strings.TrimLeft(words[n-1], "-"))
		if f != nil && f.(cli.DocGenerationFlag).TakesValue() && !isValue(program, words) {
			return valuesOf(words[n-1], "")
		}
	}
	if strings.HasPrefix(current, "-") {
		return flagCandidates(line)
	}
	var all []entry
	commands := visible(line.Commands())
	if len(line.Rest) == 0 {
		for _, c := range commands {
			all = append(all, entry{c.Name, c.Usage})
		}
	}
	if c := line.Command(); c != nil {
		switch c.Name {
		case Help:
			return helpCandidates(program, line.Rest)
		case Completion:
			return entries(len(line.Rest) == 0, "bash", "zsh", "fish")
		}
	}
	return all
}

// isValue reports whether the last word is the value of the flag that precedes it.
func isValue(program *cli.App, words []string) bool {
	return len(words) > 1 && Read(program, words[:len(words)-1]).Err != nil && Read(program, words).Err == nil
}

func valuesOf(flag, prefix string) (all []entry) {
	for _, value := range fixedValues[strings.TrimLeft(flag, "-")] {
		if strings.HasPrefix(value, ":") {
			return []entry{{label: value}}
		}
		all = append(all, entry{label: prefix + value})
	}
	return all
}

func flagCandidates(line Line) []entry {
	all := []entry{{"--help", textHelpFlag.EN}}
	for _, f := range line.Flags() {
		if _, given := line.words[f.Names()[0]]; visibleFlag(f) && !given {
			all = append(all, entry{"--" + f.Names()[0], flagUsage(f)})
		}
	}
	return all
}

func helpCandidates(program *cli.App, words []string) (all []entry) {
	line := Read(program, words)
	for _, c := range visible(line.Commands()) {
		all = append(all, entry{c.Name, c.Usage})
	}
	if len(words) == 0 {
		all = append(all, entry{label: "settings"})
	}
	return all
}

func entries(some bool, labels ...string) (all []entry) {
	if !some {
		return nil
	}
	for _, label := range labels {
		all = append(all, entry{label: label})
	}
	return all
}
