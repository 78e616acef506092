// Package imageworker makes pictures: its Worker runs on the queue engine (pkg/processor), requests a picture from the image
// API and keeps it in the picture store.
package imageworker

import (
	"cmp"
	"context"
	"errors"
	"io"
	"time"

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

// Endpoint is an API that makes pictures.
type Endpoint struct {
	Generator
	Name       string                    // as the claim chooses it and a task records it
	ModelThere func(model string) string // returns the name that a task's model has there; nil: the same
	// Cost returns the price of a picture in millionths of a currency; an empty currency means that none is set. nil: none is set.
	Cost func(model string, o imageapi.Options) (micros int64, currency string)
}

// Endpoints returns the endpoint with a name, and false if there is none. With an empty name it returns the first.
type Endpoints func(name string) (Endpoint, bool)

// Only returns the endpoints of a worker that has one.
func Only(g Generator) Endpoints {
	e := Endpoint{Generator: g, Name: g.Endpoint()}
	return func(string) (Endpoint, bool) { return e, true }
}

func (e Endpoint) modelThere(model string) string {
	if e.ModelThere == nil {
		return model
	}
	return e.ModelThere(model)
}

// usage returns what a request to the endpoint used, as far as it is known before the answer.
func (e Endpoint) usage(model string, o imageapi.Options) task.Usage {
	u := task.Usage{Endpoint: e.Name, Model: e.modelThere(model)}
	if e.Cost != nil {
		u.Cost, u.Currency = e.Cost(model, o)
	}
	return u
}

// Worker makes pictures. It implements processor.Worker and is safe for concurrent use.
type Worker struct {
	endpoints Endpoints
	pictures  *picture.Store
	log       logrus.FieldLogger
	downloads Downloads
	observer  Observer
}

// New returns a worker that requests pictures from the endpoints of its tasks and keeps them in pictures. It logs drafts that could not be
// removed, and pictures that can't be stored at once.
func New(endpoints Endpoints, pictures *picture.Store, log logrus.FieldLogger) *Worker {
	return (&Worker{endpoints: endpoints, pictures: pictures, log: log, observer: unobserved{}}).WithDownloads(Downloads{})
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
	e, err := w.endpoint(cmp.Or(t.Endpoint, t.SentTo))
	if err != nil {
		return ""
	}
	return e.SizeNote(e.modelThere(t.Model), options)
}

// endpoint returns the endpoint with a name; one of another name, if it is not configured any more, so that what is paid for can be fetched.
func (w *Worker) endpoint(name string) (Endpoint, error) {
	e, ok := w.endpoints(name)
	if !ok {
		e, ok = w.endpoints("")
	}
	if !ok {
		return Endpoint{}, &task.Error{Code: task.CodeInternal, Disposition: task.Release, NotSent: true, Message: "no endpoint is configured"}
	}
	return e, nil
}

func (w *Worker) work(ctx context.Context, t task.Task, c processor.Call) (processor.Result, error) {
	log := w.log.WithFields(processor.TaskFields(t))
	pending, paid := c.Pending()
	if result, done, err := w.recover(ctx, t, c, pending, log); done || err != nil {
		return result, err
	}
	name := t.Endpoint
	if paid {
		name = pending.Endpoint
	}
	endpoint, err := w.endpoint(name)
	if err != nil {
		return processor.Result{}, err
	}
	var request imageapi.Request
	if !paid {
		if request, err = newRequest(ctx, t, c); err != nil {
			return processor.Result{}, err
		}
		request.Model = endpoint.modelThere(t.Model)
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
		d := &download{w: w, from: endpoint, task: t, call: c, pending: pending, saved: true, tries: 1, log: log}
		published, err := d.fetch(ctx, draft)
		if err != nil {
			w.reject(t, draft, err, log)
			return processor.Result{}, err
		}
		return processor.Result{URL: published.URL, RequestID: pending.RequestID, Endpoint: pending.Endpoint, Usage: pending.Usage,
			Fields: fields(published), Recovered: true}, nil
	}
	result, err := w.request(ctx, t, c, endpoint, request, draft, log)
	if err != nil {
		w.reject(t, draft, err, log)
	}
	return result, err
}

// request makes a paid request for the picture, and fetches it where the API answers with its URL.
func (w *Worker) request(ctx context.Context, t task.Task, c processor.Call, endpoint Endpoint, r imageapi.Request, draft *picture.Draft, log logrus.FieldLogger) (processor.Result, error) {
	usage := endpoint.usage(t.Model, r.Options)
	var sent time.Time
	begun := false
	r.BeforeSend = func(ctx context.Context) (string, error) {
		key, err := c.BeforeRequest(ctx)
		if err == nil {
			begun = true
			c.Progress(10, "waiting for the API")
		}
		sent = time.Now()
		return key, err
	}
	r.Progress = func(percent int, stage string) {
		// The beginning and the end of an attempt have their own parts of it: receiving or fetching the picture begins at 60.
		c.Progress(10+percent/2, stage)
	}
	response, err := endpoint.Generate(ctx, r, &progressWriter{w: draft, call: c, observer: w.observer})
	usage.Took, usage.Counts = time.Since(sent), response.Usage
	if begun {
		w.observer.RequestEnded(endpoint.Name, outcomeOf(err), usage.Took)
	}
	if err != nil {
		return processor.Result{}, failed(err, usage)
	}
	var published picture.Picture
	if response.URL != "" {
		pending := task.PendingResult{Ref: response.URL, RequestID: response.RequestID, Endpoint: endpoint.Name, Usage: usage}
		saved, err := savePending(ctx, c, pending)
		if err != nil {
			return processor.Result{}, err
		}
		d := &download{w: w, from: endpoint, task: t, call: c, pending: pending, saved: saved, tries: quickTries, log: log}
		published, err = d.fetch(ctx, draft)
		if err != nil {
			return processor.Result{}, err
		}
	} else {
		c.Progress(90, "storing the picture")
		published, err = w.publish(ctx, t, c, draft, task.PendingResult{RequestID: response.RequestID, Endpoint: endpoint.Name, Usage: usage}, log)
		if err != nil {
			e := *task.AsError(err)
			e.RequestID = response.RequestID
			return processor.Result{}, failed(&e, usage)
		}
	}
	return processor.Result{URL: published.URL, RequestID: response.RequestID, Endpoint: endpoint.Name, Usage: usage, Fields: fields(published)}, nil
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

// failed adds to an error what is known of its request. One that was not sent has no endpoint.
func failed(err error, usage task.Usage) error {
	e := *task.AsError(err)
	if !e.NotSent {
		e.Endpoint = usage.Endpoint
	}
	if e.Paid {
		e.Usage = &usage
	}
	return &e
}

// progressWriter reports progress when the picture begins to arrive.
type progressWriter struct {
	w        io.Writer
	call     processor.Call
	observer Observer
	begun    bool
}

func (p *progressWriter) Write(b []byte) (int, error) {
	if !p.begun {
		p.begun = true
		p.call.Progress(60, "receiving the picture")
	}
	p.observer.Received(len(b))
	return p.w.Write(b)
}
