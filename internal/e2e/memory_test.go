package e2e_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
)

// Peak memory of the processor while it makes 200 pictures of 4 MB, 50 at a time. Run it with -benchtime 1x.
func BenchmarkPeakMemory(b *testing.B) {
	noise := simapi.Noise(4 << 20)
	for _, scheme := range []string{"http", "socks5"} {
		b.Run(scheme, func(b *testing.B) {
			peak := 0.0
			for range b.N {
				peak = max(peak, peakMiB(b, scheme, noise))
			}
			b.ReportMetric(peak, "MiB-peak")
		})
	}
}

func peakMiB(b *testing.B, scheme string, picture []byte) float64 {
	const tasks = 200
	w := newFixture(b, through(scheme), func(a *simapi.Config, _ *simproxy.Config) { a.Picture = func(string) []byte { return picture } })
	w.grant(tasks)
	w.enqueue("noise", "--count", fmt.Sprint(tasks))
	release := w.api.BlockResponses()
	p := w.start("task-processor", "run", "--concurrency", "50")
	w.waitFor("50 requests", func() bool { return len(w.api.Calls()) == 50 })
	release()
	w.waitFor("all pictures", func() bool { return w.count("completed") == tasks })
	peak := highWater(b, p.Process.Pid)
	p.stop(syscall.SIGTERM).ok()
	return peak
}

var highWaterLine = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// highWater returns the peak resident memory of a process in MiB (VmHWM, proc(5)).
func highWater(b *testing.B, pid int) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(b, err)
	found := highWaterLine.FindSubmatch(status)
	require.NotNil(b, found, string(status))
	kib, err := strconv.Atoi(string(found[1]))
	require.NoError(b, err)
	return float64(kib) / 1024
}
