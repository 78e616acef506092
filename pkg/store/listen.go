package store

import (
	"context"
	"time"

	"github.com/lib/pq"
)

// listenerPing is the interval of pings on the LISTEN connection. A ping detects a broken connection that reports no
// error, so that it is replaced.
const listenerPing = time.Minute

// Listen calls wake when tasks may have become due: once subscribed, at each NOTIFY, and after each reconnect, because
// notifications sent in between are lost. It returns when ctx ends. Behind a transaction pooler no notification arrives,
// and this can't be distinguished from an empty queue, so callers must poll too.
func (s *Store) Listen(ctx context.Context, wake func()) {
	listener := pq.NewDialListener(s.dialer, s.dsn, time.Second, time.Minute, nil)
	subscribed := make(chan struct{})
	go func() {
		defer close(subscribed)
		// This waits for the first connection and fails only after the listener is closed.
		_ = listener.Listen(s.names.Channel)
	}()
	defer func() {
		_ = listener.Close()
		<-subscribed
	}()
	tick := time.NewTicker(listenerPing)
	defer tick.Stop()
	ready := subscribed
	for {
		select {
		case <-ctx.Done():
			return
		case <-ready:
			ready = nil
			wake()
		case <-listener.NotificationChannel():
			wake()
		case <-tick.C:
			_ = listener.Ping() // a failure makes the listener reconnect
		}
	}
}
