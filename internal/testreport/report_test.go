package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// goTest runs "go test -json" on a module with the given test file, and returns the report on it.
func goTest(t *testing.T, verbose bool, testFile string, args ...string) (out string, r *report) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module sample\n\ngo 1.24\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sample_test.go"), []byte(testFile), 0o600))
	cmd := exec.Command("go", append([]string{"test", "-json"}, append(args, "./...")...)...)
	cmd.Dir = dir
	events, err := cmd.CombinedOutput()
	if err != nil {
		require.ErrorAs(t, err, new(*exec.ExitError))
	}
	var text bytes.Buffer
	r = newReport(&text, verbose)
	require.NoError(t, r.read(bytes.NewReader(events)))
	require.NoError(t, r.summary())
	assert.Equal(t, err != nil, r.failed(), "%s\n%s", events, text.String())
	return text.String(), r
}

const mixed = `package sample

import ("fmt"; "testing")

func TestGood(t *testing.T) { fmt.Println("noise"); t.Log("quiet log") }
func TestNeedsRoot(t *testing.T) { t.Skip("needs CAP_SYS_ADMIN: see user_namespaces(7)") }
func TestTable(t *testing.T) {
	t.Run("ok", func(t *testing.T) {})
	t.Run("bad", func(t *testing.T) { fmt.Println("printed"); t.Log("first line\nsecond line"); t.Errorf("got %d", 7) })
}
`

func TestReport_Failure(t *testing.T) {
	t.Parallel()
	out, _ := goTest(t, false, mixed)
	for _, part := range []string{"printed\n", "first line\n", "second line\n", "got 7\n", "--- FAIL: TestTable", "FAIL\tsample\t",
		"== failed\nsample TestTable/bad\n", "== skipped tests\nsample TestNeedsRoot: needs CAP_SYS_ADMIN: see user_namespaces(7)\n"} {
		assert.Contains(t, out, part)
	}
	assert.True(t, strings.HasSuffix(out, "\n1 passed, 1 failed, 1 skipped\n"), out)
	assert.NotContains(t, out, "noise")
	assert.NotContains(t, out, "=== RUN")
}

func TestReport_VerbosePrintsEverything(t *testing.T) {
	t.Parallel()
	out, _ := goTest(t, true, mixed, "-run", "Good")
	for _, part := range []string{"=== RUN", "noise\n", "quiet log\n", "--- PASS: TestGood", "ok  \tsample"} {
		assert.Contains(t, out, part)
	}
}

func TestReport_SuccessIsShort(t *testing.T) {
	t.Parallel()
	out, r := goTest(t, false, mixed, "-run", "Good", "-count", "3")
	assert.True(t, strings.HasPrefix(out, "ok  \tsample"), out)
	assert.Equal(t, 3, r.passed)
	assert.Regexp(t, `(?m)^ +\d+\.\d  sample$`, out)
	assert.NotContains(t, out, "skipped tests")
}

func TestReport_PanicAndUnfinishedTest(t *testing.T) {
	t.Parallel()
	out, _ := goTest(t, false, `package sample

import "testing"

func TestWaits(t *testing.T) { t.Parallel(); t.Log("waited for the lock"); select {} }
func TestPanics(t *testing.T) { t.Parallel(); panic("out of order") }
`, "-parallel", "2")
	assert.Contains(t, out, "panic: out of order")
	assert.Contains(t, out, "goroutine ")
	assert.Contains(t, out, "sample TestPanics")
}

func TestReport_BuildFailure(t *testing.T) {
	t.Parallel()
	out, _ := goTest(t, false, "package sample\n\nimport \"testing\"\n\nfunc TestX(t *testing.T) { undefinedName() }\n")
	assert.Contains(t, out, "undefined: undefinedName")
	assert.Contains(t, out, "[build failed]")
	assert.Contains(t, out, "== failed\nsample\n")
}

func TestReport_TestMainFails(t *testing.T) {
	t.Parallel()
	out, _ := goTest(t, false, `package sample

import ("fmt"; "os"; "testing")

func TestMain(m *testing.M) { m.Run(); fmt.Println("cleanup failed"); os.Exit(1) }
func TestGood(t *testing.T) { t.Log("passed") }
`)
	assert.Contains(t, out, "cleanup failed")
	assert.Contains(t, out, "== failed\nsample\n")
}

func TestReport_Benchmark(t *testing.T) {
	t.Parallel()
	out, _ := goTest(t, false, "package sample\n\nimport \"testing\"\n\nfunc BenchmarkX(b *testing.B) { for b.Loop() {} }\n", "-bench", ".", "-benchtime", "1x")
	assert.Regexp(t, `BenchmarkX\S*\s+1\s+.*ns/op`, out)
}

func TestReport_OtherLinesAndEarlyEnd(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	r := newReport(&out, false)
	require.NoError(t, r.read(strings.NewReader("go: downloading example.com/x v1.0.0\n"+
		`{"Action":"run","Package":"p","Test":"TestX"}`+"\n"+`{"Action":"output","Package":"p","Test":"TestX","Output":"last words\n"}`)))
	require.NoError(t, r.summary())
	assert.True(t, r.failed())
	for _, part := range []string{"go: downloading example.com/x v1.0.0\n", "last words\n", "--- NOT ENDED: TestX\n", "p (did not end)\n"} {
		assert.Contains(t, out.String(), part)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestReport_WriteError(t *testing.T) {
	t.Parallel()
	r := newReport(fullDisk{}, false)
	assert.ErrorContains(t, r.read(strings.NewReader("a line\n")), "no space left")
}

func TestSkipReason(t *testing.T) {
	t.Parallel()
	for output, want := range map[string]string{
		"=== RUN   TestX\n    x_test.go:7: needs systemd\n--- SKIP: TestX (0.00s)\n":  "needs systemd",
		"    x_test.go:7: needs\n        two things\n    --- SKIP: TestX/a (0.00s)\n": "needs two things",
		"=== RUN   TestX\n--- SKIP: TestX (0.00s)\n":                                  "no reason given",
	} {
		assert.Equal(t, want, skipReason(output))
	}
}

// A test process that dies, by the timeout of go test say, writes its reason after the end of another test.
func TestReport_CrashAfterAPassedTest(t *testing.T) {
	var text strings.Builder
	r := newReport(&text, false)
	for _, line := range []string{
		`{"Action":"run","Package":"p","Test":"TestSlow"}`,
		`{"Action":"run","Package":"p","Test":"TestQuick"}`,
		`{"Action":"output","Package":"p","Test":"TestQuick","Output":"quiet\n"}`,
		`{"Action":"pass","Package":"p","Test":"TestQuick"}`,
		`{"Action":"output","Package":"p","Test":"TestQuick","Output":"panic: test timed out after 10m0s\n"}`,
		`{"Action":"output","Package":"p","Test":"TestQuick","Output":"goroutine 1 [running]:\n"}`,
		`{"Action":"fail","Package":"p","Elapsed":600}`,
	} {
		require.NoError(t, r.read(strings.NewReader(line+"\n")))
	}
	assert.Contains(t, text.String(), "panic: test timed out after 10m0s\ngoroutine 1 [running]:\n")
	assert.Contains(t, text.String(), "--- NOT ENDED: TestSlow\n")
	assert.NotContains(t, text.String(), "quiet")
}
