package store_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Workers, users and sweeps act concurrently and at random, with leases that expire meanwhile. Afterwards the audit
// passes, and the state of every task matches its credits.
func TestRandomHistory_PassesAudit(t *testing.T) {
	b := fresh(t)
	users := []string{b.user(60), b.user(60), b.user(60)}
	var wg sync.WaitGroup
	for actor := range 8 {
		random := rand.New(rand.NewPCG(42, uint64(actor)))
		wg.Go(func() {
			var claimed []task.Task
			for range 150 {
				err := act(b, random, users[random.IntN(len(users))], &claimed)
				if err != nil && !errors.Is(err, task.ErrLeaseLost) && !errors.Is(err, task.ErrWrongState) &&
					!errors.Is(err, task.ErrInsufficientCredits) {
					t.Errorf("actor %d: %v", actor, err)
				}
			}
		})
	}
	wg.Wait()
	b.requireAudit()
	completed := b.number(`select count(*) from imagetasks.tasks where status = 'completed'`)
	refunded := b.number(`select count(*) from imagetasks.ledger where kind = 'refund'`)
	assert.Positive(t, completed)
	assert.Positive(t, refunded)
	assert.Equal(t, 180, b.balance(users[0])+b.balance(users[1])+b.balance(users[2])+
		b.number(`select coalesce(sum(credits_deducted), 0) from imagetasks.tasks where status not in ('failed', 'cancelled')`))
}

func act(b *testStore, random *rand.Rand, user string, claimed *[]task.Task) error {
	var mine task.Task
	if len(*claimed) > 0 {
		mine = (*claimed)[random.IntN(len(*claimed))]
	}
	switch n := random.IntN(13); {
	case n < 3:
		_, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: user, Prompt: "x", Cost: int64(random.IntN(4)), Count: 1 + random.IntN(3)})
		return err
	case n < 5 || mine.ID == "":
		tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 3, Lease: time.Duration(random.IntN(5)) * time.Millisecond, MaxAttempts: 2})
		*claimed = append(*claimed, tasks...)
		return err
	case n == 5:
		return b.Retry(b.ctx, mine.Lease(), 0, errServer)
	case n == 6:
		_, err := b.Release(b.ctx, store.ReleaseRequest{Lease: mine.Lease()})
		return err
	case n == 7:
		_, err := b.Fail(b.ctx, mine.Lease(), errServer, true)
		return err
	case n == 8:
		_, err := b.Cancel(b.ctx, mine.ID, "")
		return err
	case n == 9:
		_, err := b.Sweep(b.ctx, store.Sweep{OlderThan: time.Millisecond, Limit: 2})
		return err
	case n == 11:
		_, err := b.Redrive(b.ctx, mine.ID, random.IntN(2)*mine.Run)
		return err
	case n == 10:
		_, err := b.FailAbandoned(b.ctx, 2, 0, 2, uuid.Nil)
		return err
	default:
		_, err := b.Complete(b.ctx, store.Completion{Lease: mine.Lease()})
		return err
	}
}
