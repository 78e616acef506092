package store_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/postgres"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func TestAllOfItWorksBehindATransactionPooler(t *testing.T) {
	b := open(t, server.Pooled(t))
	done, err := b.Migrate(b.ctx)
	require.NoError(t, err)
	assert.Empty(t, done)
	users := []string{b.user(20), b.user(20)}
	var wg sync.WaitGroup
	for _, u := range users {
		wg.Go(func() { b.enqueue(u, 20, 1) })
	}
	wg.Wait()
	for range 8 {
		wg.Go(func() {
			for range 5 {
				tasks := b.claim(1)
				if len(tasks) == 0 {
					return
				}
				_, err := b.RenewLeases(b.ctx, time.Minute, []store.LeaseRenewal{{Lease: tasks[0].Lease()}})
				assert.NoError(t, err)
				_, err = b.Fail(b.ctx, tasks[0].Lease(), boom)
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 20, b.balance(users[0]))
	assert.Equal(t, 20, b.balance(users[1]))

	// LISTEN hears nothing there, and neither fails nor hangs.
	ctx, cancel := context.WithCancel(b.ctx)
	wg.Go(func() { b.Listen(ctx, cancel) })
	wg.Wait()
	b.requireAudit()
}

func TestADatabaseThatIsAwayIsToldFromARefusal(t *testing.T) {
	ctx := t.Context()
	cluster, err := postgres.Start(ctx, postgres.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { assert.NoError(t, cluster.Stop()) }()
	require.NoError(t, migrate(ctx, cluster.URL("postgres")))
	s, err := store.Open(store.Config{URL: cluster.URL("postgres")})
	require.NoError(t, err)
	defer s.Close()

	woken := make(chan struct{}, 100)
	listening, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { s.Listen(listening, func() { woken <- struct{}{} }) })
	defer wg.Wait()
	defer stop()
	<-woken

	require.NoError(t, s.Ping(ctx))
	require.NoError(t, cluster.Halt())
	for range 3 { // pooled connections that broke, then new ones refused
		err := s.Ping(ctx)
		require.Error(t, err)
		assert.True(t, store.IsUnavailable(err), "%v", err)
	}
	require.NoError(t, cluster.Launch(ctx))
	require.Eventually(t, func() bool { return s.Ping(ctx) == nil }, time.Minute, 10*time.Millisecond)
	<-woken // the listener came back by itself, and a look is due

	_, err = s.Fail(ctx, task.Lease{TaskID: "none"}, boom)
	assert.False(t, store.IsUnavailable(err))
	_, err = s.Balance(ctx, "no uuid")
	assert.False(t, store.IsUnavailable(err), "%v", err)
	assert.False(t, store.IsUnavailable(nil))
	assert.False(t, store.IsUnavailable(errors.New("something else")))
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	assert.False(t, store.IsUnavailable(s.Ping(cancelled)))
}

// Workers, users and repairers act at random and at once, with leases that run out under them; in
// the end the books balance and every task is in a state that its money agrees with.
func TestRandomHistoriesBalance(t *testing.T) {
	b := fresh(t)
	users := []string{b.user(60), b.user(60), b.user(60)}
	var wg sync.WaitGroup
	for actor := range 8 {
		random := rand.New(rand.NewPCG(42, uint64(actor)))
		wg.Go(func() {
			var hand []task.Task
			for range 150 {
				err := act(b, random, users[random.IntN(len(users))], &hand)
				if err != nil && !errors.Is(err, task.ErrLeaseLost) && !errors.Is(err, task.ErrFinished) &&
					!errors.Is(err, task.ErrInsufficientCredits) {
					t.Errorf("actor %d: %v", actor, err)
				}
			}
		})
	}
	wg.Wait()
	b.requireAudit()
	worked := b.number(`select count(*) from image_tasks where status = 'completed'`)
	refunded := b.number(`select count(*) from credit_ledger where kind = 'refund'`)
	assert.Positive(t, worked)
	assert.Positive(t, refunded)
	assert.Equal(t, 180, b.balance(users[0])+b.balance(users[1])+b.balance(users[2])+
		b.number(`select coalesce(sum(credits_deducted), 0) from image_tasks where status not in ('failed', 'cancelled')`))
}

func act(b *bench, random *rand.Rand, user string, hand *[]task.Task) error {
	var mine task.Task
	if len(*hand) > 0 {
		mine = (*hand)[random.IntN(len(*hand))]
	}
	switch n := random.IntN(12); {
	case n < 3:
		_, err := b.Enqueue(b.ctx, store.NewTask{UserID: user, Prompt: "x", Cost: 1 + random.IntN(3), Count: 1 + random.IntN(3)})
		return err
	case n < 5 || mine.ID == "":
		tasks, err := b.Claim(b.ctx, store.ClaimRequest{Worker: "w", Limit: 3, Lease: time.Duration(random.IntN(5)) * time.Millisecond, MaxAttempts: 2})
		*hand = append(*hand, tasks...)
		return err
	case n == 5:
		return b.Retry(b.ctx, mine.Lease(), 0, boom)
	case n == 6:
		_, err := b.Release(b.ctx, store.ReleaseRequest{Lease: mine.Lease()})
		return err
	case n == 7:
		_, err := b.Fail(b.ctx, mine.Lease(), boom)
		return err
	case n == 8:
		_, err := b.Cancel(b.ctx, mine.ID, "")
		return err
	case n == 9:
		_, err := b.Sweep(b.ctx, store.Sweep{OlderThan: time.Millisecond, Limit: 2})
		return err
	case n == 10:
		_, err := b.FailAbandoned(b.ctx, 2, 2)
		return err
	default:
		_, err := b.Complete(b.ctx, store.Completion{Lease: mine.Lease()})
		return err
	}
}
