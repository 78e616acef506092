package store

import (
	"context"
	"time"

	"imagetasks/pkg/pgdial"
)

// listenerPing detects a LISTEN connection that broke and reports no error, so that it is replaced.
var listenerPing = pgdial.Ping{After: 15 * time.Second, Timeout: 5 * time.Second}

// reconnectMin and reconnectMax bound the wait before the LISTEN connection is made again; it doubles.
const reconnectMin, reconnectMax = time.Second, 15 * time.Second

// Listen calls wake when tasks may have become due: once subscribed, at each NOTIFY, and after each reconnect, because
// notifications sent in between are lost. It returns when ctx ends. It calls lost, which is optional, when the connection breaks or can't be
// made, once until it is subscribed again. Behind a transaction pooler no notification arrives, and this can't be distinguished from an
// empty queue, so callers must poll too.
func (s *Store) Listen(ctx context.Context, wake func(), lost func(error)) {
	wait := reconnectMin
	reported := false
	for {
		err := s.listen(ctx, func() {
			wait, reported = reconnectMin, false
			wake()
		})
		if ctx.Err() == nil && !reported && lost != nil {
			lost(err)
		}
		reported = true
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, reconnectMax)
	}
}

// listen listens on a new connection until it breaks, or until the server refuses LISTEN: both call for a new connection.
func (s *Store) listen(ctx context.Context, wake func()) error {
	session, err := s.connector.connect(ctx)
	if err != nil {
		return err
	}
	defer session.wire.Abort()
	return session.wire.Listen(ctx, s.names.Channel, listenerPing, wake)
}
