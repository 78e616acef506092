package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// event is one line of "go test -json"; see "go doc test2json".
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output and build-fail
	FailedBuild string // of a package's fail: the ImportPath whose build failed
	Test        string
	Elapsed     float64 // seconds
	Output      string
}

// testRun is a test, or the part of a package's output that belongs to no test (then its name is empty).
type testRun struct {
	name   string
	output strings.Builder
	result string // pass, fail, skip; empty while it runs
}

// packageRun is a package whose tests run, or ran.
type packageRun struct {
	name    string
	seconds float64
	result  string
	tests   []*testRun // in the order in which they started
	byName  map[string]*testRun
}

// skippedTest is a test that was not run, and why.
type skippedTest struct{ pkg, name, reason string }

// report collects events. It is not safe for concurrent use.
type report struct {
	out     io.Writer
	err     error // the first error of out
	verbose bool

	running map[string]*packageRun
	ended   []*packageRun
	builds  map[string]*strings.Builder // compiler output by ImportPath, until it is printed
	skipped []skippedTest
	broken  []string // failed tests and packages, for the list at the end
	passed  int      // tests, without their subtests
}

func newReport(out io.Writer, verbose bool) *report {
	return &report{out: out, verbose: verbose, running: map[string]*packageRun{}, builds: map[string]*strings.Builder{}}
}

func (r *report) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(r.out, format, args...); err != nil && r.err == nil {
		r.err = err
	}
}

// read handles the events until in ends. Lines have no limit of length.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			r.line(line)
		}
		if errors.Is(err, io.EOF) {
			return r.err
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) line(line []byte) {
	var e event
	if line[0] != '{' || json.Unmarshal(line, &e) != nil || e.Action == "" {
		r.printf("%s\n", bytes.TrimRight(line, "\r\n"))
		return
	}
	r.handle(e)
}

func (r *report) handle(e event) {
	switch e.Action {
	case "build-output":
		if r.builds[e.ImportPath] == nil {
			r.builds[e.ImportPath] = &strings.Builder{}
		}
		r.builds[e.ImportPath].WriteString(e.Output)
	case "output":
		r.test(e).output.WriteString(e.Output)
	case "run":
		r.test(e)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.packageEnd(e)
		} else {
			r.testEnd(e)
		}
	}
}

// test returns the test of an event. With -count=N a test runs several times: each run is a testRun.
func (r *report) test(e event) *testRun {
	p := r.pkg(e.Package)
	t := p.byName[e.Test]
	if t == nil || (e.Action == "run" && t.result != "") {
		t = &testRun{name: e.Test}
		p.byName[e.Test] = t
		p.tests = append(p.tests, t)
	}
	return t
}

func (r *report) pkg(name string) *packageRun {
	p := r.running[name]
	if p == nil {
		p = &packageRun{name: name, byName: map[string]*testRun{}}
		r.running[name] = p
	}
	return p
}

func (r *report) testEnd(e event) {
	t := r.test(e)
	t.result = e.Action
	top := !strings.Contains(e.Test, "/")
	switch e.Action {
	case "pass":
		if top {
			r.passed++
		}
	case "fail":
		name := e.Package + " " + e.Test
		// A test fails with its subtest; then the subtest is enough.
		if !slices.ContainsFunc(r.broken, func(s string) bool { return strings.HasPrefix(s, name+"/") }) {
			r.broken = append(r.broken, name)
		}
	case "skip":
		r.skipped = append(r.skipped, skippedTest{e.Package, e.Test, skipReason(t.output.String())})
	}
}

func (r *report) packageEnd(e event) {
	p := r.pkg(e.Package)
	p.result, p.seconds = e.Action, e.Elapsed
	delete(r.running, e.Package)
	own := p.byName[""]
	switch {
	case r.verbose:
		for _, t := range p.tests {
			r.printf("%s", t.output.String())
		}
	case e.Action == "fail":
		r.printFailure(p, e.FailedBuild)
	default:
		if own != nil {
			r.printf("%s", resultLines(own.output.String()))
		}
		for _, t := range p.tests {
			if strings.HasPrefix(t.name, "Benchmark") {
				r.printf("%s", withoutRunLines(t.output.String()))
			}
		}
	}
	if e.Action == "fail" && !slices.ContainsFunc(r.broken, func(s string) bool { return strings.HasPrefix(s, p.name+" ") }) {
		r.broken = append(r.broken, p.name)
	}
	p.tests, p.byName = nil, nil
	r.ended = append(r.ended, p)
}

