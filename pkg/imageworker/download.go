package imageworker

import (
	"context"
	"errors"
	"fmt"

	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/picture"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/task"
)

// Downloads are the times of fetching pictures that the API answers with the URL of. A time of 0 is the default.
type Downloads struct {
	Window    time.Duration // after which a picture that can't be fetched is lost; 1h
	GoneAfter time.Duration // in which its host has to say in three claims that it does not have it; 10m
	MinWait   time.Duration // between the first claim that could not fetch it and the next; it is doubled from claim to claim; 2s
	MaxWait   time.Duration // 1m
}

func (d *Downloads) setDefaults() {
	for _, each := range []struct {
		field *time.Duration
		value time.Duration
	}{{&d.Window, time.Hour}, {&d.GoneAfter, 10 * time.Minute}, {&d.MinWait, 2 * time.Second}, {&d.MaxWait, time.Minute}} {
		if *each.field <= 0 {
			*each.field = each.value
		}
	}
}

const (
	// quickTries is how many GETs the claim sends that made the picture: its host is often some seconds late. Later claims send one, so that
	// a host that is down does not keep other tasks waiting.
	quickTries = 3
	// goneClaims is how many claims must end with Gone until the picture is lost.
	goneClaims = 3
	// maxRetryAfter bounds the wait that the host of a picture may ask for.
	maxRetryAfter = 5 * time.Minute
	// lastSave bounds the last try to record a URL when the claim has ended.
	lastSave = 5 * time.Second
)

// savePending records the URL of a picture before it is fetched. saved is false if it could not be recorded in three quarters of the claim's
// time, or if the database refuses it: then this claim fetches it without. The picture, once it is published, is as good as a record.
func savePending(ctx context.Context, c processor.Call, p task.PendingResult) (saved bool, err error) {
	bounded, cancel := ctx, context.CancelFunc(func() {})
	if deadline, ok := ctx.Deadline(); ok {
		bounded, cancel = context.WithTimeout(ctx, time.Until(deadline)*3/4)
	}
	defer cancel()
	if err = c.SavePending(bounded, p); errors.Is(err, task.ErrLeaseLost) {
		return false, err
	}
	return err == nil, nil
}

// download is the work on a picture that is paid for and has to be fetched.
type download struct {
	w       *Worker
	from    Endpoint
	task    task.Task
	call    processor.Call
	pending task.PendingResult
	saved   bool // pending is recorded: another claim can go on
	tries   int
	log     logrus.FieldLogger
}

// fetch fetches the picture and publishes it. Until it succeeds, the task is released: no other paid request is made for the run.
func (d *download) fetch(ctx context.Context, draft *picture.Draft) (picture.Picture, error) {
	for wait := d.w.downloads.MinWait; ; wait = min(2*wait, d.w.downloads.MaxWait) {
		published, err := d.try(ctx, draft)
		if err == nil {
			return published, nil
		}
		e := *task.AsError(err)
		e.RequestID, e.Endpoint, e.Usage = d.pending.RequestID, d.pending.Endpoint, &d.pending.Usage
		if d.saved || !d.mayBeLater(&e) || !sleep(ctx, wait) || draft.Reset() != nil {
			return picture.Picture{}, d.outcome(ctx, &e)
		}
		// Its URL is not recorded, so that no other claim could fetch it.
	}
}

// mayBeLater reports whether another GET may deliver the picture.
func (d *download) mayBeLater(e *task.Error) bool {
	return e.Code == task.CodeDownload || e.Code == task.CodeNotAPicture && !e.Paid
}

func (d *download) try(ctx context.Context, draft *picture.Draft) (picture.Picture, error) {
	if ctx.Err() != nil {
		return picture.Picture{}, &task.Error{Code: task.CodeDownload, Disposition: task.Release, Err: ctx.Err(),
			Message: "the API made the picture, and the claim ended before it was fetched"}
	}
	d.call.Progress(60, "fetching the picture")
	if err := d.from.Download(ctx, d.pending.Ref, d.tries, &progressWriter{w: draft, call: d.call, observer: d.w.observer}); err != nil {
		return picture.Picture{}, err
	}
	d.call.Progress(90, "storing the picture")
	return d.w.publish(ctx, d.task, d.call, draft, d.pending, d.log)
}

// sleep waits, and reports false if ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// outcome returns what becomes of the task whose picture could not be fetched or stored.
func (d *download) outcome(ctx context.Context, e *task.Error) error {
	switch e.Code {
	case task.CodePictureStore:
		if e.Disposition == task.Release {
			return e // it waits in the spool
		}
		// The URL is still there: the picture is fetched again when it can be stored.
		if d.saved {
			e.Disposition, e.Scope, e.Paid = task.Pause, task.ScopeAll, false
		}
		return e
	case task.CodeNotAPicture:
		// What was cut off, or is not there yet, may be whole later. A kind of picture that can't be used stays one.
		if !d.mayBeLater(e) {
			return e
		}
		e.Code, e.Disposition = task.CodeDownload, task.Release
	}
	if e.Disposition != task.Release {
		return e
	}
	if !d.saved {
		// The URL is what was paid for: the last try to record it has a time of its own.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSave)
		defer cancel()
		switch err := d.call.SavePending(last, d.pending); {
		case errors.Is(err, task.ErrLeaseLost):
			return err
		case err != nil:
			e.Paid = true // the engine records it when the database is available again
			return e
		}
	}
	if e.Code != task.CodeDownload {
		return e // interrupted
	}
	p := d.pending
	switch {
	case ctx.Err() != nil:
	case e.Gone && p.Gone+1 >= goneClaims && p.GoneFor >= d.w.downloads.GoneAfter:
		return d.lost(e, fmt.Sprintf("its host has said for %s that it does not have it", p.GoneFor.Round(time.Second)))
	case p.Age >= d.w.downloads.Window:
		return d.lost(e, fmt.Sprintf("it could not be fetched for %s (DOWNLOAD_WINDOW)", p.Age.Round(time.Second)))
	}
	e.RetryAfter = d.wait(e.RetryAfter)
	return e
}

// wait returns the time until the next claim. It grows with the age of the URL, and so doubles from claim to claim.
func (d *download) wait(asked time.Duration) time.Duration {
	return max(d.w.downloads.waitAt(d.pending.Age), min(asked, maxRetryAfter))
}

// waitAt returns the time until the next claim of a result of some age.
func (d *Downloads) waitAt(age time.Duration) time.Duration {
	return min(max(age, d.MinWait), d.MaxWait)
}

// lost returns the error for a picture that is paid for and won't be fetched any more.
func (d *download) lost(last *task.Error, why string) error {
	e := *last
	e.Code, e.Disposition, e.Paid, e.Gone, e.RetryAfter = task.CodePictureLost, task.Fail, true, false, 0
	e.Message = "the picture is lost: " + why + "; the last try: " + last.Message
	return &e
}

// Reset implements imageapi.Resetter.
func (p *progressWriter) Reset() error {
	r, ok := p.w.(interface{ Reset() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return r.Reset()
}
