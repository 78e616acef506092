package imageworker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/imageworker"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

const key = "test-key-0123456789"

// fakeCall is an engine that records progress.
type fakeCall struct {
	inputs   []task.Input
	inputErr error
	refusal  error // of BeforeRequest

	mu       sync.Mutex
	stages   []string
	requests []string // endpoints
}

func (c *fakeCall) BeforeRequest(_ context.Context, endpoint string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, endpoint)
	return "key-1", c.refusal
}

func (c *fakeCall) Progress(_ int, stage string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stages = append(c.stages, stage)
}

func (c *fakeCall) Inputs(context.Context) ([]task.Input, error) { return c.inputs, c.inputErr }

// generatorFunc is a client without an API.
type generatorFunc func(ctx context.Context, r imageapi.Request, w io.Writer) (imageapi.Result, error)

func (f generatorFunc) Generate(ctx context.Context, r imageapi.Request, w io.Writer) (imageapi.Result, error) {
	return f(ctx, r, w)
}

func (f generatorFunc) Endpoint() string { return "https://api.example/v1" }

type fixture struct {
	api      *simapi.Server
	client   *imageapi.Client
	pictures *picture.Store
	log      bytes.Buffer
	logger   *logrus.Logger
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{logger: logrus.New()}
	f.logger.SetOutput(&f.log)
	var err error
	f.api, err = simapi.Start(simapi.Config{Key: key})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, f.api.Close()) })
	transport, err := proxy.New(proxy.Config{})
	require.NoError(t, err)
	t.Cleanup(transport.CloseIdleConnections)
	f.client, err = imageapi.New(imageapi.Config{BaseURL: f.api.URL(), Key: key, Model: "m", Transport: transport, MaxBytes: 1 << 20})
	require.NoError(t, err)
	f.pictures, err = picture.Open(filepath.Join(t.TempDir(), "pictures"), "", 1<<20)
	require.NoError(t, err)
	return f
}

func (f *fixture) work(t *testing.T, generator imageworker.Generator, work task.Task, c *fakeCall) (processor.Result, error) {
	t.Helper()
	return imageworker.New(generator, f.pictures, f.logger).Work(t.Context(), work, c)
}

func (f *fixture) files(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(f.pictures.Dir())
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func newTask(epoch int64) task.Task { return task.Task{ID: "t", Prompt: "a lantern", Epoch: epoch} }

func TestWork_MakesPicture(t *testing.T) {
	f := newFixture(t)
	c := &fakeCall{}
	result, err := f.work(t, f.client, newTask(2), c)
	require.NoError(t, err)
	assert.Equal(t, []string{result.URL}, f.files(t))
	content, err := os.ReadFile(filepath.Join(f.pictures.Dir(), result.URL))
	require.NoError(t, err)
	assert.Equal(t, simapi.Draw("a lantern"), content)
	assert.NotEmpty(t, result.RequestID)
	assert.Equal(t, map[string]any{"picture": result.URL, "bytes": int64(len(content))}, result.Fields)
	assert.Equal(t, []string{"waiting for the API", "receiving the picture", "storing the picture"}, c.stages)
	assert.Empty(t, f.log.String())
}

func TestWork_PassesRequest(t *testing.T) {
	f := newFixture(t)
	var got imageapi.Request
	client := generatorFunc(func(_ context.Context, r imageapi.Request, w io.Writer) (imageapi.Result, error) {
		got = r
		_, err := w.Write(simapi.Draw("x"))
		return imageapi.Result{}, err
	})
	c := &fakeCall{inputs: []task.Input{{Content: []byte("hat")}, {URL: "https://example.com/coat.png"}, {Content: []byte("mask"), Mask: true}}}
	result, err := f.work(t, client, task.Task{ID: "t", Prompt: "p", Options: json.RawMessage(`{"style": "s", "aspect_ratio": "1:1"}`), Model: "m", Inputs: 3, Epoch: 1}, c)
	require.NoError(t, err)
	assert.Equal(t, imageapi.Request{Prompt: "p", Model: "m", Options: imageapi.Options{Style: "s", AspectRatio: "1:1"},
		Inputs: []imageapi.Input{{Content: []byte("hat")}, {URL: "https://example.com/coat.png"}}, Mask: &imageapi.Input{Content: []byte("mask")}}, got)
	assert.Equal(t, "reading the input pictures", c.stages[0])
	assert.Equal(t, "https://api.example/v1", result.Endpoint)
}

// The API returns the format that it is asked for.
func TestWork_OutputFormats(t *testing.T) {
	f := newFixture(t)
	for format, extension := range map[string]string{"png": ".png", "jpeg": ".jpg", "webp": ".webp"} {
		client := generatorFunc(func(ctx context.Context, r imageapi.Request, w io.Writer) (imageapi.Result, error) {
			r.Options.OutputFormat = format
			return f.client.Generate(ctx, r, w)
		})
		work := newTask(1)
		work.ID = format
		result, err := f.work(t, client, work, &fakeCall{})
		require.NoError(t, err, format)
		assert.Equal(t, extension, filepath.Ext(result.URL))
	}
}

func TestWork_UnknownOption(t *testing.T) {
	f := newFixture(t)
	work := newTask(1)
	work.Options = json.RawMessage(`{"qualitty": "high"}`)
	_, err := f.work(t, f.client, work, &fakeCall{})
	assert.Equal(t, task.CodeBadOptions, task.AsError(err).Code)
	assert.ErrorContains(t, err, "qualitty")
	assert.Equal(t, task.Fail, task.AsError(err).Disposition)
	assert.Empty(t, f.api.Calls())
}

func TestWork_InputError(t *testing.T) {
	f := newFixture(t)
	work := newTask(1)
	work.Inputs = 1
	_, err := f.work(t, f.client, work, &fakeCall{inputErr: task.ErrLeaseLost})
	assert.ErrorIs(t, err, task.ErrLeaseLost)
	assert.Empty(t, f.api.Calls())
	assert.Empty(t, f.files(t))
}

func TestWork_InputIsNoPicture(t *testing.T) {
	f := newFixture(t)
	work := newTask(1)
	work.Inputs = 1
	_, err := f.work(t, f.client, work, &fakeCall{inputs: []task.Input{{Content: []byte("no picture")}}})
	assert.Equal(t, task.CodeBadInput, task.AsError(err).Code)
	assert.Empty(t, f.api.Calls())
	assert.Empty(t, f.files(t))
}

func TestWork_AcceptedRemovesEarlierPictures(t *testing.T) {
	f := newFixture(t)
	earlier, err := f.work(t, f.client, newTask(1), &fakeCall{})
	require.NoError(t, err)
	last, err := f.work(t, f.client, newTask(3), &fakeCall{})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{earlier.URL, last.URL}, f.files(t))
	require.NoError(t, last.Accepted())
	assert.Equal(t, []string{last.URL}, f.files(t))
}

