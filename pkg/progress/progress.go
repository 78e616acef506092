// Package progress shows how far a long job is: a bar on a terminal, a line now and then elsewhere.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// lineEvery is the least time between two lines where there is no terminal.
const lineEvery = 3 * time.Second

// Bar shows how many of a total are done. It is made by New and safe for concurrent use.
type Bar struct {
	mu    sync.Mutex
	out   io.Writer
	bar   *progressbar.ProgressBar // nil: not on a terminal
	total int
	done  int
	said  time.Time
}

// New returns a bar on out, at 0 of total tasks.
func New(out io.Writer, terminal bool, total int) *Bar {
	b := &Bar{out: out, total: total, said: time.Now()}
	if terminal {
		b.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(out), progressbar.OptionSetDescription("tasks"),
			progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("tasks"), progressbar.OptionSetWidth(40),
			progressbar.OptionSetPredictTime(false), progressbar.OptionSetRenderBlankState(true))
	}
	return b
}

// Add moves the bar on.
func (b *Bar) Add(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done += n
	switch {
	case b.bar != nil:
		_ = b.bar.Add(n)
	case b.done == b.total || time.Since(b.said) > lineEvery:
		b.said = time.Now()
		fmt.Fprintf(b.out, "%d of %d tasks done\n", b.done, b.total)
	}
}

// Close ends the bar's line.
func (b *Bar) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bar != nil {
		_ = b.bar.Exit()
		fmt.Fprintln(b.out)
	}
}
