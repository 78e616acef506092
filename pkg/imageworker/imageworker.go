// Package imageworker makes pictures: its Worker runs on the queue engine (pkg/processor), requests a picture from the image
// API and keeps it in the picture store.
package imageworker

import (
	"context"
	"errors"
	"io"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/redact"
	"imagetasks/pkg/task"
)

// Generator is what a Worker needs of the image API's client.
type Generator interface {
	Generate(ctx context.Context, r imageapi.Request, w io.Writer) (imageapi.Result, error)
	// Download fetches a picture from a URL that Generate has returned; see imageapi.Client.
	Download(ctx context.Context, address string, tries int, w io.Writer) error
	// Endpoint returns the API's address, without secrets, for the record of a task.
	Endpoint() string
	// SizeNote returns what the size of a picture differs in from the aspect ratio in the options, or "".
	SizeNote(modelName string, o imageapi.Options) string
}

// Worker makes pictures. It implements processor.Worker and is safe for concurrent use.
type Worker struct {
	generator Generator
	pictures  *picture.Store
	log       logrus.FieldLogger
	downloads Downloads
}

// New returns a worker that requests pictures from generator and keeps them in pictures. It logs drafts that could not be
// removed, and pictures that can't be stored at once.
func New(generator Generator, pictures *picture.Store, log logrus.FieldLogger) *Worker {
	return (&Worker{generator: generator, pictures: pictures, log: log}).WithDownloads(Downloads{})
}

// WithDownloads returns a worker with other times for downloads.
func (w *Worker) WithDownloads(d Downloads) *Worker {
	d.setDefaults()
	other := *w
	other.downloads = d
	return &other
}

// Work implements processor.Worker: it makes the picture of the task's run and publishes it. A picture of the run that an earlier
// claim published, and did not complete, is used; one whose URL an earlier claim recorded is fetched: nothing is requested then. An error
// is a *task.Error, or that of a method of the Call.
func (w *Worker) Work(ctx context.Context, t task.Task, c processor.Call) (processor.Result, error) {
	result, err := w.work(ctx, t, c)
	if err == nil {
		result.Note = w.note(t)
	}
	return result, err
}

// note returns what differs from what the task asked for. It is the same whichever claim of the run completes it.
func (w *Worker) note(t task.Task) string {
	options, err := imageapi.ParseOptions(t.Options)
	if err != nil {
		return ""
	}
	return w.generator.SizeNote(t.Model, options)
}

func (w *Worker) work(ctx context.Context, t task.Task, c processor.Call) (processor.Result, error) {
	log := w.log.WithField("task", t.ID)
	pending, paid := c.Pending()
	if result, done, err := w.recover(ctx, t, c, pending, log); done || err != nil {
		return result, err
	}
	var request imageapi.Request
	if !paid {
		var err error
		if request, err = newRequest(ctx, t, c); err != nil {
			return processor.Result{}, err
		}
	}
	draft, err := w.pictures.Create()
	if err != nil {
		return processor.Result{}, err
	}
	defer func() {
		if err := draft.Discard(); err != nil {
			log.WithError(err).Warn("a draft could not be removed")
		}
	}()
	if paid {
		d := &download{w: w, task: t, call: c, pending: pending, saved: true, tries: 1, log: log}
		published, err := d.fetch(ctx, draft)
		if err != nil {
			w.reject(t, draft, err, log)
			return processor.Result{}, err
		}
		return processor.Result{URL: published.URL, RequestID: pending.RequestID, Endpoint: pending.Endpoint, Fields: fields(published), Recovered: true}, nil
	}
	result, err := w.request(ctx, t, c, request, draft, log)
	if err != nil {
		w.reject(t, draft, err, log)
	}
	return result, err
}

