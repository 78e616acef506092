package app_test

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/app"
	"imagetasks/pkg/supervise"
)

// A stop command may be repeated; only a second SIGTERM or SIGINT cuts what is in flight.
func TestUntilSignal_PlannedStopMayBeRepeated(t *testing.T) {
	signals := make(chan os.Signal)
	a := &app.App{Signals: signals}
	cut := make(chan struct{}, 10)
	ctx, stop := a.UntilSignal(t.Context(), func() { cut <- struct{}{} })
	defer stop()
	signals <- supervise.PlannedStop
	<-ctx.Done()
	for _, s := range []os.Signal{supervise.PlannedStop, syscall.SIGTERM, supervise.PlannedStop} {
		signals <- s
	}
	assert.Empty(t, cut)
	signals <- syscall.SIGINT
	select {
	case <-cut:
	case <-time.After(time.Minute):
		require.Fail(t, "the second signal does not cut")
	}
}
