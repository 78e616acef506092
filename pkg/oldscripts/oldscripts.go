// Package oldscripts finds the Node scripts that worked the application's tasks before imagetasks: lines of crontabs that start them, and processes
// that run them. Both would work the same rows.
package oldscripts

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// readTimeout bounds the call of crontab -l.
const readTimeout = 5 * time.Second

// maxProcesses bounds how many processes are looked at, and maxFile the bytes of a file.
const (
	maxProcesses = 50_000
	maxFile      = 1 << 20
)

// Line is a line of a crontab that starts an old script.
type Line struct {
	File   string `json:"file"` // "crontab" for that of this user
	Number int    `json:"line"`
	Text   string `json:"text"` // the script's name only: the line may hold a password
}

// Process runs an old script.
type Process struct {
	PID    int    `json:"pid"`
	Script string `json:"script"`
}

// Found is what was found.
type Found struct {
	Lines     []Line    `json:"crontab_lines"`
	Processes []Process `json:"processes"`
}

// Any reports whether anything was found.
func (f Found) Any() bool { return len(f.Lines) > 0 || len(f.Processes) > 0 }

// Find looks at this user's crontab, those of the system, and the processes of this machine. What can't be read is left out.
func Find(ctx context.Context) Found {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	found := Found{Lines: []Line{}, Processes: []Process{}}
	if out, err := exec.CommandContext(ctx, "crontab", "-l").Output(); err == nil {
		found.Lines = append(found.Lines, Lines("crontab", out)...)
	}
	files, _ := filepath.Glob("/etc/cron.d/*")
	for _, file := range append([]string{"/etc/crontab"}, files...) {
		if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
			continue
		}
		if text, err := os.ReadFile(file); err == nil {
			found.Lines = append(found.Lines, Lines(file, text)...)
		}
	}
	found.Processes = append(found.Processes, processes(ctx, "/proc")...)
	return found
}

// What is a command, a schedule and a script is decided as in scripts/oldscripts.sh, which comments the lines out; a test compares them.
var (
	script      = regexp.MustCompile(`^(monitor[-_]tasks|task[-_]processor|task[-_]monitor|fix[-_]stuck[-_]tasks)\.[cm]?[jt]s$`)
	runner      = regexp.MustCompile(`^(node(js)?[0-9.]*|bun|deno|tsx|ts-node|npx|npm|pnpm|yarn|zx|nodemon|forever|pm2|pm2-runtime)$`)
	quotes      = regexp.MustCompile(`["'\\]`)
	redirection = regexp.MustCompile(`[0-9]*[<>]+[ \t]*[^ \t]+`)
	separator   = regexp.MustCompile("[;&|(){}`]+")
	assignment  = regexp.MustCompile(`^[ \t]*["']?[A-Za-z_][A-Za-z0-9_]*["']?[ \t]*=`)
	schedule    = regexp.MustCompile(`^[ \t]*(@[A-Za-z]+[ \t]+|([^ \t]+[ \t]+){5})`)
	firstWord   = regexp.MustCompile(`^[^ \t]+[ \t]+`)
	// What may stand before the command itself, and commands that may have the name of a script as an argument.
	optional = regexp.MustCompile(`^(-.*|[A-Za-z_][A-Za-z0-9_]*=.*|[0-9.]+[smhd]?)$`)
	wrapper  = regexp.MustCompile(`^(sudo|env|nohup|nice|ionice|timeout|setsid|exec|time|stdbuf|chronic|command|(ba|da|z)?sh|if|then|else|do|while|until|!)$`)
	reader   = regexp.MustCompile(`^(pkill|pgrep|kill|killall|ps|[ef]?grep|rg|echo|printf|logger|test|\[|cat|tail|head|ls|cp|mv|rm|ln|tar|find)$`)
)

// userCrontab is Line.File of the crontab of this user. Lines of others name a user after the schedule.
const userCrontab = "crontab"

// Lines returns the lines of a crontab that start an old script. Comments do not.
func Lines(file string, text []byte) []Line {
	var out []Line
	number := 0
	for line := range bytes.Lines(text) {
		number++
		content := strings.TrimRight(string(line), "\r\n")
		if strings.HasPrefix(strings.TrimLeft(content, " \t"), "#") || assignment.MatchString(content) {
			continue
		}
		content = strings.ReplaceAll(content, `\%`, "\x01")
		content, _, _ = strings.Cut(content, "%") // what follows is input
		content = strings.TrimPrefix(content, schedule.FindString(content))
		if file != userCrontab {
			content = strings.TrimPrefix(content, firstWord.FindString(content))
		}
		for _, command := range separator.Split(content, -1) {
			if name, ok := started(command); ok {
				out = append(out, Line{file, number, name})
				break
			}
		}
	}
	return out
}

// started returns the old script that a command of a shell runs, by a runner or itself.
func started(command string) (string, bool) {
	words := strings.FieldsFunc(redirection.ReplaceAllString(command, " "), func(r rune) bool { return r == ' ' || r == '\t' })
	run, before := false, true
	for i := 0; i < len(words); i++ {
		name := nameOf(words[i])
		switch {
		case script.MatchString(name) && (run || before):
			return name, true
		case runner.MatchString(name):
			run, before = true, false
		case !before, optional.MatchString(words[i]), wrapper.MatchString(name):
		case name == "flock":
			for i++; i < len(words) && strings.HasPrefix(words[i], "-"); i++ {
			}
		case reader.MatchString(name):
			return "", false
		default:
			before = false
		}
	}
	return "", false
}

// nameOf returns the name of a file from a word of a command.
func nameOf(word string) string { return path.Base(quotes.ReplaceAllString(word, "")) }

// ScriptOf returns the old script that a command line runs: a runner with the script among its first arguments, or the script itself.
func ScriptOf(args []string) (string, bool) {
	if len(args) == 0 {
		return "", false
	}
	if name := path.Base(args[0]); script.MatchString(name) {
		return name, true
	} else if !runner.MatchString(name) {
		return "", false
	}
	for _, arg := range args[1:min(len(args), 12)] {
		if name := path.Base(arg); script.MatchString(name) {
			return name, true
		}
	}
	return "", false
}

// processes reads the command lines below a directory such as /proc, which other systems than Linux lack.
func processes(ctx context.Context, proc string) []Process {
	dir, err := os.Open(proc)
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(maxProcesses)
	var out []Process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || ctx.Err() != nil {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("%s/%d/cmdline", proc, pid))
		if err != nil {
			continue
		}
		if script, ok := ScriptOf(strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")); ok {
			out = append(out, Process{pid, script})
		}
	}
	slices.SortFunc(out, func(a, b Process) int { return a.PID - b.PID })
	return out
}
