package store

import (
	"context"
	"time"

	"github.com/lib/pq"
)

// listenerPing is how often an idle LISTEN connection is tried, so that one that died silently is
// replaced.
const listenerPing = time.Minute

// Listen calls wake whenever tasks may have become due: at a NOTIFY, and after each reconnect, for
// what was notified meanwhile is lost. It returns when ctx ends. Behind a transaction pooler
// nothing is ever notified, and that can't be told from a quiet queue: callers poll as well.
func (s *Store) Listen(ctx context.Context, wake func()) {
	listener := pq.NewDialListener(s.dialer, s.dsn, time.Second, time.Minute, nil)
	subscribed := make(chan struct{})
	go func() {
		defer close(subscribed)
		// It fails only once the listener is closed, and waits for the first connection.
		_ = listener.Listen(Channel)
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