// printFailure prints what is needed to understand why a package failed: the compiler's output, the whole output of
// each test that failed or did not end, and what belongs to no test. If no test is to blame, it prints everything.
func (r *report) printFailure(p *packageRun, failedBuild string) {
	if b := r.builds[failedBuild]; b != nil {
		r.printf("%s", b.String())
		b.Reset()
	}
	blamed := slices.ContainsFunc(p.tests, func(t *testRun) bool { return t.name != "" && t.result != "pass" && t.result != "skip" })
	for _, t := range p.tests {
		if t.name == "" {
			continue
		}
		if blamed && (t.result == "pass" || t.result == "skip") {
			// When the test process dies, go test adds its last output to the test that ended last.
			if at := crash.FindStringIndex(t.output.String()); at != nil {
				r.printf("%s", t.output.String()[at[0]:])
			}
			continue
		}
		text := withoutRunLines(t.output.String())
		if t.result == "" {
			text += "--- NOT ENDED: " + t.name + "\n"
		}
		r.printf("%s", text)
	}
	if own := p.byName[""]; own != nil {
		r.printf("%s", own.output.String())
	} else {
		r.printf("FAIL\t%s\n", p.name)
	}
}

// crash matches the first line that the Go runtime, or the testing package, prints when the test process dies.
var crash = regexp.MustCompile(`(?m)^(panic: |fatal error: |SIGQUIT: |\*\*\* Test killed)`)

var runLine = regexp.MustCompile(`(?m)^=== (RUN|PAUSE|CONT|NAME) .*\n`)

// withoutRunLines removes the lines that only tell which test runs.
func withoutRunLines(output string) string { return runLine.ReplaceAllString(output, "") }

// resultLines returns the lines about a passed package that "go test" prints: its ok line and its benchmarks.
func resultLines(output string) string {
	var out strings.Builder
	for line := range strings.Lines(output) {
		for _, prefix := range []string{"ok ", "Benchmark", "goos:", "goarch:", "pkg:", "cpu:", "coverage:", "warning:", "WARNING:"} {
			if strings.HasPrefix(line, prefix) {
				out.WriteString(line)
				break
			}
		}
	}
	return out.String()
}

var logPrefix = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: `)

// skipReason returns what a test passed to Skip, without the file and line.
func skipReason(output string) string {
	var lines []string
	for line := range strings.Lines(output) {
		if strings.HasPrefix(line, "=== ") || strings.HasPrefix(strings.TrimSpace(line), "--- ") {
			continue
		}
		if line = strings.TrimSpace(logPrefix.ReplaceAllString(line, "")); line != "" {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return "no reason given"
	}
	return strings.Join(lines, " ")
}

// failed reports whether any test or package failed, or did not end.
func (r *report) failed() bool { return len(r.broken) > 0 || len(r.running) > 0 }

// summary prints what the whole run amounts to.
func (r *report) summary() error {
	for _, b := range r.builds {
		r.printf("%s", b.String()) // of a build that no package's result named
	}
	for name, p := range r.running {
		r.broken = append(r.broken, name+" (did not end)")
		r.printFailure(p, "")
	}
	slices.SortStableFunc(r.ended, func(a, b *packageRun) int { return cmp.Compare(b.seconds, a.seconds) })
	r.printf("\n== seconds by package\n")
	for _, p := range r.ended {
		if p.result != "skip" { // skip: it has no tests
			r.printf("%8.1f  %s\n", p.seconds, p.name)
		}
	}
	if len(r.skipped) > 0 {
		r.printf("\n== skipped tests\n")
		for _, s := range r.skipped {
			r.printf("%s %s: %s\n", s.pkg, s.name, s.reason)
		}
	}
	if len(r.broken) > 0 {
		r.printf("\n== failed\n")
		for _, b := range r.broken {
			r.printf("%s\n", b)
		}
	}
	r.printf("\n%d passed, %d failed, %d skipped\n", r.passed, len(r.broken), len(r.skipped))
	return r.err
}
