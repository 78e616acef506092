package store_test

import (
	"math"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func TestGrantCredits_InvalidArguments(t *testing.T) {
	b := fresh(t)
	for _, n := range []int64{0, -5, store.MaxCost + 1, math.MaxInt64} {
		_, err := b.GrantCredits(b.ctx, uuid.NewString(), n, "", "k")
		assert.ErrorIs(t, err, task.ErrInvalid)
	}
	for _, user := range []string{"", "a\nb", strings.Repeat("x", 201)} {
		_, err := b.GrantCredits(b.ctx, user, 5, "", "k")
		assert.ErrorIs(t, err, task.ErrInvalid, "%q", user)
	}
	_, err := b.GrantCredits(b.ctx, "u", 5, "", "")
	assert.ErrorIs(t, err, task.ErrInvalid)
	assert.ErrorContains(t, err, "idempotency_key")
	assert.Zero(t, b.balance(uuid.NewString()))
	assert.Zero(t, b.number("select count(*) from imagetasks.credits"))
}
