package processor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestRateLimiter_Unlimited(t *testing.T) {
	r := newRateLimiter(0, time.Second)
	for range 3 {
		allowed, wait := r.allow(start, 100)
		assert.Equal(t, 100, allowed)
		assert.Equal(t, time.Second, wait)
		r.use(start, allowed)
	}
}

func TestRateLimiter_SpreadsClaims(t *testing.T) {
	r := newRateLimiter(60, time.Minute)
	allowed, wait := r.allow(start, 5)
	assert.Equal(t, 1, allowed)
	assert.Equal(t, time.Second, wait)
	allowed, _ = r.allow(start, 5)
	assert.Equal(t, 1, allowed, "nothing was used")
	r.use(start, 1)
	allowed, wait = r.allow(start.Add(250*time.Millisecond), 5)
	assert.Zero(t, allowed)
	assert.InDelta(t, 750*time.Millisecond, wait, float64(time.Millisecond))
	allowed, _ = r.allow(start.Add(time.Second), 5)
	assert.Equal(t, 1, allowed)
	allowed, _ = r.allow(start.Add(time.Hour), 5)
	assert.Equal(t, 1, allowed, "unused claims don't add up")
}

func TestRateLimiter_Bursts(t *testing.T) {
	r := newRateLimiter(6000, time.Minute)
	allowed, _ := r.allow(start, 50)
	assert.Equal(t, 10, allowed, "a tenth of a second at once")
	allowed, wait := r.allow(start, 3)
	assert.Equal(t, 3, allowed)
	assert.Equal(t, time.Minute, wait, "there is no room for more")
}

func TestRateLimiter_WaitsNoLongerThanAPoll(t *testing.T) {
	r := newRateLimiter(1, 5*time.Second)
	r.use(start, 1)
	_, wait := r.allow(start, 1)
	assert.Equal(t, 5*time.Second, wait)
}
