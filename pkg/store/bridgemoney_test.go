package store_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// end fails the only task in the queue and writes its end.
func (b bridged) end() {
	b.tb.Helper()
	b.fail(b.claimOneOf())
	b.apply()
}

// The application cancels and refunds while a completion is on its way: that is no refund of a completed run by us.
func TestBridgeMoney_CancelledBeforeTheCompletionIsWritten(t *testing.T) {
	b := newBridged(t)
	b.buy("job", "ann")
	b.sync()
	b.complete(b.claimOneOf(), "https://pictures.example/1.png")
	b.exec(`update public.jobs set state = 'cancelled', refunded = true; update public.wallets set credits = credits + 1`)
	b.sync()
	b.apply()
	assert.Equal(t, "completed superseded", b.state("job"))
	b.exec(`update public.jobs set refunded = false; update public.jobs set refunded = true`)
	b.requireAgreement()
	assert.Equal(t, 10, b.wallet("ann"))
}
