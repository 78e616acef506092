package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// watch ends a request in which nothing moves, and one that takes too long for its size.
type watch struct {
	stall  time.Duration
	timer  *time.Timer
	why    func() error // of the end of the request's context
	cancel context.CancelFunc
	ended  atomic.Bool
}

// stalledError is the cause of a request's end.
type stalledError struct{ reason string }

func (e *stalledError) Error() string { return e.reason }

// watch begins to watch a request that transfers up to size bytes. Its context ends with it.
func (b *Backend) watch(ctx context.Context, size int64) (*watch, context.Context) {
	longest := b.conf.Stall + time.Duration(size/slowest)*time.Second
	ctx, cancelCause := context.WithCancelCause(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, longest, &stalledError{fmt.Sprintf("it was not finished in %s", longest)})
	w := &watch{stall: b.conf.Stall, why: func() error { return context.Cause(ctx) }, cancel: func() { cancel(); cancelCause(nil) }}
	w.timer = time.AfterFunc(w.stall, func() { cancelCause(&stalledError{fmt.Sprintf("nothing arrived for %s", w.stall)}) })
	return w, ctx
}

// moved records that a part was transferred.
func (w *watch) moved() {
	if !w.ended.Load() {
		w.timer.Reset(w.stall)
	}
}

func (w *watch) end() {
	w.ended.Store(true)
	w.timer.Stop()
	w.cancel()
}

// cause returns why a request ended, where that was here.
func (w *watch) cause(err error) error {
	if e, ok := errors.AsType[*stalledError](w.why()); ok && err != nil {
		return e
	}
	return err
}

// watchedFile is the body of an upload.
type watchedFile struct {
	io.ReadSeeker
	w *watch
}

func (f *watchedFile) Read(p []byte) (int, error) {
	f.w.moved()
	return f.ReadSeeker.Read(p)
}

// watchedBody is the body of a response.
type watchedBody struct {
	io.ReadCloser
	w *watch
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.w.moved()
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.w.cause(err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	defer b.w.end()
	return b.ReadCloser.Close()
}