// request makes a paid request for the picture, and fetches it where the API answers with its URL.
func (w *Worker) request(ctx context.Context, t task.Task, c processor.Call, r imageapi.Request, draft *picture.Draft, log logrus.FieldLogger) (processor.Result, error) {
	endpoint := w.generator.Endpoint()
	r.BeforeSend = func(ctx context.Context) (string, error) {
		key, err := c.BeforeRequest(ctx, endpoint)
		if err == nil {
			c.Progress(10, "waiting for the API")
		}
		return key, err
	}
	response, err := w.generator.Generate(ctx, r, &progressWriter{w: draft, call: c})
	if err != nil {
		return processor.Result{}, withEndpoint(err, endpoint)
	}
	var published picture.Picture
	if response.URL != "" {
		pending := task.PendingResult{Ref: response.URL, RequestID: response.RequestID, Endpoint: endpoint}
		saved, err := savePending(ctx, c, pending)
		if err != nil {
			return processor.Result{}, err
		}
		d := &download{w: w, task: t, call: c, pending: pending, saved: saved, tries: quickTries, log: log}
		published, err = d.fetch(ctx, draft)
		if err != nil {
			return processor.Result{}, err
		}
	} else {
		c.Progress(90, "storing the picture")
		published, err = w.publish(ctx, t, c, draft, task.PendingResult{RequestID: response.RequestID, Endpoint: endpoint}, log)
		if err != nil {
			e := *task.AsError(err)
			e.RequestID, e.Endpoint = response.RequestID, endpoint
			return processor.Result{}, &e
		}
	}
	return processor.Result{URL: published.URL, RequestID: response.RequestID, Endpoint: endpoint, Fields: fields(published)}, nil
}

// reject keeps for the operator what was received and can't be used, if there is something.
func (w *Worker) reject(t task.Task, draft *picture.Draft, err error, log logrus.FieldLogger) {
	e := task.AsError(err)
	if e.NotSent || e.Code == task.CodeShutdown || e.Code == task.CodePictureStore || e.Code == task.CodeDownload {
		return // nothing was received, or it is received again
	}
	options, _ := imageapi.ParseOptions(t.Options)
	private := imageapi.Request{Prompt: t.Prompt, Options: options}.PrivateTexts()
	cause := e.Message
	for _, text := range private {
		cause = redact.Prompt(cause, text)
	}
	about := picture.Rejected{TaskID: t.ID, Run: t.Run, Code: e.Code, Cause: cause, RequestID: e.RequestID, Endpoint: e.Endpoint}
	var failed error
	if unusable, ok := errors.AsType[*imageapi.Unusable](err); ok && len(unusable.Head) > 0 {
		about.ContentType = unusable.ContentType
		failed = w.pictures.Reject(about, unusable.Head)
	} else {
		failed = draft.Reject(about, private)
	}
	if failed != nil {
		log.WithError(failed).Warn("what the API sent and can't be used could not be kept")
	}
}

func fields(p picture.Picture) map[string]any {
	return map[string]any{"picture": p.Name, "bytes": p.Bytes}
}

// logOnce returns a function that logs only at its first call that a picture can't be stored.
func logOnce(log logrus.FieldLogger) func(error) {
	logged := false
	return func(err error) {
		if !logged {
			log.WithError(err).Warn("the picture arrived and can't be stored; it is kept in memory and stored as soon as possible")
		}
		logged = true
	}
}

// newRequest reads what the task asks for. An error is a *task.Error, or that of Call.Inputs.
func newRequest(ctx context.Context, t task.Task, c processor.Call) (imageapi.Request, error) {
	options, err := imageapi.ParseOptions(t.Options)
	if err != nil {
		return imageapi.Request{}, err
	}
	request := imageapi.Request{Prompt: t.Prompt, Model: t.Model, Options: options}
	if t.Inputs == 0 {
		return request, nil
	}
	c.Progress(5, "reading the input pictures")
	inputs, err := c.Inputs(ctx)
	if err != nil {
		return imageapi.Request{}, err
	}
	for _, in := range inputs {
		input := imageapi.Input{Content: in.Content, URL: in.URL}
		if in.Mask {
			request.Mask = &input
		} else {
			request.Inputs = append(request.Inputs, input)
		}
	}
	return request, nil
}

// withEndpoint adds the API that a request went to. A request that was not sent has none.
func withEndpoint(err error, endpoint string) error {
	e := *task.AsError(err)
	if !e.NotSent {
		e.Endpoint = endpoint
	}
	return &e
}

// progressWriter reports progress when the picture begins to arrive.
type progressWriter struct {
	w     io.Writer
	call  processor.Call
	begun bool
}

func (p *progressWriter) Write(b []byte) (int, error) {
	if !p.begun {
		p.begun = true
		p.call.Progress(60, "receiving the picture")
	}
	return p.w.Write(b)
}
