package app_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/fixstucktasks"
	"imagetasks/pkg/app/monitortasks"
	"imagetasks/pkg/app/simpletest"
	"imagetasks/pkg/app/taskprocessor"
	"imagetasks/pkg/app/usage"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/settings"
)

var programs = []app.Program{taskprocessor.New, monitortasks.New, fixstucktasks.New, simpletest.New}

// eachCommand calls visit with the arguments that name each command of a program, none for the program itself.
func eachCommand(program app.Program, visit func(words []string, usage string, flags []cli.Flag)) {
	definition := app.Definition(program)
	visit(nil, definition.Usage, definition.Flags)
	var walk func([]string, []*cli.Command)
	walk = func(words []string, commands []*cli.Command) {
		for _, c := range commands {
			path := append(append([]string{}, words...), c.Name)
			visit(path, c.Usage, c.Flags)
			walk(path, c.Subcommands)
		}
	}
	walk(nil, definition.Commands)
}

// Help is shown by --help, -h and the command help, fits a terminal, and has the settings that matter to the command only.
func TestHelp_EachCommand(t *testing.T) {
	for _, program := range programs {
		eachCommand(program, func(words []string, _ string, _ []cli.Flag) {
			for _, language := range []string{"en", "zh"} {
				name := strings.Join(words, " ") + " " + language
				code, help, stderr := run(t, nil, program, append(append([]string{}, words...), "--help", "--lang", language)...)
				require.Zero(t, code, name+stderr)
				for line := range strings.Lines(help) {
					assert.LessOrEqual(t, lang.Width(strings.TrimRight(line, "\n")), 80, "%s: %s", name, line)
				}
				if language == "zh" {
					continue
				}
				_, short, _ := run(t, nil, program, append([]string{"-h", "--lang", language}, words...)...)
				assert.Equal(t, help, short, name)
				_, byCommand, _ := run(t, nil, program, append([]string{"help", "--lang", language}, words...)...)
				assert.Equal(t, help, byCommand, name)
			}
		})
	}
	_, grant, _ := run(t, nil, taskprocessor.New, "help", "credits", "grant", "--lang", "en")
	assert.Contains(t, grant, "DATABASE_URL")
	assert.NotContains(t, grant, "LOG_LEVEL")
	_, work, _ := run(t, nil, taskprocessor.New, "help", "run", "--lang", "en")
	for _, s := range settings.List() {
		assert.Contains(t, work, s.Env)
	}
	for _, language := range []string{"en", "zh"} {
		_, all, _ := run(t, nil, simpletest.New, "help", "settings", "--lang", language)
		for _, s := range settings.List() {
			assert.Contains(t, all, s.Env)
		}
		for line := range strings.Lines(all) {
			assert.LessOrEqual(t, lang.Width(strings.TrimRight(line, "\n")), 80, line)
		}
	}
}

// Each text of help is in Chinese, too.
func TestHelp_Chinese(t *testing.T) {
	translated := func(text string) {
		if text != "" {
			assert.NotEqual(t, text, usage.Translate(text, lang.ZH))
		}
	}
	for _, program := range programs {
		definition := app.Definition(program)
		translated(definition.Description)
		eachCommand(program, func(words []string, usage string, flags []cli.Flag) {
			translated(usage)
			for _, f := range flags {
				if text := f.(cli.DocGenerationFlag).GetUsage(); f.(cli.VisibleFlag).IsVisible() && !strings.Contains(text, "[$") {
					translated(text)
				}
			}
			_, help, _ := run(t, nil, program, append(words, "--help", "--lang", "zh")...)
			for line := range strings.Lines(help) {
				if text := strings.TrimSpace(line); strings.Contains(text, "  ") || strings.HasSuffix(text, ":") {
					assert.True(t, hasHan(text), "%v: %s", words, text)
				}
			}
		})
	}
}

func hasHan(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return r >= 0x4e00 && r <= 0x9fff })
}

// Each error on the command line is in Chinese, too.
func TestUsagef_Chinese(t *testing.T) {
	n := 0
	require.NoError(t, filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(node ast.Node) bool {
			call, ok := node.(*ast.CallExpr)
			if !ok {
				return true
			}
			name := ""
			switch f := call.Fun.(type) {
			case *ast.Ident:
				name = f.Name
			case *ast.SelectorExpr:
				name = f.Sel.Name
			}
			if name != "Usagef" {
				return true
			}
			format, ok := call.Args[0].(*ast.BasicLit)
			if !assert.True(t, ok, "%s: the format is a literal", path) {
				return true
			}
			text, err := strconv.Unquote(format.Value)
			require.NoError(t, err)
			if n++; text != "%s" {
				assert.NotEqual(t, text, usage.Translate(text, lang.ZH), "%s: add it to pkg/app/usage/faults.go", path)
			}
			return true
		})
		return nil
	}))
	assert.Greater(t, n, 50)
}

