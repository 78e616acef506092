package taskprocessor

import (
	"context"
	"fmt"
	"sync"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"

	"imagetasks/pkg/processor"
)

// notifyInterval is the time between two notifications of systemd, unless its watchdog asks for a shorter one.
const notifyInterval = 15 * time.Second

// extension is how much longer systemd is asked to wait with each notification while the processor stops, because paid
// requests finish: the rest of a stop takes at most this long after the last one.
const extension = time.Minute

// notifySystemd tells systemd that the processor is ready, alive or stopping, if it runs this program as a unit of Type=notify
// (https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html), until stop is called. ctx ends when the processor
// is told to stop.
//
// A processor whose claim loop is stalled is not alive. One that has no database is: killing it would help nobody, and cut its
// paid requests.
func notifySystemd(ctx context.Context, status func() processor.Status, log logrus.FieldLogger) (stop func()) {
	ended := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(watchdogInterval())
		defer tick.Stop()
		failing := false
		for stopping := ctx.Done(); ; {
			if state := systemdState(ctx.Err() != nil, status()); state != "" {
				_, err := sdnotify.SdNotify(false, state)
				if err != nil && !failing {
					log.WithError(err).Warn("systemd could not be notified")
				}
				failing = err != nil
			}
			select {
			case <-ended:
				return
			case <-stopping:
				stopping = nil
			case <-tick.C:
			}
		}
	})
	return func() {
		close(ended)
		running.Wait()
	}
}

// watchdogInterval is a third of what the watchdog allows.
func watchdogInterval() time.Duration {
	if bound, err := sdnotify.SdWatchdogEnabled(false); err == nil && bound > 0 {
		return min(bound/3, notifyInterval)
	}
	return notifyInterval
}

// systemdState returns what to notify; empty: nothing.
func systemdState(stopping bool, s processor.Status) string {
	switch {
	case stopping:
		return fmt.Sprintf("%s\n%s\nEXTEND_TIMEOUT_USEC=%d", sdnotify.SdNotifyStopping, sdnotify.SdNotifyWatchdog, extension.Microseconds())
	case s.LastHeartbeat.IsZero() || s.Stalled:
		return "" // it is not ready yet, or hung
	}
	return sdnotify.SdNotifyReady + "\n" + sdnotify.SdNotifyWatchdog
}
