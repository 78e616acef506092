package store

import (
	"context"
	"time"
)

const (
	// listenerPing is the interval of pings on the LISTEN connection. A ping detects a broken connection that reports no
	// error, so that it is replaced.
	listenerPing = time.Minute
	// reconnectMin and reconnectMax bound the wait before the LISTEN connection is made again; it doubles.
	reconnectMin, reconnectMax = time.Second, time.Minute
)

// Listen calls wake when tasks may have become due: once subscribed, at each NOTIFY, and after each reconnect, because
// notifications sent in between are lost. It returns when ctx ends. Behind a transaction pooler no notification arrives,
// and this can't be distinguished from an empty queue, so callers must poll too.
func (s *Store) Listen(ctx context.Context, wake func()) {
	wait := reconnectMin
	for {
		if session, err := s.connector.connect(ctx); err == nil {
			// An error means that the connection broke or that the server refuses LISTEN: both call for a new connection.
			_ = session.conn.Listen(ctx, s.names.Channel, listenerPing, func() {
				wait = reconnectMin
				wake()
			})
			session.conn.Abort()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, reconnectMax)
	}
}
