package app

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/finding"
)

// CommandLine returns a function that formats a command of the project so that it works as typed: with the path of the
// programs from the working directory, and with the env file that this call was given.
func (a *App) CommandLine(c *cli.Context) func(finding.Command) string {
	project := "."
	if self, err := os.Executable(); err == nil {
		project = filepath.Dir(filepath.Dir(self))
	}
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, project); err == nil && !strings.HasPrefix(rel, "..") {
			project = rel
		}
	}
	envFile, given := FlagValue(c, "env-file")
	return func(command finding.Command) string {
		path := filepath.Join(project, command.Program)
		script := strings.Contains(command.Program, "/")
		if !script {
			path = filepath.Join(project, "bin", command.Program)
			if self, err := os.Executable(); err == nil && filepath.Base(filepath.Dir(self)) != "bin" {
				path = filepath.Join(filepath.Dir(self), command.Program)
			}
		}
		if !filepath.IsAbs(path) && !strings.HasPrefix(path, "bin"+string(filepath.Separator)) {
			path = "." + string(filepath.Separator) + path
		}
		words := append([]string{path}, command.Args...)
		if given && !script {
			words = append(words, "--env-file", envFile)
		}
		for i, word := range words {
			words[i] = shellQuote(word)
		}
		return strings.Join(words, " ")
	}
}

// shellQuote quotes a word for a POSIX shell where that is needed.
func shellQuote(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./=:@%+,", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
