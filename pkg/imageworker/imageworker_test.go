package imageworker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
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
	pending  *task.PendingResult
	saving   func(context.Context) error // SavePending; nil: it succeeds

	mu       sync.Mutex
	stages   []string
	requests int
}

func (c *fakeCall) BeforeRequest(_ context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	return "key-1", c.refusal
}

func (c *fakeCall) Progress(_ int, stage string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stages = append(c.stages, stage)
}

func (c *fakeCall) SavePending(ctx context.Context, p task.PendingResult) error {
	if c.saving != nil {
		if err := c.saving(ctx); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = &p
	return nil
}

func (c *fakeCall) Pending() (task.PendingResult, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending == nil {
		return task.PendingResult{}, false
	}
	return *c.pending, true
}

func (c *fakeCall) Inputs(context.Context) ([]task.Input, error) { return c.inputs, c.inputErr }

// generatorFunc is a client without an API.
type generatorFunc func(ctx context.Context, r imageapi.Request, w io.Writer) (imageapi.Result, error)

func (f generatorFunc) Generate(ctx context.Context, r imageapi.Request, w io.Writer) (imageapi.Result, error) {
	return f(ctx, r, w)
}

func (f generatorFunc) Download(context.Context, string, int, io.Writer) error {
	return errors.New("nothing can be downloaded")
}

func (f generatorFunc) Endpoint() string { return "https://api.example/v1" }

func (f generatorFunc) SizeNote(string, imageapi.Options) string { return "" }

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
	f.pictures, err = picture.Open(picture.Config{Dir: filepath.Join(t.TempDir(), "pictures"), MaxBytes: 1 << 20,
		Installation: "0f3a1b2c-4d5e-4f60-8123-456789abcdef", Secret: []byte("a secret of thirty-two bytes....")})
	require.NoError(t, err)
	return f
}

func (f *fixture) work(t *testing.T, generator imageworker.Generator, work task.Task, c *fakeCall) (processor.Result, error) {
	t.Helper()
	return imageworker.New(imageworker.Only(generator), f.pictures, f.logger).Work(t.Context(), work, c)
}

// files returns the pictures and the drafts, relative to the picture store.
func (f *fixture) files(t *testing.T) []string {
	t.Helper()
	names := []string{}
	for _, pattern := range []string{"*.png", "*.jpg", "*.webp", ".drafts/*"} {
		found, err := filepath.Glob(filepath.Join(f.pictures.Dir(), pattern))
		require.NoError(t, err)
		for _, path := range found {
			name, err := filepath.Rel(filepath.Dir(f.pictures.Dir()), path)
			require.NoError(t, err)
			names = append(names, name)
		}
	}
	return names
}

func newTask(epoch int64) task.Task {
	return task.Task{ID: "t", Run: 1, Prompt: "a lantern", Epoch: epoch}
}

func TestWork_MakesPicture(t *testing.T) {
	f := newFixture(t)
	c := &fakeCall{}
	result, err := f.work(t, f.client, newTask(2), c)
	require.NoError(t, err)
	assert.Equal(t, []string{result.URL}, f.files(t))
	content, err := os.ReadFile(filepath.Join(filepath.Dir(f.pictures.Dir()), result.URL))
	require.NoError(t, err)
	assert.Equal(t, simapi.Draw("a lantern"), content)
	assert.NotEmpty(t, result.RequestID)
	assert.Equal(t, map[string]any{"picture": filepath.Base(result.URL), "bytes": int64(len(content))}, result.Fields)
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
	result, err := f.work(t, client, task.Task{ID: "t", Run: 1, Prompt: "p", Options: json.RawMessage(`{"style": "s", "aspect_ratio": "1:1"}`), Model: "m", Inputs: 3, Epoch: 1}, c)
	require.NoError(t, err)
	require.NotNil(t, got.BeforeSend)
	idempotencyKey, err := got.BeforeSend(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "key-1", idempotencyKey)
	assert.Equal(t, 1, c.requests)
	require.NotNil(t, got.Progress)
	got.Progress(50, imageapi.StageGenerating)
	assert.Equal(t, imageapi.StageGenerating, c.stages[len(c.stages)-1])
	got.BeforeSend, got.Progress = nil, nil
	assert.Equal(t, imageapi.Request{Prompt: "p", Model: "m", Options: imageapi.Options{Style: "s", AspectRatio: "1:1"},
		Inputs: []imageapi.Input{{Content: []byte("hat")}, {URL: "https://example.com/coat.png"}}, Mask: &imageapi.Input{Content: []byte("mask")}}, got)
	assert.Equal(t, "reading the input pictures", c.stages[0])
	assert.Equal(t, "https://api.example/v1", result.Endpoint)
}

