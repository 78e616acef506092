package app

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app/usage"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/settings"
)

// CommonFlags returns the flags of all four programs, which stand before or after a command.
func CommonFlags() []cli.Flag {
	return append([]cli.Flag{langFlag(), &cli.StringFlag{
		Name: "env-file", Usage: "`FILE` with NAME=value settings, used if it exists; the environment takes precedence", Value: ".env",
	}}, settingFlags(false)...)
}

// WorkerFlags returns CommonFlags and the flags of the settings that only the processor reads.
func WorkerFlags() []cli.Flag { return append(CommonFlags(), settingFlags(true)...) }

func langFlag() cli.Flag {
	return &cli.StringFlag{Name: "lang", Usage: "`LANGUAGE` of the output: en or zh", DefaultText: "from LANG"}
}

// JSONFlag returns the flag --json.
func JSONFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print one JSON document in English, also on failure"}
}

// settingFlags returns the flags of the settings: those of the processor, or those of all programs.
func settingFlags(worker bool) []cli.Flag {
	var flags []cli.Flag
	for _, s := range settings.List() {
		if s.Flag == "" || s.Worker != worker {
			continue
		}
		usage := fmt.Sprintf("%s [$%s]", s.Usage, s.Env)
		flags = append(flags, &cli.StringFlag{Name: s.Flag, Usage: usage, DefaultText: s.Default})
	}
	return flags
}

// FlagValue returns the value of a flag that was given after or before the command.
func FlagValue(c *cli.Context, name string) (string, bool) {
	for _, level := range c.Lineage() {
		if slices.Contains(level.LocalFlagNames(), name) {
			return level.String(name), true
		}
	}
	return "", false
}

// Lang returns the language of the output: English with --json, else that of --lang, else that of the environment.
func (a *App) Lang(*cli.Context) (lang.Lang, error) { return a.language, nil }

func wantsJSON(c *cli.Context) bool {
	value, given := FlagValue(c, "json")
	return given && value == "true"
}

// Load reads the settings: flags, then the environment, then the env file, then defaults. It adds their secrets to Redact, and
// warns of names in the env file that are nearly a setting's.
func (a *App) Load(c *cli.Context) (settings.Settings, error) {
	if _, err := a.Lang(c); err != nil {
		return settings.Settings{}, err // before anything is done whose result would be printed
	}
	path, given := envFile(c)
	file, err := settings.ReadEnvFile(path)
	switch {
	case err != nil && settings.IsMissing(err) && !given:
		file = nil
	case err != nil:
		return settings.Settings{}, &usageError{err: err}
	}
	quiet, _ := FlagValue(c, "quiet")
	a.quiet = quiet == "true"
	a.warnOfNearMisses(path, file)
	if err := a.setRoots(file); err != nil {
		return settings.Settings{}, err
	}
	s, err := a.loadFrom(c, file)
	if names := s.UnusedNames(); len(names) > 0 && !a.quiet {
		a.Warn(fmt.Sprintf("%s lists endpoints, so this has no effect: %s", TablesFile(c), strings.Join(names, ", ")))
	}
	return s, err
}

// setRoots sets the variables with which crypto/x509 finds certificate authorities, where only the env file sets them: cron and systemd start
// the programs without the environment of the operator's shell. It has an effect before the first TLS handshake only.
func (a *App) setRoots(file map[string]string) error {
	if a.Setenv == nil {
		return nil
	}
	for _, name := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if set, ok := a.Env(name); ok && set != "" || file[name] == "" {
			continue
		}
		if err := a.Setenv(name, file[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// LoadAgain reads the settings again while the program runs, with the path of the env file, which must exist.
func (a *App) LoadAgain(c *cli.Context) (s settings.Settings, path string, err error) {
	path, _ = envFile(c)
	file, err := settings.ReadEnvFile(path)
	if settings.IsMissing(err) {
		err = fmt.Errorf("there is no env file %s", path)
	}
	if err != nil {
		return s, path, err
	}
	s, err = a.loadFrom(c, file)
	return s, path, err
}

// envFile returns the path of the env file, and whether it was given on the command line.
func envFile(c *cli.Context) (path string, given bool) {
	if path, given = FlagValue(c, "env-file"); !given {
		path = ".env"
	}
	return path, given
}

// loadFrom reads the settings with this content of the env file, and the endpoints, and adds their secrets to Redact.
func (a *App) loadFrom(c *cli.Context, file map[string]string) (settings.Settings, error) {
	variable := func(name string) (string, bool) {
		if v, ok := a.Env(name); ok && v != "" {
			return v, true
		}
		v, ok := file[name]
		return v, ok
	}
	s, err := settings.Load(
		func(s settings.Setting) (string, bool) {
			if s.Flag == "" {
				return "", false
			}
			return FlagValue(c, s.Flag)
		},
		anyCase(a.Env),
		anyCase(func(name string) (string, bool) { v, ok := file[name]; return v, ok }),
	)
	s.Endpoints, s.EndpointsError = readEndpoints(TablesFile(c), variable)
	a.Redact.Add(s.Secrets()...)
	a.Redact.AddURL(s.SecretURLs()...)
	a.variable = variable
	a.supabaseHint = settings.SupabaseHint(variable)
	return s, err
}

// Variable looks up a variable that is no setting, in the environment and in the env file that Load has read.
func (a *App) Variable(name string) (string, bool) {
	if a.variable == nil {
		return "", false
	}
	return a.variable(name)
}

func (a *App) warnOfNearMisses(path string, file map[string]string) {
	if a.quiet {
		return
	}
	for _, m := range settings.NearMisses(file) {
		a.Warn(fmt.Sprintf("the env file %s sets %s, which is not a setting; did you mean %s?", path, m.Name, m.Setting))
	}
}

// anyCase looks up a setting; a proxy setting also in lower case, where the upper case is not set.
func anyCase(lookup func(string) (string, bool)) settings.Source {
	return func(s settings.Setting) (string, bool) {
		if v, ok := lookup(s.Env); ok && v != "" {
			return v, true
		}
		if strings.HasSuffix(s.Env, "_PROXY") {
			return lookup(strings.ToLower(s.Env))
		}
		return "", false
	}
}

// NoArguments returns an error where the command line has an argument that is not part of a flag or command.
func NoArguments(c *cli.Context) error {
	if c.NArg() > 0 {
		return UnknownCommand(c)
	}
	return nil
}

// UnknownCommand returns the error of the first argument, which is no command.
func UnknownCommand(c *cli.Context) error {
	return &usageError{err: usage.UnknownCommand(c.Command.Subcommands, c.Args().First())}
}
