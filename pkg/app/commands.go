package app

import (
	"runtime/debug"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app/usage"
)

// Version is the version of the programs.
const Version = "0.1.0"

// BuildVersion returns the version, with the commit if that is known.
func BuildVersion() string {
	if commit, _ := build(); commit != "" {
		return Version + " (" + commit + ")"
	}
	return Version
}

// build returns the commit that the program was built from, and its date; empty if they are not known.
func build() (commit, date string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", ""
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			commit = s.Value[:min(len(s.Value), 12)]
		case "vcs.time":
			if at, err := time.Parse(time.RFC3339, s.Value); err == nil {
				date = at.Format(time.DateOnly)
			}
		}
	}
	return commit, date
}

// Definition returns a program's commands and flags, with those that each program has.
func Definition(program Program) *cli.App {
	a := &App{}
	command := program(a)
	a.addCommands(command)
	return command
}

// addCommands adds the commands that each program has.
func (a *App) addCommands(program *cli.App) {
	own := []cli.Flag{langFlag(), JSONFlag()}
	for _, c := range allCommands(program.Commands) {
		if len(c.Subcommands) > 0 && len(c.Flags) == 0 {
			c.Flags = own
		}
	}
	program.Commands = append(slices.Clone(program.Commands),
		&cli.Command{Name: usage.Help, Usage: "show the help of a command, or of all settings", ArgsUsage: "[COMMAND … | settings]", Flags: own,
			Action: func(c *cli.Context) error { return a.help(c, program) }},
		&cli.Command{Name: usage.Version, Usage: "show the version", Flags: own, Action: func(c *cli.Context) error {
			if err := NoArguments(c); err != nil {
				return err
			}
			return a.printVersion(program.Name, wantsJSON(c))
		}},
		&cli.Command{Name: usage.Completion, Usage: "print the completion script of a shell: bash, zsh or fish", ArgsUsage: "SHELL", Flags: own,
			Action: func(c *cli.Context) error { return a.completion(c, program.Name) }},
		&cli.Command{Name: usage.Man, Usage: "print the manual page, in roff", Hidden: true, Flags: own, Action: func(c *cli.Context) error {
			if err := NoArguments(c); err != nil {
				return err
			}
			_, date := build()
			if date == "" {
				date = time.Now().Format(time.DateOnly)
			}
			return a.printHelp(usage.ManPage(program, a.language, Version, date), wantsJSON(c))
		}},
	)
}

// help prints the help of the command that the arguments name, or of all settings.
func (a *App) help(c *cli.Context, program *cli.App) error {
	line := usage.Read(program, c.Args().Slice())
	switch words := line.Rest; {
	case len(words) == 1 && len(line.Path) == 0 && words[0] == "settings":
		return a.printHelp(usage.SettingsText(a.language), wantsJSON(c))
	case len(words) > 0:
		return &usageError{err: usage.UnknownCommand(line.Commands(), words[0])}
	}
	return a.printHelp(usage.HelpText(line, a.language), wantsJSON(c))
}

func (a *App) printHelp(text string, asJSON bool) error {
	if asJSON {
		return a.PrintJSON(map[string]string{"text": text})
	}
	a.Printf("%s", text)
	return nil
}

// printVersion prints the version, with commit and date where they are known.
func (a *App) printVersion(program string, asJSON bool) error {
	commit, date := build()
	if asJSON {
		return a.PrintJSON(map[string]string{"program": program, "version": Version, "commit": commit, "date": date})
	}
	text := program + " version " + BuildVersion()
	if date != "" {
		text += ", " + date
	}
	a.Printf("%s\n", text)
	return nil
}

func (a *App) completion(c *cli.Context, program string) error {
	if c.NArg() != 1 {
		return Usagef("%s takes one argument: %s", program+" completion", "bash, zsh, fish")
	}
	script, err := usage.Script(c.Args().First(), program)
	if err != nil {
		return &usageError{err: err}
	}
	return a.printHelp(script, wantsJSON(c))
}
