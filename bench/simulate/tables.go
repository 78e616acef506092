package main

import (
	"fmt"
	"math"
	"os"
	"strings"
)

const (
	sectionBegin = "<!-- begin: written by scripts/simulate.sh --write -->"
	sectionEnd   = "<!-- end: written by scripts/simulate.sh --write -->"
)

// writeTables writes the tables that follow from the measured values into docs/scaling.md.
func writeTables(path, values string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("the page that gets the tables: %w", err)
	}
	section, err := tables(values)
	if err != nil {
		return err
	}
	replaced, err := replaceSection(string(page), section)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(replaced), 0o644)
}

// replaceSection replaces what stands between the two marker comments of a page.
func replaceSection(page, section string) (string, error) {
	before, rest, ok := strings.Cut(page, sectionBegin)
	_, after, ok2 := strings.Cut(rest, sectionEnd)
	if !ok || !ok2 {
		return "", fmt.Errorf("the page lacks the lines %q and %q", sectionBegin, sectionEnd)
	}
	return before + sectionBegin + "\n\n" + strings.TrimSpace(section) + "\n\n" + sectionEnd + after, nil
}

// tables returns the costs with their origin, at how many tasks a day each resource of some sizes is full, and two simulations.
func tables(values string) (string, error) {
	f, err := readFigures(values)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	f.writeCosts(&out)
	f.writeLimits(&out)
	for _, arguments := range [][]string{nil, {"--concurrency", "40", "--bandwidth", "20"}} {
		o, err := parse(append(arguments, "--values", values), &out)
		if err != nil {
			return "", err
		}
		command := strings.Join(append([]string{"./scripts/simulate.sh"}, arguments...), " ")
		fmt.Fprintf(&out, "\n```text\n$ %s\n%s```\n", command, newReport(simulate(o.config)).text())
	}
	return out.String(), nil
}

func (f figures) writeCosts(out *strings.Builder) {
	c := f.costs()
	if f.Date == "" {
		out.WriteString("docs/benchmarks/values.json is missing, so these figures are built in: they are of a shorter run on 2 cores with other work on them.\n\n")
	} else {
		fmt.Fprintf(out, "From `./scripts/bench.sh` of %s on %s, which PostgreSQL and its clients shared (docs/benchmarks/values.json):\n\n", f.Date, plural(int(f.Cores), "core"))
	}
	out.WriteString("| | what a task takes | from the table of benchmarks.md | value |\n|---|---|---|---|\n")
	cost := func(name, what, origin, value string) {
		fmt.Fprintf(out, "| `%s` | %s | %s | %s |\n", name, what, origin, value)
	}
	cores := number(f.Cores) + " cores"
	cost("E", "PostgreSQL: to enqueue it alone", fmt.Sprintf("%s / %s tasks/s (*enqueue*, single)", cores, separated(f.Single)), milliseconds(c.Enqueue))
	cost("B", "PostgreSQL: to enqueue it by a call for 1,000", fmt.Sprintf("%s / %s tasks/s (*enqueue*, bulk)", cores, separated(f.Bulk)), milliseconds(f.Cores/f.Bulk))
	cost("W", "PostgreSQL: to claim it, record its request and complete it, in full groups",
		fmt.Sprintf("%s / %s tasks/s (*paid request*) − %.0f µs of the processor (*no-op tasks*), and `S` / 200", cores, separated(f.Paid), f.TaskCPU),
		milliseconds(c.grouped()-c.Enqueue))
	cost("S", "PostgreSQL: a statement of a processor, at most; three for a task that is alone", "p50 of *commit acknowledged → work begins*", milliseconds(c.Statement))
	cost("C", "processor: CPU for each MiB of the answer", fmt.Sprintf("%.1f ms / %.2f MiB in base64 (*CPU time for a picture*)", f.PictureCPU, pictureMiB),
		milliseconds(c.Picture))
	cost("M", "processor: memory for each task in flight", fmt.Sprintf("(%.0f − %d MiB) / %s tasks (*peak memory*)", f.Memory, memoryIdle, separated(f.MemoryTasks)),
		precise(c.MemoryTask)+" MiB")
}

func (f figures) writeLimits(out *strings.Builder) {
	c := f.costs()
	fmt.Fprintf(out, "\nFull at so many tasks, with a peak of %d × the mean of the day and answers of %d MiB:\n\n", peakFactor, answerMiB)
	out.WriteString("| resource | tasks/s | tasks a day |\n|---|---|---|\n")
	limit := func(what string, perSecond float64) {
		fmt.Fprintf(out, "| %s | %s | %s |\n", what, precise(perSecond), count(perSecond*86400/peakFactor))
	}
	limit("PostgreSQL with 2 cores, enqueued one by one: `2 / (E + W)`", 2/c.grouped())
	limit("PostgreSQL with 2 cores, enqueued in bulk: `2 / (B + W)`", 2/(c.grouped()-c.Enqueue+f.Cores/f.Bulk))
	limit(fmt.Sprintf("a processor's host with 2 cores: `2 / (C × %d)`", answerMiB), 2/(c.Picture*answerMiB+c.Task))
	for _, mbit := range []float64{100, 1000} {
		limit(fmt.Sprintf("proxy with %.0f Mbit/s: `%.0f / (8.39 × 1.03 × %d)`", mbit, mbit, answerMiB), mbit*1e6/8/wire(answerMiB))
	}
	for _, slots := range []float64{3, 100, 1000} {
		limit(fmt.Sprintf("`TASK_CONCURRENCY=%.0f`, %d s for a task: `%.0f / %d`; memory `%d + %.0f × M` = %.0f MiB, %s open files", slots, apiSeconds, slots, apiSeconds,
			memoryIdle, slots, c.MemoryIdle+slots*c.MemoryTask, separated(filesIdle+slots*filesPerTask)), slots/apiSeconds)
	}
}

// What the table of limits is for.
const (
	peakFactor = 3
	answerMiB  = 4
	apiSeconds = 30
)

func milliseconds(seconds float64) string { return precise(seconds*1000) + " ms" }

// precise formats a value with two significant digits at least.
func precise(v float64) string {
	if v >= 10 || v == 0 {
		return count(v)
	}
	digits := int(math.Ceil(-math.Log10(v))) + 1
	return fmt.Sprintf("%.*f", max(1, digits), v)
}
