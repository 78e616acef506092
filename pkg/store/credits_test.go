package store_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/task"
)

func TestGrantCredits_InvalidArguments(t *testing.T) {
	b := fresh(t)
	for _, n := range []int{0, -5} {
		_, err := b.GrantCredits(b.ctx, uuid.NewString(), n, "")
		assert.Error(t, err)
	}
	_, err := b.GrantCredits(b.ctx, "not-a-uuid", 5, "")
	assert.Error(t, err)
	_, err = b.Balance(b.ctx, uuid.NewString())
	assert.ErrorIs(t, err, task.ErrNotFound)
	assert.Zero(t, b.number("select count(*) from user_credits"))
}