// The task's record says where the picture has not the aspect ratio that was asked for, whichever claim of the run completes it.
func TestWork_NotesTheSize(t *testing.T) {
	f := newFixture(t)
	for _, test := range []struct{ model, options, size, note string }{
		{"gpt-image-1", `{"aspect_ratio": "16:9"}`, "1536x1024", "aspect_ratio 16:9: gpt-image-1 has no such size; 1536x1024 was used"},
		{"gpt-image-2", `{"aspect_ratio": "16：9"}`, "1536x864", ""},
		{"gpt-image-2", `{"aspect_ratio": "9:1"}`, "2160x720", "aspect_ratio 9:1: gpt-image-2 has no such size; 2160x720 was used"},
		{"gpt-image-1", `{"size": "1536x1024"}`, "1536x1024", ""},
		{"gpt-image-1", ``, "", ""},
		{"", `{"aspect_ratio": "4x3"}`, "1536x1024", `aspect_ratio 4:3: the sizes of "m" are not known; 1536x1024 was used`},
	} {
		work := newTask(1)
		work.ID, work.Model, work.Options = test.model+test.options, test.model, json.RawMessage(test.options)
		result, err := f.work(t, f.client, work, &fakeCall{})
		require.NoError(t, err)
		calls := f.api.Calls()
		assert.Equal(t, test.size, calls[len(calls)-1].Size)
		assert.Equal(t, test.note, result.Note)
		work.Epoch++
		result, err = f.work(t, f.client, work, &fakeCall{})
		require.NoError(t, err)
		assert.True(t, result.Recovered)
		assert.Equal(t, test.note, result.Note, "the next claim found the picture")
		assert.Len(t, f.api.Calls(), len(calls))
	}
}

// A picture that a later claim fetches has the same note.
func TestWork_NotesTheSizeOfAFetchedPicture(t *testing.T) {
	f := newFixture(t)
	api := &urlClient{download: fails(notYet)}
	work, c := newTask(1), &fakeCall{}
	work.Model, work.Options = "gpt-image-1", json.RawMessage(`{"aspect_ratio": "16x9"}`)
	_, err := f.work(t, api, work, c)
	require.Error(t, err)
	api.download = delivers(simapi.Draw("x"))
	work.Epoch++
	result, err := f.work(t, api, work, &fakeCall{pending: c.pending})
	require.NoError(t, err)
	assert.Equal(t, 1, api.requests)
	assert.Equal(t, "aspect_ratio 16:9: gpt-image-1 has no such size; 1536x1024 was used", result.Note)
}

