package processor

import (
	"sync"
	"time"
)

// aheadTime is how long a task that is claimed ahead of a free worker is expected to wait for one.
const aheadTime = 50 * time.Millisecond

// pace measures how many attempts end in aheadTime. It is safe for concurrent use, and the zero value has measured nothing.
type pace struct {
	mu          sync.Mutex
	began       time.Time // of the period that is measured
	last, ended int       // in the period before, and in this one
}

// add records that attempts ended.
func (p *pace) add(now time.Time, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.roll(now)
	p.ended += n
}

// expected returns how many attempts will end in aheadTime if they go on as in the last one or two periods.
func (p *pace) expected(now time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.roll(now)
	measured := aheadTime + now.Sub(p.began)
	return int(time.Duration(p.last+p.ended) * aheadTime / measured)
}

// roll begins another period if this one is over.
func (p *pace) roll(now time.Time) {
	switch over := now.Sub(p.began); {
	case over < aheadTime:
	case over < 2*aheadTime:
		p.last, p.ended, p.began = p.ended, 0, p.began.Add(aheadTime)
	default:
		p.last, p.ended, p.began = 0, 0, now
	}
}
