// Package imageworker makes pictures: its Worker runs on the queue engine (pkg/processor), requests a picture from the image
// API and keeps it in the picture store.
package imageworker

import (
	"context"
	"io"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/task"
)

// Generator is what a Worker needs of the image API's client.
type Generator interface {
	Generate(ctx context.Context, r imageapi.Request, w io.Writer) (imageapi.Result, error)
	// Endpoint returns the API's address, without secrets, for the record of a task.
	Endpoint() string
}

// Worker makes pictures. It implements processor.Worker and is safe for concurrent use.
type Worker struct {
	generator Generator
	pictures  *picture.Store
	log       logrus.FieldLogger
}

// New returns a worker that requests pictures from generator and keeps them in pictures. It logs drafts that could not be
// removed.
func New(generator Generator, pictures *picture.Store, log logrus.FieldLogger) *Worker {
	return &Worker{generator, pictures, log}
}

// Work implements processor.Worker: it makes the task's picture and publishes it under the task's lease. An error is a
// *task.Error, or that of Call.Inputs.
func (w *Worker) Work(ctx context.Context, t task.Task, c processor.Call) (processor.Result, error) {
	endpoint := w.generator.Endpoint()
	request, err := newRequest(ctx, t, c)
	if err != nil {
		return processor.Result{}, err
	}
	draft, err := w.pictures.Create()
	if err != nil {
		return processor.Result{}, err
	}
	defer func() {
		if err := draft.Discard(); err != nil {
			w.log.WithField("task", t.ID).WithError(err).Warn("a draft could not be removed")
		}
	}()
	request.BeforeSend = func(ctx context.Context) (string, error) {
		key, err := c.BeforeRequest(ctx, endpoint)
		if err == nil {
			c.Progress(10, "waiting for the API")
		}
		return key, err
	}
	response, err := w.generator.Generate(ctx, request, &progressWriter{w: draft, call: c})
	if err != nil {
		return processor.Result{}, withEndpoint(err, endpoint)
	}
	c.Progress(90, "storing the picture")
	published, err := draft.Publish(t.Lease())
	if err != nil {
		e := *task.AsError(err)
		e.RequestID, e.Endpoint = response.RequestID, endpoint
		return processor.Result{}, &e
	}
	return processor.Result{
		URL: published.URL, RequestID: response.RequestID, Endpoint: endpoint,
		Fields:   map[string]any{"picture": published.Name, "bytes": published.Bytes},
		Accepted: func() error { return w.pictures.RemoveEarlier(t.Lease()) },
		Rejected: func() error { return w.pictures.Remove(published) },
	}, nil
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