// Wrong usage exits 2, names what was probably meant, and the help to read.
func TestUsage_Mistakes(t *testing.T) {
	for _, c := range []struct {
		program app.Program
		line    string
		en, zh  string
		help    string
	}{
		{taskprocessor.New, "stauts", "did you mean status?", "是否想输入 status？", "task-processor --help"},
		{taskprocessor.New, "credits grnat", "did you mean grant?", "是否想输入 grant？", "task-processor credits --help"},
		{taskprocessor.New, "credits grnat --user x", "did you mean grant?", "是否想输入 grant？", "task-processor credits --help"},
		{taskprocessor.New, "enqeue --user u", "did you mean enqueue?", "是否想输入 enqueue？", "task-processor --help"},
		{taskprocessor.New, "credits", "a command is missing: credits grant", "缺少命令：credits grant", "task-processor credits --help"},
		{taskprocessor.New, "credits grant --usr x", "unknown flag --usr; did you mean --user?", "未知参数 --usr；是否想输入 --user？", "task-processor credits grant --help"},
		{taskprocessor.New, "credits grant --user", "--user needs a value", "--user 缺少值", "task-processor credits grant --help"},
		{taskprocessor.New, "credits grant --user x --credits many", `--credits can't be "many"`, `--credits 不能为 "many"`, "task-processor credits grant --help"},
		{taskprocessor.New, "--user x", "task-processor enqueue has it", "task-processor enqueue 有该参数", "task-processor --help"},
		{taskprocessor.New, "tasks list --limit 0", "--limit must be from 1 to 100000", "--limit 应为 1 到 100000", "task-processor tasks list --help"},
		{taskprocessor.New, "help crdits", "did you mean credits?", "是否想输入 credits？", "task-processor help --help"},
		{taskprocessor.New, "completion tcsh", "bash, zsh, fish", "可用的有：bash、zsh、fish", "task-processor completion --help"},
		{monitortasks.New, "--wach", "did you mean --watch?", "是否想输入 --watch？", "monitor-tasks --help"},
		{fixstucktasks.New, "adit", "did you mean audit?", "是否想输入 audit？", "fix-stuck-tasks --help"},
		{simpletest.New, "--imge", "did you mean --image?", "是否想输入 --image？", "simple-test --help"},
	} {
		t.Run(c.line, func(t *testing.T) {
			words := strings.Fields(c.line)
			for language, want := range map[string]string{"en_US.UTF-8": c.en, "zh_CN.UTF-8": c.zh} {
				code, stdout, stderr := run(t, map[string]string{"LANG": language}, c.program, words...)
				assert.Equal(t, 2, code)
				assert.Empty(t, stdout)
				assert.Contains(t, stderr, want)
				assert.Contains(t, stderr, " "+c.help+" ")
			}
		})
	}
}

// Flags may stand behind the arguments.
func TestUsage_FlagsBehindArguments(t *testing.T) {
	code, stdout, _ := run(t, nil, taskprocessor.New, "tasks", "show", "some-task", "--json")
	assert.Equal(t, 1, code, "it looked for a database")
	assertEnglish(t, stdout)
	code, stdout, _ = run(t, nil, taskprocessor.New, "help", "credits", "--lang", "zh", "grant")
	assert.Zero(t, code)
	assert.True(t, hasHan(stdout))
	code, _, stderr := run(t, nil, taskprocessor.New, "tasks", "show", "--lang", "en", "--", "--json")
	assert.Equal(t, 1, code, "behind -- stands an id")
	assert.Contains(t, stderr, "the database does not respond")
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"--version"}, {"-v"}} {
		code, stdout, _ := run(t, nil, monitortasks.New, args...)
		assert.Zero(t, code)
		assert.True(t, strings.HasPrefix(stdout, "monitor-tasks version "+app.Version), stdout)
	}
	var document map[string]string
	_, stdout, _ := run(t, nil, monitortasks.New, "version", "--json")
	decode(t, stdout, &document)
	assert.Equal(t, app.Version, document["version"])
}

// A program whose output could not be written, because the disk is full, fails.
func TestRun_OutputNotWritten(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"help"}, {"completion", "bash"}, {"version"}, {"--version"}, {"version", "--json"}} {
		var errs strings.Builder
		a := &app.App{Stdin: strings.NewReader(""), Stdout: fullDisk{}, Stderr: &errs}
		assert.Equal(t, 1, a.Run(t.Context(), taskprocessor.New, append([]string{"program"}, args...)...), args)
		assert.Contains(t, errs.String(), "no space left on device", args)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// Each message that is translated at the edge is in the source: one that was changed there would not be recognised any more.
func TestMessages_InSource(t *testing.T) {
	var source strings.Builder
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "app/usage/") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		switch filepath.Ext(path) {
		case ".sql":
			source.Write(text)
		case ".go":
			source.WriteString(joined.ReplaceAllString(string(text), ""))
		}
		return nil
	}))
	text := strings.NewReplacer(`\"`, `"`, "%%", "%").Replace(strings.ToLower(source.String()))
	for _, message := range usage.Messages() {
		for _, part := range verbs.Split(strings.ReplaceAll(message.EN, "%%", "%"), -1) {
			if part = strings.Trim(part, " ;,:?.()"); len(part) > 3 {
				assert.True(t, strings.Contains(text, strings.ToLower(part)), "%q: %q", message.EN, part)
			}
		}
	}
}

var (
	// joined matches what joins two parts of a text over several lines.
	joined = regexp.MustCompile(`"\s*\+\s*"`)
	verbs  = regexp.MustCompile(`%[sdqvw]`)
)
