package processor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestPace_Expected(t *testing.T) {
	var p pace
	now := time.Now()
	assert.Zero(t, p.expected(now), "nothing is known")
	for range 200 { // 20,000 a second for 100 ms
		p.add(now, 10)
		now = now.Add(500 * time.Microsecond)
	}
	assert.InDelta(t, 1000, p.expected(now), 50)
	assert.InDelta(t, 500, p.expected(now.Add(aheadTime)), 50, "it slows down")
	assert.Zero(t, p.expected(now.Add(2*aheadTime)), "nothing has ended for some time")

	p = pace{}
	for range 10 { // three workers with tasks of two seconds
		p.add(now, 3)
		now = now.Add(2 * time.Second)
		assert.Zero(t, p.expected(now))
	}
	p.add(now, 1)
	assert.LessOrEqual(t, p.expected(now), 1)
}
