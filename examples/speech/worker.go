// Package speech turns text into speech by a paid API: a second Worker for the queue engine, beside the one that makes pictures.
package speech

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"imagetasks/pkg/processor"
	"imagetasks/pkg/task"
)

// Worker orders speech for the text of a task, fetches it when it is ready, and keeps it in a directory. It implements processor.Worker.
type Worker struct {
	API    string // its base URL
	Dir    string // of the results
	Client *http.Client
}

// Work implements processor.Worker. What was ordered is never ordered again: a later claim of the run fetches it.
func (w *Worker) Work(ctx context.Context, t task.Task, c processor.Call) (processor.Result, error) {
	file := filepath.Join(w.Dir, fmt.Sprintf("%s-%d.wav", url.PathEscape(t.ID), t.Run))
	if _, err := os.Stat(file); err == nil {
		return processor.Result{URL: file, Recovered: true}, nil // by a claim that ended before that was recorded
	}
	order, paid := c.Pending()
	if !paid {
		key, err := c.BeforeRequest(ctx)
		if err != nil {
			return processor.Result{}, err
		}
		c.Progress(10, "ordering the speech")
		id, err := w.call(ctx, http.MethodPost, "/speech", key, strings.NewReader(t.Prompt))
		if err != nil {
			return processor.Result{}, err
		}
		order = task.PendingResult{Ref: string(id), RequestID: string(id), Endpoint: w.API}
		if err := c.SavePending(ctx, order); err != nil {
			return processor.Result{}, err
		}
	}
	c.Progress(50, "fetching the speech")
	audio, err := w.call(ctx, http.MethodGet, "/speech/"+url.PathEscape(order.Ref), "", http.NoBody)
	if err != nil {
		return processor.Result{}, err
	}
	if err = os.WriteFile(file+".part", audio, 0o600); err == nil {
		err = os.Rename(file+".part", file)
	}
	if err != nil {
		return processor.Result{}, &task.Error{Code: task.CodePictureStore, Scope: task.ScopeAll, Disposition: task.Pause, Err: err}
	}
	return processor.Result{URL: file, RequestID: order.RequestID, Endpoint: order.Endpoint}, nil
}

// call makes one request. Its error says what becomes of the task, and whom else the failure affects.
func (w *Worker) call(ctx context.Context, method, path, key string, body io.Reader) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, w.API+path, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Idempotency-Key", key)
	billed := method == http.MethodPost // it may be, where no whole answer comes back
	response, err := w.Client.Do(request)
	if err != nil {
		return nil, &task.Error{Code: task.CodeNetwork, Scope: task.ScopeEndpoint, Disposition: task.Retry, Unknown: billed, Err: err}
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, 10<<20))
	if err != nil {
		return nil, &task.Error{Code: task.CodeCutOff, Scope: task.ScopeEndpoint, Disposition: task.Retry, Unknown: billed, Err: err}
	}
	failed := &task.Error{Code: task.CodeServer, Scope: task.ScopeEndpoint, Disposition: task.Retry, Message: string(bytes.TrimSpace(content))}
	switch response.StatusCode {
	case http.StatusOK, http.StatusCreated:
		return content, nil
	case http.StatusAccepted: // ordered, and not ready: no worker waits for it
		failed.Code, failed.Scope, failed.Disposition, failed.RetryAfter = task.CodeDownload, task.ScopeTask, task.Release, 200*time.Millisecond
	case http.StatusUnprocessableEntity: // another attempt would fail, too: the user gets the credits back
		failed.Code, failed.Scope, failed.Disposition = task.CodeModeration, task.ScopeTask, task.Fail
	case http.StatusUnauthorized, http.StatusPaymentRequired: // no other task would succeed either
		failed.Code, failed.Disposition = task.CodeNoQuota, task.Pause
	}
	return nil, failed
}
