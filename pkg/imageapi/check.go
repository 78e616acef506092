package imageapi

import (
	"context"
	"errors"
	"io"
	"net/http"

	"imagetasks/pkg/task"
)

// maxCheckAnswer bounds the answer to an incomplete request, in bytes.
const maxCheckAnswer = 1 << 20

// Check asks the endpoint that makes pictures with an incomplete request: without a prompt, and with a number of pictures that is none, or with
// messages that are none. It is refused and costs nothing. model is "" for Config.Model. If the connection breaks, Check tries once more, because one broken connection shows
// little about the next. Check is safe for concurrent use.
//
// It returns nil if the endpoint refuses the request as incomplete: then it works, and takes the key and, where it looks at that first, the model.
// Else it returns a *task.Error from the same tables as Generate, never with Unknown, since nothing was asked for. A missing endpoint is one
// (404, 405 or 501): it would be missing for a complete request, too.
//
// Where the answer says nothing about a complete request, errors.Is(err, task.ErrUncheckable) reports true: the endpoint has once answered with a
// status of success and without an error, so that it may have made a picture (then nothing is sent any more, and the error is nothing else), or it
// fails without saying why, as some do for every incomplete request (then the error is a *task.Error, too).
func (c *Client) Check(ctx context.Context, model string) error {
	return c.named(c.tryCheck(ctx, model))
}

func (c *Client) tryCheck(ctx context.Context, model string) error {
	if c.uncheckable.Load() {
		return task.ErrUncheckable
	}
	if err := c.findBase(ctx, model); err != nil {
		return asked(task.AsError(err))
	}
	err := c.check(ctx, model)
	if broken, ok := errors.AsType[*task.Error](err); ok && (broken.Code == task.CodeNetwork || broken.Code == task.CodeCutOff) && ctx.Err() == nil {
		err = c.check(ctx, model)
	}
	return err
}

func (c *Client) check(ctx context.Context, model string) error {
	if model == "" {
		model = c.conf.Model
	}
	incomplete := struct {
		Model string `json:"model,omitempty"`
		// A wrong type: what would make a picture without a prompt refuses it.
		N        string `json:"n,omitempty"`
		Messages string `json:"messages,omitempty"`
	}{Model: model}
	path := pathGenerations
	if c.isChat() {
		path, incomplete.Messages = pathChat, "none"
	} else {
		incomplete.N = "none"
	}
	encoded, err := encodeJSON(incomplete)
	if err != nil {
		return task.AsError(err)
	}
	response, err := c.send(ctx, http.MethodPost, path, "", body{contentType: "application/json", parts: [][]byte{encoded}})
	if err != nil {
		return asked(task.AsError(err))
	}
	defer response.Body.Close()
	if !isSuccess(response.StatusCode) {
		return c.checked(response, c.statusError(ctx, response, nil))
	}
	network := &errReader{r: response.Body}
	a, err := readAnswer(response, network, maxCheckAnswer, io.Discard, nil, source{})
	if a.failed && err == nil && !a.begun && a.url == "" {
		return c.checked(response, c.answerError(response, a.apiError, nil))
	}
	if a.form == formPicture || a.begun || a.url != "" || (a.form == formJSON || a.form == formEvents) && !a.failed {
		c.uncheckable.Store(true) // also if the rest is missing
		return task.ErrUncheckable
	}
	return c.checked(response, c.readError(ctx, response, a, network.err, err, nil))
}

// checked returns what an error means for Check.
func (c *Client) checked(response *http.Response, e *task.Error) error {
	switch {
	case e.Disposition == task.Fail && e.Code != task.CodeBadAnswer:
		return nil // it is the request that was refused
	case e.Code == task.CodeServer && e.Disposition == task.Retry:
		e.Err = task.ErrUncheckable
	}
	return ejectUpstream(response, asked(e))
}

// asked returns an error of a request that asked for nothing.
func asked(e *task.Error) *task.Error {
	free := *e
	free.Unknown, free.Paid = false, false
	return &free
}
