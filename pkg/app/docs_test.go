package app_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/usage"
	"imagetasks/pkg/lang"
)

var update = flag.Bool("update", false, "rewrite docs/commands.md and its Chinese version")

var commandDocs = map[lang.Lang]struct{ path, head string }{
	lang.EN: {"commands.md", `# Commands

Every program, command and option. What a command shows with ` + "`--help`" + ` is the same text; ` + "`help settings`" + ` and [configuration.md](configuration.md) explain the
settings. [json.md](json.md) describes the documents of ` + "`--json`" + `. 中文版：[commands.zh-CN.md](commands.zh-CN.md).

Options may stand before or behind the arguments of a command. Exit codes: 0 done; 1 it could not do its work; 2 wrong usage or settings; 3 it did its work, and
something is still wrong.

Completion of commands, options and fixed values, for a program in PATH (each of the four has the command):

    source <(task-processor completion bash)      # ~/.bashrc
    source <(task-processor completion zsh)       # ~/.zshrc, after compinit
    task-processor completion fish | source       # ~/.config/fish/config.fish

` + "`./scripts/man.sh DIR`" + ` writes the manual pages of the four programs to DIR/man1, in Chinese to DIR/zh_CN/man1; then ` + "`man -M DIR task-processor`" + `.

The language is that of ` + "`--lang`" + `, else of LC_ALL, LC_MESSAGES or LANG, the first of them that is set. The character set is that of LC_ALL, LC_CTYPE or LANG:
with UTF-8, or none set, texts are UTF-8; with GBK or GB18030 they are converted; with any other, such as C, they are English, in ASCII, and other
characters are written as \u4e2d. Documents of ` + "`--json`" + ` and the log files are UTF-8 always.

This page is generated from the definitions in the code: go test ./pkg/app -run CommandsDoc -update
`},
	lang.ZH: {"commands.zh-CN.md", `# 命令

列出全部程序、命令和选项，内容与 ` + "`--help`" + ` 相同。配置项见 ` + "`help settings`" + ` 和 [configuration.zh-CN.md](configuration.zh-CN.md)，` + "`--json`" + ` 的文档见 [json.md](json.md)。English:
[commands.md](commands.md).

选项可以写在命令的参数之前或之后。退出码：0 完成；1 未能完成工作；2 用法或配置有误；3 已完成工作，但仍有问题。

命令、选项和固定取值的补全（程序须在 PATH 中，四个程序均有该命令）：

    source <(task-processor completion bash)      # ~/.bashrc
    source <(task-processor completion zsh)       # ~/.zshrc，位于 compinit 之后
    task-processor completion fish | source       # ~/.config/fish/config.fish

` + "`./scripts/man.sh DIR`" + ` 将四个程序的手册页写入 DIR/man1，中文版写入 DIR/zh_CN/man1；然后运行 ` + "`man -M DIR task-processor`" + `。

语言由 ` + "`--lang`" + ` 指定，否则取 LC_ALL、LC_MESSAGES、LANG 中第一个已设置的值。字符集取 LC_ALL、LC_CTYPE、LANG：为 UTF-8 或均未设置时输出 UTF-8；为 GBK 或 GB18030 时
进行转换；为其他字符集（如 C）时以 ASCII 输出英文，其他字符写作 \u4e2d 的形式。` + "`--json`" + ` 的文档和日志文件始终为 UTF-8。

本页由代码中的定义生成：go test ./pkg/app -run CommandsDoc -update
`},
}

// The pages about the commands are those that the definitions make.
func TestCommandsDoc(t *testing.T) {
	for l, doc := range commandDocs {
		text := doc.head
		for _, program := range programs {
			text += "\n" + usage.Markdown(app.Definition(program), l)
		}
		path := filepath.Join("..", "..", "docs", doc.path)
		if *update {
			require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		}
		have, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.Equal(t, text, string(have), "run: go test ./pkg/app -run CommandsDoc -update")
	}
}

// Each command with --json has its section of docs/json.md, which an end-to-end test compares with the documents.
func TestJSONDoc_EachCommand(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "json.md"))
	require.NoError(t, err)
	for _, program := range programs {
		name := app.Definition(program).Name
		eachCommand(program, func(words []string, _ string, flags []cli.Flag) {
			line := usage.Read(app.Definition(program), words)
			leaf := len(line.Commands()) == 0 || len(words) == 0
			for _, f := range flags {
				if f.Names()[0] == "json" && leaf && !slices.Equal(words, []string{usage.Man}) {
					full := strings.Join(append([]string{name}, words...), " ")
					assert.Regexp(t, "(?m)^## ("+full+"|"+strings.Join(words, " ")+")$|`"+strings.Join(words, " ")+"`", string(page), full)
				}
			}
		})
	}
}

// overstruck matches what makes a character bold.
var overstruck = regexp.MustCompile(".\x08")

// The manual pages have no mistake that a formatter or a checker would report, and say what the help says.
func TestManPages(t *testing.T) {
	for _, program := range programs {
		for _, language := range []string{"en", "zh"} {
			code, roff, stderr := run(t, nil, program, "man", "--lang", language)
			require.Zero(t, code, stderr)
			for _, checker := range [][]string{{"groff", "-ww", "-z", "-Kutf8", "-Tutf8", "-mandoc"}, {"mandoc", "-Tlint", "-Wwarning"}} {
				check := exec.Command(checker[0], checker[1:]...)
				check.Stdin = strings.NewReader(roff)
				out, err := check.CombinedOutput()
				assert.NoError(t, err, string(out))
				assert.Empty(t, string(out))
			}
			format := exec.Command("mandoc", "-Tutf8", "-Owidth=400")
			format.Stdin = strings.NewReader(roff)
			out, err := format.Output()
			require.NoError(t, err)
			for _, want := range []string{"--database-url", "DATABASE_URL", "postgres://user:password@host:5432/database"} {
				assert.Contains(t, overstruck.ReplaceAllString(string(out), ""), want)
			}
		}
	}
}