func TestWork_RejectedRemovesThePicture(t *testing.T) {
	f := newFixture(t)
	late, err := f.work(t, f.client, newTask(1), &fakeCall{})
	require.NoError(t, err)
	other, err := f.work(t, f.client, newTask(2), &fakeCall{})
	require.NoError(t, err)
	require.NoError(t, late.Rejected())
	assert.Equal(t, []string{other.URL}, f.files(t))
}

func TestWork_APIErrorLeavesNoDraft(t *testing.T) {
	f := newFixture(t)
	for prompt, code := range map[string]task.Code{"[moderation] x": task.CodeModeration, "[500] x": task.CodeServer, "[html] x": task.CodeWebPage} {
		work := newTask(1)
		work.Prompt = prompt
		_, err := f.work(t, f.client, work, &fakeCall{})
		require.Error(t, err)
		assert.Equal(t, code, task.AsError(err).Code, prompt)
	}
	assert.Empty(t, f.files(t))
}

func TestWork_NotAPictureKeepsRequestID(t *testing.T) {
	f := newFixture(t)
	client := generatorFunc(func(_ context.Context, _ imageapi.Request, w io.Writer) (imageapi.Result, error) {
		_, err := w.Write([]byte("text"))
		return imageapi.Result{RequestID: "req-1"}, err
	})
	_, err := f.work(t, client, newTask(1), &fakeCall{})
	require.Error(t, err)
	e := task.AsError(err)
	assert.Equal(t, task.CodeNotAPicture, e.Code)
	assert.Equal(t, "req-1", e.RequestID)
	assert.Empty(t, f.files(t))
}

func TestWork_PictureStoreUnavailable(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, os.RemoveAll(f.pictures.Dir()))
	_, err := f.work(t, f.client, newTask(1), &fakeCall{})
	require.Error(t, err)
	assert.Equal(t, task.Pause, task.AsError(err).Disposition)
	assert.Empty(t, f.api.Calls(), "nothing is requested that can't be stored")
}

func TestWork_LogsDraftsThatRemain(t *testing.T) {
	f := newFixture(t)
	client := generatorFunc(func(context.Context, imageapi.Request, io.Writer) (imageapi.Result, error) {
		return imageapi.Result{}, errors.Join(os.RemoveAll(f.pictures.Dir()), &task.Error{Code: task.CodeServer})
	})
	_, err := f.work(t, client, newTask(1), &fakeCall{})
	require.Error(t, err)
	assert.Contains(t, f.log.String(), "a draft could not be removed")
}
