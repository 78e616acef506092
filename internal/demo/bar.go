package demo

import (
	"fmt"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// bar shows how many tasks are done: moving on a terminal, a line now and then elsewhere.
type bar struct {
	mu    sync.Mutex
	conf  Config
	shown *progressbar.ProgressBar // nil: not on a terminal
	done  int
	total int
	said  time.Time
}

func newBar(conf Config, total int) *bar {
	b := &bar{conf: conf, total: total, said: time.Now()}
	if conf.Terminal {
		b.shown = progressbar.NewOptions(total, progressbar.OptionSetWriter(conf.Out), progressbar.OptionSetDescription("tasks"),
			progressbar.OptionShowCount(), progressbar.OptionSetWidth(40), progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetRenderBlankState(true))
	}
	return b
}

func (b *bar) step() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done++
	switch {
	case b.shown != nil:
		_ = b.shown.Add(1)
	case b.done == b.total || time.Since(b.said) > 3*time.Second:
		b.said = time.Now()
		fmt.Fprintf(b.conf.Out, "%d of %d tasks done\n", b.done, b.total)
	}
}

func (b *bar) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shown != nil {
		_ = b.shown.Exit()
		fmt.Fprintln(b.conf.Out)
	}
}
