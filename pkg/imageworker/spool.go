package imageworker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/task"
)

const (
	// uploadTries is how many uploads the claim tries that made the picture, as long as they fail quickly. Later claims try one.
	uploadTries = 3
	quickUpload = 2 * time.Second
	// unreadableWait is how long a task waits of which it isn't known whether an object store has its picture. Others go on.
	unreadableWait = 15 * time.Second
)

// publish stores a draft. Where the store is an object store, the picture goes to this host's spool first, and that is recorded: nobody
// pays for another one while it waits there.
func (w *Worker) publish(ctx context.Context, t task.Task, c processor.Call, draft *picture.Draft, about task.PendingResult, log logrus.FieldLogger) (picture.Picture, error) {
	p, err := draft.Publish(ctx, t.ID, t.Run, logOnce(log))
	if err == nil && !w.pictures.Remote() {
		w.observer.Stored(p.Bytes)
	}
	if err != nil || !w.pictures.Remote() {
		return p, err
	}
	about.Ref = w.pictures.Ref(p)
	saved, err := savePending(ctx, c, about)
	if err != nil {
		return p, err
	}
	u := &upload{w: w, task: t, call: c, pending: about, saved: saved, tries: uploadTries}
	return u.run(ctx)
}

// recover returns the picture of the task's run if an earlier claim stored it, or left it in a spool. done is false if there is none, and the
// claim may go on. An error is a *task.Error that uses no attempt, or says that the picture is lost: what may have been paid for is not requested
// again before it is known what became of it.
func (w *Worker) recover(ctx context.Context, t task.Task, c processor.Call, pending task.PendingResult, log logrus.FieldLogger) (r processor.Result, done bool, err error) {
	result := func(p picture.Picture) (processor.Result, bool, error) {
		f := fields(p)
		f["recovered"] = true
		return processor.Result{URL: p.URL, RequestID: pending.RequestID, Endpoint: pending.Endpoint, Usage: w.usageOf(t, pending), Fields: f, Recovered: true}, true, nil
	}
	spooled, here := w.pictures.IsRef(pending.Ref)
	waiting, found, err := w.pictures.Waiting(ctx, t.ID, t.Run)
	if err != nil {
		return r, false, err
	}
	if found {
		c.Progress(90, "storing the picture")
		u := &upload{w: w, task: t, call: c, pending: pending, saved: here, tries: 1}
		u.pending.Ref, u.pending.Usage = w.pictures.Ref(waiting), w.usageOf(t, pending)
		p, err := u.run(ctx)
		if err != nil {
			return r, false, err
		}
		log.Info("a picture that waited in the spool was uploaded")
		return result(p)
	}
	if pending.Ref != "" || t.RequestsSent > 0 || w.pictures.MayHave() {
		p, found, err := w.pictures.Find(ctx, t.ID, t.Run)
		switch {
		case err != nil:
			return r, false, w.unreadable(err)
		case found:
			return result(p)
		}
	}
	if !spooled {
		return r, false, nil
	}
	u := &upload{w: w, task: t, pending: pending, saved: true}
	if here {
		return r, false, u.lost("it is in the spool of this host no more, and the picture store does not have it")
	}
	err = u.waits(ctx, errors.New("it waits in the spool of another host (picture-spool in its LOG_DIR), which uploads it"))
	if e, ok := errors.AsType[*task.Error](err); ok && pending.Age < otherHostPatience {
		e.RetryAfter = min(e.RetryAfter, otherHostWait)
	}
	return r, false, err
}

// A picture of another host is claimed by chance, by this host or by that one. So that it is uploaded soon where that host works, waits do not grow
// before it is likely that it does not.
const (
	otherHostWait     = 10 * time.Second
	otherHostPatience = 10 * time.Minute
)

// usageOf returns what is known of the request that made a picture which an earlier claim left behind.
func (w *Worker) usageOf(t task.Task, pending task.PendingResult) task.Usage {
	if pending.Ref != "" || t.SentTo == "" {
		return pending.Usage
	}
	e, ok := w.endpoints(t.SentTo)
	if !ok { // it is not configured any more: another has other models and prices
		return task.Usage{Endpoint: t.SentTo}
	}
	options, _ := imageapi.ParseOptions(t.Options)
	usage := e.usage(t.Model, options)
	usage.Endpoint = t.SentTo
	return usage
}

// unreadable returns the error of a store that can't be read. An object store that is away keeps no other task: a fresh one does not need it.
func (w *Worker) unreadable(err error) error {
	if !w.pictures.Remote() {
		return err
	}
	e := *task.AsError(err)
	e.Disposition, e.Scope, e.RetryAfter = task.Release, task.ScopeTask, unreadableWait
	return &e
}

// upload is the work on a picture that waits in this host's spool.
type upload struct {
	w       *Worker
	task    task.Task
	call    processor.Call
	pending task.PendingResult
	saved   bool // pending is recorded
	tries   int
}

func (u *upload) run(ctx context.Context) (picture.Picture, error) {
	wait := 200 * time.Millisecond
	for try := 1; ; try++ {
		began := time.Now()
		p, err := u.w.pictures.Upload(ctx, u.task.ID, u.task.Run)
		switch {
		case err == nil:
			u.w.observer.Stored(p.Bytes)
			return p, nil
		case errors.Is(err, fs.ErrNotExist):
			return p, u.lost(err.Error())
		case try >= u.tries || time.Since(began) > quickUpload || !sleep(ctx, wait):
			return p, u.waits(ctx, err)
		}
		wait *= 2
	}
}

// waits returns the error of a picture that could not be uploaded yet. It releases the task, until it is lost.
func (u *upload) waits(ctx context.Context, cause error) error {
	e := &task.Error{Code: task.CodePictureStore, Disposition: task.Release, RequestID: u.pending.RequestID, Endpoint: u.pending.Endpoint, Usage: &u.pending.Usage, Err: cause,
		Message: "the picture is made and not yet uploaded: " + cause.Error(), RetryAfter: u.w.downloads.waitAt(u.pending.Age)}
	if !u.saved {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSave)
		defer cancel()
		switch err := u.call.SavePending(last, u.pending); {
		case errors.Is(err, task.ErrLeaseLost):
			return err
		case err != nil:
			e.Paid = true // the engine records it when the database is available again
			return e
		}
	}
	if ctx.Err() == nil && u.pending.Age >= u.w.downloads.Window {
		return u.lost(fmt.Sprintf("it could not be uploaded for %s (DOWNLOAD_WINDOW); the last try: %s", u.pending.Age.Round(time.Second), cause))
	}
	return e
}

// lost returns the error of a picture that is paid for and won't be stored any more.
func (u *upload) lost(why string) error {
	return &task.Error{Code: task.CodePictureLost, Disposition: task.Fail, Paid: true, RequestID: u.pending.RequestID, Endpoint: u.pending.Endpoint, Usage: &u.pending.Usage,
		Message: "the picture is lost: " + why}
}