// A row that no enqueue has checked fails before anything is paid for.
func TestWork_BadAspectRatio(t *testing.T) {
	f := newFixture(t)
	for _, options := range []string{`{"aspect_ratio": "wide"}`, `{"aspect_ratio": "0:1"}`, `{"aspect_ratio": "16:9", "size": "1024x1024"}`} {
		work, c := newTask(1), &fakeCall{}
		work.Options = json.RawMessage(options)
		_, err := f.work(t, f.client, work, c)
		require.Error(t, err, options)
		e := task.AsError(err)
		assert.Equal(t, task.CodeBadOptions, e.Code, options)
		assert.Equal(t, task.Fail, e.Disposition, options)
		assert.True(t, e.NotSent, options)
		assert.Zero(t, c.requests, options)
	}
	assert.Empty(t, f.api.Calls())
	assert.Empty(t, f.files(t))
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

// A picture that was published and not recorded as completed is used by the next claim of the run: it is paid for once.
func TestWork_UsesPublishedPicture(t *testing.T) {
	f := newFixture(t)
	first, err := f.work(t, f.client, newTask(1), &fakeCall{})
	require.NoError(t, err)
	assert.False(t, first.Recovered)
	for epoch := int64(2); epoch < 4; epoch++ {
		c := &fakeCall{inputErr: errors.New("it reads no inputs")}
		work := newTask(epoch)
		work.Inputs = 1
		next, err := f.work(t, f.client, work, c)
		require.NoError(t, err)
		assert.True(t, next.Recovered)
		assert.Equal(t, first.URL, next.URL)
		assert.Equal(t, true, next.Fields["recovered"])
		assert.Equal(t, first.Fields["picture"], next.Fields["picture"])
		assert.Equal(t, first.Fields["bytes"], next.Fields["bytes"])
	}
	assert.Len(t, f.api.Calls(), 1)
	assert.Equal(t, []string{first.URL}, f.files(t))

	redriven := newTask(4)
	redriven.Run = 2
	second, err := f.work(t, f.client, redriven, &fakeCall{})
	require.NoError(t, err)
	assert.NotEqual(t, first.URL, second.URL)
	assert.Len(t, f.api.Calls(), 2, "the next run is charged again, and gets a picture of its own")
	assert.ElementsMatch(t, []string{first.URL, second.URL}, f.files(t))
}

// A picture that an earlier claim left behind has the price of the endpoint that made it, and none of another if that one is not configured any more.
func TestWork_PublishedPictureHasThePriceOfItsEndpoint(t *testing.T) {
	f := newFixture(t)
	endpoints := func(name string) (imageworker.Endpoint, bool) {
		return imageworker.Endpoint{Generator: f.client, Name: "e", Cost: func(string, imageapi.Options) (int64, string) { return 40_000, "USD" }}, name == "" || name == "e"
	}
	w := imageworker.New(endpoints, f.pictures, f.logger)
	_, err := w.Work(t.Context(), newTask(1), &fakeCall{})
	require.NoError(t, err)
	for sentTo, want := range map[string]task.Usage{"e": {Endpoint: "e", Model: newTask(1).Model, Cost: 40_000, Currency: "USD"}, "removed": {Endpoint: "removed"}} {
		again := newTask(2)
		again.RequestsSent, again.SentTo, again.UnknownOutcomes = 1, sentTo, 1
		result, err := w.Work(t.Context(), again, &fakeCall{})
		require.NoError(t, err)
		assert.True(t, result.Recovered)
		assert.Equal(t, want, result.Usage)
	}
}

// Two claims of one run, of which the first lost its lease: both know the same picture.
func TestWork_LateAttemptUsesTheOtherPicture(t *testing.T) {
	f := newFixture(t)
	var other processor.Result
	client := generatorFunc(func(ctx context.Context, r imageapi.Request, w io.Writer) (imageapi.Result, error) {
		var err error
		if other, err = f.work(t, f.client, newTask(2), &fakeCall{}); err != nil {
			return imageapi.Result{}, err
		}
		_, err = w.Write(simapi.Draw("late"))
		return imageapi.Result{}, err
	})
	late, err := f.work(t, client, newTask(1), &fakeCall{})
	require.NoError(t, err)
	assert.Equal(t, other.URL, late.URL)
	assert.Equal(t, []string{other.URL}, f.files(t))
}

// When it can't be known whether the run has a picture, none is requested.
func TestWork_PictureStoreUnreadable(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, os.Remove(filepath.Join(f.pictures.Dir(), "imagetasks-installation.json")))
	_, err := f.work(t, f.client, newTask(1), &fakeCall{})
	require.Error(t, err)
	assert.Equal(t, task.Pause, task.AsError(err).Disposition)
	assert.Equal(t, task.CodePictureStore, task.AsError(err).Code)
	assert.Empty(t, f.api.Calls())
}

// hook is called with each message that is logged.
type hook func(*logrus.Entry) error

func (h hook) Levels() []logrus.Level { return logrus.AllLevels }

func (h hook) Fire(e *logrus.Entry) error { return h(e) }

// The directory disappears while the picture is made, and comes back.
func TestWork_WaitsForPictureStore(t *testing.T) {
	f := newFixture(t)
	away := f.pictures.Dir() + ".away"
	client := generatorFunc(func(_ context.Context, _ imageapi.Request, w io.Writer) (imageapi.Result, error) {
		_, err := w.Write(simapi.Draw("x"))
		return imageapi.Result{RequestID: "req-1"}, errors.Join(err, os.Rename(f.pictures.Dir(), away))
	})
	f.logger.AddHook(hook(func(*logrus.Entry) error { return os.Rename(away, f.pictures.Dir()) }))
	result, err := f.work(t, client, newTask(1), &fakeCall{})
	require.NoError(t, err)
	assert.Equal(t, []string{result.URL}, f.files(t))
	assert.Equal(t, 1, strings.Count(f.log.String(), "the picture arrived and can't be stored"), "it is logged once")
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
		// A directory in its place can't be removed as a file.
		drafts, err := filepath.Glob(filepath.Join(f.pictures.Dir(), ".drafts", "*"))
		require.NoError(t, err)
		require.Len(t, drafts, 1)
		return imageapi.Result{}, errors.Join(os.Remove(drafts[0]), os.MkdirAll(filepath.Join(drafts[0], "x"), 0o755), &task.Error{Code: task.CodeServer})
	})
	_, err := f.work(t, client, newTask(1), &fakeCall{})
	require.Error(t, err)
	assert.Contains(t, f.log.String(), "a draft could not be removed")
}

// What BeforeRequest refuses is not sent.
func TestWork_RequestRefused(t *testing.T) {
	f := newFixture(t)
	refusal := &task.Error{Code: task.CodeOutcomeUnknown, Disposition: task.Fail, NotSent: true, Message: "no other request"}
	_, err := f.work(t, f.client, newTask(1), &fakeCall{refusal: refusal})
	var got *task.Error
	require.ErrorAs(t, err, &got)
	assert.Equal(t, task.CodeOutcomeUnknown, got.Code)
	assert.True(t, got.NotSent)
	assert.Empty(t, f.api.Calls())
	assert.Empty(t, f.files(t))
}
