// Package usage is what the command lines of the programs have in common: it finds the command that a line of arguments names, and renders help,
// reference pages and completions from the definitions of the commands, in English or Chinese.
package usage

import (
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/lang"
	"imagetasks/pkg/suggest"
)

// The commands that each program has besides its own.
const (
	Help       = "help"
	Version    = "version"
	Completion = "completion"
	Man        = "man"
	complete   = "__complete"
)

// Line is a line of arguments, read along the definitions of the commands.
type Line struct {
	Program *cli.App
	Path    []*cli.Command // the commands that were named, from the program's down to the last
	Args    []string       // for the program: as given, with the flags of each command before its arguments
	Rest    []string       // what is neither a flag nor a command
	Help    bool           // --help is among the arguments
	Version bool           // --version is among the arguments of the program itself
	Err     error          // the first flag that is unknown or lacks its value

	words map[string]string // the flags that were given, with their values
}

// Read reads the arguments that follow the program's name.
func Read(program *cli.App, args []string) Line {
	l := Line{Program: program, words: map[string]string{}}
	var flags, rest []string
	for i := 0; i < len(args); i++ {
		word := args[i]
		if word == "--" {
			l.Rest = append(l.Rest, args[i+1:]...)
			rest = append(append(rest, word), args[i+1:]...)
			break
		}
		if !isFlag(word) {
			if command := Find(l.Commands(), word); command != nil && len(l.Rest) == 0 {
				l.Args = append(append(l.Args, flags...), word)
				flags, l.Path = nil, append(l.Path, command)
				continue
			}
			l.Rest, rest = append(l.Rest, word), append(rest, word)
			continue
		}
		flags = append(flags, word)
		name, value, inline := strings.Cut(strings.TrimLeft(word, "-"), "=")
		switch flag := findFlag(l.Flags(), name); {
		case name == "help" || name == "h":
			l.Help = true
		case len(l.Path) == 0 && (name == "version" || name == "v"):
			l.Version = true
		case flag == nil && len(l.Rest) > 0 && len(l.Commands()) > 0:
			l.fail(UnknownCommand(l.Commands(), l.Rest[0])) // a mistyped command: its flags are those of no other
		case flag == nil:
			l.fail(l.unknownFlag(word, name))
		case inline || !flag.(cli.DocGenerationFlag).TakesValue():
			l.words[name] = value
		case i+1 == len(args):
			l.fail(lang.Errorf(lang.Text{EN: "--%s needs a value", ZH: "--%s 缺少值"}, name))
		default:
			i++
			l.words[name] = args[i]
			flags = append(flags, args[i])
		}
	}
	l.Args = append(append(l.Args, flags...), rest...)
	return l
}

func (l *Line) fail(err error) {
	if l.Err == nil {
		l.Err = err
	}
}

// isFlag reports whether a word has the form of a flag; - stands for stdin, and -5 is a number.
func isFlag(word string) bool {
	_, err := strconv.ParseFloat(word, 64)
	return len(word) > 1 && word[0] == '-' && err != nil
}

// Command returns the command that was named last; nil: that of the program itself.
func (l *Line) Command() *cli.Command {
	if len(l.Path) == 0 {
		return nil
	}
	return l.Path[len(l.Path)-1]
}

// Name returns the program's name and those of the commands.
func (l *Line) Name() string {
	names := []string{l.Program.Name}
	for _, command := range l.Path {
		names = append(names, command.Name)
	}
	return strings.Join(names, " ")
}

// Commands returns the commands that may follow.
func (l *Line) Commands() []*cli.Command {
	if c := l.Command(); c != nil {
		return c.Subcommands
	}
	return l.Program.Commands
}

// Flags returns the flags that may follow.
func (l *Line) Flags() []cli.Flag {
	if c := l.Command(); c != nil {
		return c.Flags
	}
	return l.Program.Flags
}

// Value returns the value of a flag, if it was given.
func (l *Line) Value(name string) (value string, given bool) {
	value, given = l.words[name]
	return value, given
}

// Find returns the command of that name, or nil.
func Find(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// visible returns the commands that are not hidden.
func visible(commands []*cli.Command) []*cli.Command {
	return slices.DeleteFunc(slices.Clone(commands), func(c *cli.Command) bool { return c.Hidden })
}

func findFlag(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

// unknownFlag returns the error of a flag that the command does not have.
func (l *Line) unknownFlag(word, name string) error {
	given, _, _ := strings.Cut(word, "=")
	known := []string{"help"}
	for _, f := range l.Flags() {
		if visibleFlag(f) {
			known = append(known, f.Names()...)
		}
	}
	if near := suggest.Nearest(name, known); near != "" {
		return lang.Errorf(lang.Text{EN: "unknown flag %s; did you mean --%s?", ZH: "未知参数 %s；是否想输入 --%s？"}, given, near)
	}
	if others := l.withFlag(name); len(others) > 0 {
		return lang.Errorf(lang.Text{EN: "%s has no flag %s; %s has it", ZH: "%s 没有参数 %s；%s 有该参数"}, l.Name(), given, others[0])
	}
	return lang.Errorf(lang.Text{EN: "unknown flag %s", ZH: "未知参数 %s"}, given)
}

// withFlag returns those of the commands that may follow which have the flag of that name.
func (l *Line) withFlag(name string) (names []string) {
	for _, c := range visible(l.Commands()) {
		if findFlag(c.Flags, name) != nil {
			names = append(names, l.Name()+" "+c.Name)
		}
	}
	return names
}

// UnknownCommand returns the error of a word that is no command and no argument here.
func UnknownCommand(commands []*cli.Command, word string) error {
	var known []string
	for _, c := range visible(commands) {
		known = append(known, c.Names()...)
	}
	if near := suggest.Nearest(word, known); near != "" {
		return lang.Errorf(lang.Text{EN: "unknown command or argument %q; did you mean %s?", ZH: "未知的命令或参数 %q；是否想输入 %s？"}, word, near)
	}
	return lang.Errorf(lang.Text{EN: "unknown command or argument %q", ZH: "未知的命令或参数 %q"}, word)
}

// ValueError returns the error of a flag's value that can't be used, from the one that package flag has for it.
func ValueError(err error) error {
	value, rest, found := strings.Cut(strings.TrimPrefix(err.Error(), "invalid value "), " for flag -")
	name, _, hasReason := strings.Cut(rest, ": ")
	if !found || !hasReason {
		return err
	}
	return lang.Errorf(lang.Text{EN: "--%s can't be %s", ZH: "--%s 不能为 %s"}, name, value)
}

func visibleFlag(f cli.Flag) bool {
	v, ok := f.(cli.VisibleFlag)
	return !ok || v.IsVisible()
}
