// Package progress shows how much of a long job is done: a bar on a terminal, a line every few seconds elsewhere.
package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

const (
	lineInterval = 3 * time.Second        // between two lines where out is not a terminal
	drawInterval = 100 * time.Millisecond // between two drawings of the bar
	barWidth     = 40                     // columns
)

// Bar shows how many of a total are done. It is made by New and safe for concurrent use.
type Bar struct {
	mu       sync.Mutex
	out      io.Writer
	terminal bool
	total    int
	done     int
	started  time.Time
	shown    time.Time // when it was last written
}

// New returns a bar on out, at 0 of total tasks.
func New(out io.Writer, terminal bool, total int) *Bar {
	now := time.Now()
	b := &Bar{out: out, terminal: terminal, total: total, started: now, shown: now}
	if terminal {
		b.draw(now)
	}
	return b
}

// Add counts n more as done.
func (b *Bar) Add(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done += n
	now := time.Now()
	interval := lineInterval
	if b.terminal {
		interval = drawInterval
	}
	if b.done != b.total && now.Sub(b.shown) < interval {
		return
	}
	b.shown = now
	if b.terminal {
		b.draw(now)
		return
	}
	fmt.Fprintf(b.out, "%d of %d tasks done\n", b.done, b.total)
}

// Close draws the bar a last time and ends its line.
func (b *Bar) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.terminal {
		b.draw(time.Now())
		fmt.Fprintln(b.out)
	}
}

func (b *Bar) draw(now time.Time) {
	share := 1.0
	if b.total > 0 {
		share = min(max(float64(b.done)/float64(b.total), 0), 1)
	}
	filled := int(share * barWidth)
	rate := 0.0
	if seconds := now.Sub(b.started).Seconds(); seconds > 0 {
		rate = float64(b.done) / seconds
	}
	fmt.Fprintf(b.out, "\r%3.0f%% [%s%s] %d/%d tasks, %.0f tasks/s \x1b[K", share*100,
		strings.Repeat("=", filled), strings.Repeat(" ", barWidth-filled), b.done, b.total, rate)
}
