package processor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestLoopWatch_Stalled(t *testing.T) {
	w := loopWatch{timeout: time.Minute}
	w.progress()
	assert.False(t, w.stalled())
	w.progressAt = time.Now().Add(-2 * time.Minute)
	assert.True(t, w.stalled())
	w.progress()
	assert.False(t, w.stalled())
	w.progressAt = time.Now().Add(-2 * time.Minute)
	w.end()
	assert.False(t, w.stalled(), "a loop that ended as intended is not stalled")
}
