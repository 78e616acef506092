package processor

import (
	"context"
	"sync/atomic"
)

// userLimit lets further tasks of a user start when one of the user's tasks left the state processing, as far as USER_CONCURRENCY
// allows. While that is off it does nothing. It is safe for concurrent use.
type userLimit struct {
	queue    Queue
	database *databaseState
	on       atomic.Bool
}

// refresh reads whether USER_CONCURRENCY is on, and admits what an earlier call may have missed: a processor may end between the outcome
// of a task and the admission of the next.
func (u *userLimit) refresh(ctx context.Context) {
	control, err := bounded(ctx, u.queue.Control)
	if err != nil {
		u.database.failed(ctx, "read the limits", err)
		return
	}
	u.on.Store(control.UserConcurrency > 0)
	// Tasks that were held before the limit was switched off are admitted, too.
	u.admit(ctx, u.queue.AdmitAll)
}

// left is called after a task of the user left the state processing.
func (u *userLimit) left(ctx context.Context, user string) {
	if u.on.Load() {
		u.admit(ctx, func(ctx context.Context) error { return u.queue.Admit(ctx, user) })
	}
}

func (u *userLimit) admit(ctx context.Context, call func(context.Context) error) {
	if _, err := bounded(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, call(ctx) }); err != nil {
		u.database.failed(ctx, "admit the next tasks of a user", err)
	}
}
