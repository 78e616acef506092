package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// report is the result of one run.
type report struct {
	Date     string            `json:"date"`
	Quick    bool              `json:"quick,omitempty"`
	Full     bool              `json:"full,omitempty"`
	Pairs    int               `json:"pairs"`
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	Go       string            `json:"go"`
	Node     string            `json:"node"`
	Postgres string            `json:"postgresql"`
	River    string            `json:"river"`
	Graphile string            `json:"graphile_worker"`
	Settings map[string]string `json:"settings"`
	Load     float64           `json:"load_at_start"`
	Took     time.Duration     `json:"took_ns"`
	Rows     []row             `json:"rows"`
}

func (r *report) describeMachine(ctx context.Context, s *server, root string) error {
	r.Cores, r.Go, r.Graphile = runtime.NumCPU(), runtime.Version(), graphileVersion
	if err := s.admin.QueryRow(ctx, "show server_version").Scan(&r.Postgres); err != nil {
		return err
	}
	r.Postgres, _, _ = strings.Cut(r.Postgres, " ")
	if out, err := exec.CommandContext(ctx, "node", "--version").Output(); err == nil {
		r.Node = strings.TrimSpace(string(out))
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		first, _, _ := strings.Cut(string(text), " ")
		r.Load, _ = strconv.ParseFloat(first, 64)
	}
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if name, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(name) == "model name" {
				r.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	module, err := os.ReadFile(filepath.Join(root, "bench", "go.mod"))
	if err != nil {
		return err
	}
	found := regexp.MustCompile(`riverqueue/river v([0-9.]+)`).FindSubmatch(module)
	if found == nil {
		return errors.New("bench/go.mod does not name the version of River")
	}
	r.River = string(found[1])
	return nil
}

// markdown returns the generated section of docs/benchmarks.md. plots is the path of the directory with the plots; empty: there are none.
func (r *report) markdown(plots string) string {
	var out strings.Builder
	sizes := ""
	if r.Quick {
		sizes = " This was a run with --quick: fewer and smaller runs than the table of a whole run."
	}
	fmt.Fprintf(&out, "Measured on %s by one run of `./scripts/bench.sh`, which took %s, on %d cores (%s) that all processes share, with PostgreSQL %s, %s, Node.js %s, River %s and "+
		"graphile-worker %s; the load was %.1f at the start. The contenders of a row run in turns, %d times each. A value is the median, with the least and the greatest in brackets. "+
		"Each run works on a new copy of a vacuumed database, after a checkpoint. The contenders share the settings %s, with PostgreSQL's defaults for the others.%s\n\n",
		r.Date, r.Took.Round(time.Second), r.Cores, r.CPU, r.Postgres, r.Go, r.Node, r.River, r.Graphile, r.Load, r.Pairs, describeSettings(), sizes)
	out.WriteString("| row | measured | aim | |\n|---|---|---|---|\n")
	for _, row := range r.Rows {
		var values, aims, met []string
		for _, s := range row.Series {
			values = append(values, s.text())
		}
		for _, a := range row.Aims {
			aim, result := a.text()
			aims, met = append(aims, aim), append(met, result)
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s |\n", row.Title, strings.Join(values, "<br>"), strings.Join(aims, "<br>"), strings.Join(met, "<br>"))
	}
	out.WriteString("\n")
	for _, row := range r.Rows {
		audited := ""
		if row.Audited {
			audited = " The audit passed at the end."
		}
		fmt.Fprintf(&out, "- *%s*: %s.%s\n", row.Title, row.Detail, audited)
	}
	if plots != "" {
		fmt.Fprintf(&out, "\nThe values of all runs are in [%s/values.json](%s/values.json).\n\n", plots, plots)
		for _, row := range r.Rows {
			if row.plotted() {
				fmt.Fprintf(&out, "![%s](%s/%s.svg)\n", strings.ReplaceAll(row.Title, "`", ""), plots, row.Name)
			}
		}
	}
	return out.String()
}

func (s series) text() string {
	text := fmt.Sprintf("%s: %s %s", s.Name, number(s.median()), s.Unit)
	if len(s.Values) > 1 {
		text += fmt.Sprintf(" (%s to %s)", number(s.min()), number(s.max()))
	}
	return text
}

// text returns the aim, and its value with whether it is met.
func (a aim) text() (bound, result string) {
	value := number(a.Value)
	if a.Unit == "" {
		value = fmt.Sprintf("%.2f", a.Value)
	}
	subject := a.What
	if a.Unit == "" {
		subject = strings.TrimPrefix(a.What+" ", "ratio ") + "× " + a.Against
	}
	if a.Stated {
		return "stated: " + subject, value
	}
	sign := "≥"
	if a.AtMost {
		sign = "≤"
	}
	bound = fmt.Sprintf("%s %s %s", sign, number(a.Bound), subject)
	if a.Unit != "" {
		bound = fmt.Sprintf("%s %s %s %s", subject, sign, number(a.Bound), a.Unit)
	}
	if a.met() {
		return bound, value + ", met"
	}
	return bound, "**" + value + ", not met**"
}

// number formats a value with three significant digits at least, and thousands separated.
func number(v float64) string {
	switch magnitude := math.Abs(v); {
	case magnitude >= 100:
		return count(int(math.Round(v)))
	case magnitude >= 10:
		return trimZeros(strconv.FormatFloat(v, 'f', 1, 64))
	}
	return trimZeros(strconv.FormatFloat(v, 'f', 2, 64))
}

func trimZeros(s string) string { return strings.TrimSuffix(strings.TrimRight(s, "0"), ".") }

// count formats an integer with its thousands separated.
func count(n int) string {
	if n < 0 {
		return "-" + count(-n)
	}
	text := strconv.Itoa(n)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

const (
	sectionBegin = "<!-- begin: written by scripts/bench.sh -->"
	sectionEnd   = "<!-- end: written by scripts/bench.sh -->"
)

// replaceSection replaces what stands between the two marker comments of a page.
func replaceSection(page, section string) (string, error) {
	before, rest, ok := strings.Cut(page, sectionBegin)
	_, after, ok2 := strings.Cut(rest, sectionEnd)
	if !ok || !ok2 {
		return "", fmt.Errorf("the page lacks the lines %q and %q", sectionBegin, sectionEnd)
	}
	return before + sectionBegin + "\n\n" + strings.TrimSpace(section) + "\n\n" + sectionEnd + after, nil
}

// write writes the table, the values and the plots into a directory with a benchmarks.md. A relative directory is one of the project.
func (r *report) write(dir, root string) error {
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(root, dir)
	}
	page := filepath.Join(dir, "benchmarks.md")
	text, err := os.ReadFile(page)
	if err != nil {
		return fmt.Errorf("the page that gets the table: %w", err)
	}
	replaced, err := replaceSection(string(text), r.markdown("benchmarks"))
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	files := filepath.Join(dir, "benchmarks")
	if err := os.MkdirAll(files, 0o755); err != nil {
		return err
	}
	values, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(files, "values.json"), append(values, '\n'), 0o644); err != nil {
		return err
	}
	for _, row := range r.Rows {
		if !row.plotted() {
			continue
		}
		if err := os.WriteFile(filepath.Join(files, row.Name+".svg"), []byte(row.plot()), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(page, []byte(replaced), 0o644)
}
