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

// Lines returns the lines of a crontab that start an old script. Comments do not.
func Lines(file string, text []byte) []Line {
	var out []Line
	number := 0
	for line := range bytes.Lines(text) {
		number++
		content := strings.TrimSpace(string(line))
		if strings.HasPrefix(content, "#") {
			continue
		}
		words := strings.FieldsFunc(content, func(r rune) bool { return strings.ContainsRune(" \t;&|()'\"", r) })
		for i, word := range words {
			// What a line only redirects to or reads is none of its scripts.
			if strings.ContainsAny(word, "<>") || i > 0 && strings.HasSuffix(words[i-1], ">") {
				continue
			}
			if isScript(word) {
				out = append(out, Line{file, number, path.Base(word)})
				break
			}
		}
	}
	return out
}

// ScriptOf returns the old script that a command line runs: an interpreter with the script among its first arguments, or the script itself.
func ScriptOf(args []string) (string, bool) {
	if len(args) == 0 {
		return "", false
	}
	if isScript(args[0]) {
		return path.Base(args[0]), true
	}
	interpreters := []string{"node", "nodejs", "bun", "deno", "tsx", "ts-node", "npx", "npm", "pnpm", "yarn", "nodemon", "pm2"}
	program := path.Base(args[0])
	if !slices.Contains(interpreters, program) && !strings.HasPrefix(program, "node") {
		return "", false
	}
	for _, arg := range args[1:min(len(args), 12)] {
		if isScript(arg) {
			return path.Base(arg), true
		}
	}
	return "", false
}

// isScript reports whether a path is that of an old script. Our own programs have no extension.
func isScript(word string) bool {
	name := strings.ToLower(path.Base(word))
	extension := path.Ext(name)
	if !slices.Contains([]string{".mjs", ".cjs", ".js", ".ts", ".mts"}, extension) {
		return false
	}
	name = strings.ReplaceAll(strings.TrimSuffix(name, extension), "_", "-")
	for _, known := range []string{"task-processor", "monitor-tasks", "task-monitor", "fix-stuck-tasks"} {
		if strings.Contains(name, known) {
			return true
		}
	}
	return false
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
