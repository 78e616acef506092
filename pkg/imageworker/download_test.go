package imageworker_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/imageworker"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/task"
)

const pictureURL = "https://cdn.example/x?sig=secret"

// urlClient is an API that answers with the URL of a picture.
type urlClient struct {
	download func(ctx context.Context, w io.Writer) error

	mu       sync.Mutex
	requests int
	tries    []int // of the downloads
	events   []string
}

func (c *urlClient) Generate(ctx context.Context, r imageapi.Request, _ io.Writer) (imageapi.Result, error) {
	if _, err := r.BeforeSend(ctx); err != nil {
		return imageapi.Result{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	c.events = append(c.events, "request")
	return imageapi.Result{RequestID: "req-1", URL: pictureURL}, nil
}

func (c *urlClient) Download(ctx context.Context, address string, tries int, w io.Writer) error {
	c.mu.Lock()
	c.tries = append(c.tries, tries)
	c.events = append(c.events, "download "+address)
	c.mu.Unlock()
	return c.download(ctx, w)
}

func (c *urlClient) Endpoint() string { return "https://api.example/v1" }

func (c *urlClient) SizeNote(modelName string, o imageapi.Options) string {
	return o.SizeNote(modelName)
}

func delivers(content []byte) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error { _, err := w.Write(content); return err }
}

func fails(e task.Error) func(context.Context, io.Writer) error {
	return func(context.Context, io.Writer) error { return &e }
}

var (
	notYet = task.Error{Code: task.CodeDownload, Disposition: task.Release, Message: "its host responded 503"}
	gone   = task.Error{Code: task.CodeDownload, Disposition: task.Release, Message: "its host responded 404", Gone: true}
)

func (f *fixture) rejected(t *testing.T) (descriptions []picture.Rejected, contents []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(f.pictures.Dir(), "rejected", "*.json"))
	require.NoError(t, err)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		var r picture.Rejected
		require.NoError(t, json.Unmarshal(text, &r))
		content, err := os.ReadFile(filepath.Join(filepath.Dir(path), r.File))
		require.NoError(t, err)
		assert.EqualValues(t, len(content), r.Bytes)
		descriptions, contents = append(descriptions, r), append(contents, string(content))
	}
	return descriptions, contents
}

// The URL is recorded before the first GET. What the claim can't fetch, the next one does, and asks for nothing else.
func TestWork_FetchesURL(t *testing.T) {
	f := newFixture(t)
	c := &fakeCall{}
	api := &urlClient{download: fails(notYet)}
	c.saving = func(context.Context) error {
		api.mu.Lock()
		defer api.mu.Unlock()
		api.events = append(api.events, "recorded")
		return nil
	}
	_, err := f.work(t, api, newTask(1), c)
	e := task.AsError(err)
	assert.Equal(t, []any{task.CodeDownload, task.Release, task.ScopeTask, 2 * time.Second, "req-1", "https://api.example/v1"},
		[]any{e.Code, e.Disposition, e.Scope, e.RetryAfter, e.RequestID, e.Endpoint})
	assert.False(t, e.NotSent || e.Unknown || e.Paid)
	assert.Equal(t, []string{"request", "recorded", "download " + pictureURL}, api.events)
	assert.Equal(t, []int{3}, api.tries)
	assert.Empty(t, f.files(t), "no draft is left")

	api.download = delivers(simapi.Draw("x"))
	again := &fakeCall{pending: c.pending, inputErr: errors.New("it reads no inputs"), refusal: errors.New("it makes no request")}
	work := newTask(2)
	work.Inputs = 1
	result, err := f.work(t, api, work, again)
	require.NoError(t, err)
	assert.Equal(t, []string{result.URL}, f.files(t))
	assert.Equal(t, []any{"req-1", "https://api.example/v1", true}, []any{result.RequestID, result.Endpoint, result.Recovered})
	assert.Zero(t, again.requests)
	assert.Equal(t, 1, api.requests)
	assert.Equal(t, []int{3, 1}, api.tries, "a later claim does not keep others waiting")
	assert.NotContains(t, f.log.String(), "secret")
}

// Waits grow with the age of the URL. A picture is lost when its host has said so in three claims over ten minutes, or after the window, but
// not before it was tried once more.
func TestWork_PictureLost(t *testing.T) {
	const minute = time.Minute
	for name, c := range map[string]struct {
		pending  task.PendingResult
		download task.Error
		wait     time.Duration // 0: it is lost
	}{
		"first":                 {task.PendingResult{}, notYet, 2 * time.Second},
		"later":                 {task.PendingResult{Age: 7 * time.Second}, notYet, 7 * time.Second},
		"much later":            {task.PendingResult{Age: 40 * minute}, notYet, minute},
		"asked to wait":         {task.PendingResult{}, task.Error{Code: task.CodeDownload, Disposition: task.Release, RetryAfter: 90 * time.Second}, 90 * time.Second},
		"asked to wait an hour": {task.PendingResult{}, task.Error{Code: task.CodeDownload, Disposition: task.Release, RetryAfter: 60 * minute}, 5 * minute},
		"window":                {task.PendingResult{Age: 60 * minute}, notYet, 0},
		"gone once":             {task.PendingResult{}, gone, 2 * time.Second},
		"gone twice":            {task.PendingResult{Gone: 1, GoneFor: 11 * minute, Age: 12 * minute}, gone, minute},
		"gone soon":             {task.PendingResult{Gone: 8, GoneFor: 9 * minute, Age: 10 * minute}, gone, minute},
		"gone three times":      {task.PendingResult{Gone: 2, GoneFor: 10 * minute, Age: 11 * minute}, gone, 0},
		"gone, and now a 503":   {task.PendingResult{Gone: 5, GoneFor: 20 * minute, Age: 20 * minute}, notYet, minute},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			pending := c.pending
			pending.Ref, pending.RequestID = pictureURL, "req-1"
			api := &urlClient{download: fails(c.download)}
			_, err := f.work(t, api, newTask(2), &fakeCall{pending: &pending})
			e := task.AsError(err)
			assert.NotContains(t, err.Error(), "secret")
			assert.Equal(t, "req-1", e.RequestID)
			assert.Len(t, api.tries, 1)
			assert.Zero(t, api.requests)
			if c.wait > 0 {
				assert.Equal(t, []any{task.CodeDownload, task.Release, c.wait, c.download.Gone}, []any{e.Code, e.Disposition, e.RetryAfter, e.Gone})
				return
			}
			assert.Equal(t, []any{task.CodePictureLost, task.Fail, true, false}, []any{e.Code, e.Disposition, e.Paid, e.Gone})
			assert.Contains(t, e.Message, c.download.Message, "the last reason")
			assert.Empty(t, f.files(t))
		})
	}
	// After an outage of this program that was longer than the window, the picture is fetched if it is there.
	f := newFixture(t)
	_, err := f.work(t, &urlClient{download: delivers(simapi.Draw("x"))}, newTask(2), &fakeCall{pending: &task.PendingResult{Ref: pictureURL, Age: 48 * time.Hour}})
	require.NoError(t, err)
}

// What is not whole yet is fetched again. What can't become a picture is not, and is kept for the operator.
func TestWork_DownloadIsNoPicture(t *testing.T) {
	f := newFixture(t)
	whole := simapi.Draw("x")
	pending := &task.PendingResult{Ref: pictureURL}
	_, err := f.work(t, &urlClient{download: delivers(whole[:len(whole)-20])}, newTask(1), &fakeCall{pending: pending})
	e := task.AsError(err)
	assert.Equal(t, []any{task.CodeDownload, task.Release, false}, []any{e.Code, e.Disposition, e.Paid})
	descriptions, _ := f.rejected(t)
	assert.Empty(t, descriptions, "it is fetched again")

	pending.Age = 2 * time.Hour
	_, err = f.work(t, &urlClient{download: delivers(whole[:len(whole)-20])}, newTask(1), &fakeCall{pending: pending})
	assert.Equal(t, task.CodePictureLost, task.AsError(err).Code)
	unusable := &task.Error{Code: task.CodeDownload, Disposition: task.Release, Message: "a page", Err: &imageapi.Unusable{ContentType: "text/html", Head: []byte("<html>sorry")}}
	_, err = f.work(t, &urlClient{download: fails(*unusable)}, newTask(1), &fakeCall{pending: pending})
	assert.Equal(t, task.CodePictureLost, task.AsError(err).Code)
	final := &task.Error{Code: task.CodeNotAPicture, Disposition: task.Fail, Paid: true, Message: "a GIF"}
	_, err = f.work(t, &urlClient{download: func(_ context.Context, w io.Writer) error {
		_, err := io.WriteString(w, "GIF89a...")
		return errors.Join(err, final)
	}}, newTask(1), &fakeCall{pending: &task.PendingResult{Ref: pictureURL}})
	assert.Equal(t, task.CodeNotAPicture, task.AsError(err).Code)
	descriptions, contents := f.rejected(t)
	require.Len(t, descriptions, 3)
	assert.Equal(t, []string{string(whole[:len(whole)-20]), "<html>sorry", "GIF89a..."}, contents)
	assert.Equal(t, "text/html", descriptions[1].ContentType)
	for _, d := range descriptions {
		assert.Equal(t, "t", d.TaskID)
		assert.NotEmpty(t, d.Cause)
		assert.NotContains(t, d.Cause, "secret")
	}
	assert.Empty(t, f.files(t))
}

// What the API itself has sent and can't be used is kept too, without the prompt.
func TestWork_KeepsRejected(t *testing.T) {
	f := newFixture(t)
	const prompt = "a lantern that nobody may read about"
	for _, content := range []string{"an error about " + prompt, "\x89PNG\r\n\x1a\n" + strings.Repeat("\x00", 300) + "tEXt" + prompt} {
		work := newTask(1)
		work.Prompt = prompt
		_, err := f.work(t, generatorFunc(func(_ context.Context, _ imageapi.Request, w io.Writer) (imageapi.Result, error) {
			_, err := io.WriteString(w, content)
			return imageapi.Result{RequestID: "req-1"}, err
		}), work, &fakeCall{})
		assert.Equal(t, task.CodeNotAPicture, task.AsError(err).Code)
	}
	descriptions, contents := f.rejected(t)
	require.Len(t, descriptions, 2)
	for i, d := range descriptions {
		assert.NotContains(t, contents[i]+d.Cause, prompt)
		assert.Equal(t, []any{task.CodeNotAPicture, "req-1", "https://api.example/v1"}, []any{d.Code, d.RequestID, d.Endpoint})
	}
	assert.Empty(t, f.files(t))
}

// Failures without anything that was received leave nothing.
func TestWork_RejectsNothing(t *testing.T) {
	f := newFixture(t)
	for _, prompt := range []string{"[moderation] x", "[500] x", "[break] x"} {
		work := newTask(1)
		work.Prompt = prompt
		_, err := f.work(t, f.client, work, &fakeCall{})
		require.Error(t, err)
	}
	descriptions, _ := f.rejected(t)
	assert.Empty(t, descriptions)
}

// Where the database refuses to record the URL, this claim goes on alone. Where the claim ends before, recording it has a last try; if that
// fails too, the engine is told that something is paid for. A lost lease ends it.
func TestWork_URLIsNotRecorded(t *testing.T) {
	refused := errors.New("the database refuses it")
	later := func(refusals int) func(int, func()) error {
		return func(n int, _ func()) error {
			if n <= refusals {
				return refused
			}
			return nil
		}
	}
	endsAfter := func(err error) func(int, func()) error {
		return func(n int, cancel func()) error {
			cancel()
			if n == 1 {
				return refused
			}
			return err
		}
	}
	for name, c := range map[string]struct {
		saving   func(n int, cancel func()) error
		download func(n int) error
		want     task.Code
		paid     bool
		err      error
		saves    int
	}{
		"refused, fetched":         {saving: later(9), download: func(int) error { return nil }, saves: 1},
		"refused, fetched later":   {saving: later(9), download: func(n int) error { return ifThen(n < 3, &notYet) }, saves: 1},
		"lease lost":               {saving: func(int, func()) error { return task.ErrLeaseLost }, err: task.ErrLeaseLost, saves: 1},
		"the claim ends":           {saving: endsAfter(nil), want: task.CodeDownload, saves: 2},
		"the claim ends, refused":  {saving: endsAfter(refused), want: task.CodeDownload, paid: true, saves: 2},
		"the claim ends, and lost": {saving: endsAfter(task.ErrLeaseLost), err: task.ErrLeaseLost, saves: 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			saves, downloads := 0, 0
			call := &fakeCall{saving: func(ctx context.Context) error {
				saves++
				assert.NoError(t, ctx.Err(), "the last try has a time of its own")
				return c.saving(saves, cancel)
			}}
			api := &urlClient{download: func(_ context.Context, w io.Writer) error {
				downloads++
				if err := c.download(downloads); err != nil {
					return err
				}
				_, err := w.Write(simapi.Draw("x"))
				return err
			}}
			worker := imageworker.New(imageworker.Only(api), f.pictures, f.logger).WithDownloads(imageworker.Downloads{MinWait: time.Millisecond})
			_, err := worker.Work(ctx, newTask(1), call)
			assert.Equal(t, c.saves, saves)
			switch {
			case c.err != nil:
				assert.ErrorIs(t, err, c.err)
				assert.Zero(t, downloads)
			case c.want != "":
				e := task.AsError(err)
				assert.Equal(t, []any{c.want, task.Release, c.paid}, []any{e.Code, e.Disposition, e.Paid})
				assert.Zero(t, downloads)
			default:
				assert.NoError(t, err)
			}
			assert.Equal(t, 1, api.requests)
		})
	}
}

func ifThen(condition bool, e *task.Error) error {
	if condition {
		return e
	}
	return nil
}

// The stop of the processor leaves the URL for the next one.
func TestWork_DownloadInterrupted(t *testing.T) {
	f := newFixture(t)
	stopped := task.Error{Code: task.CodeShutdown, Disposition: task.Release, Message: "interrupted"}
	_, err := f.work(t, &urlClient{download: fails(stopped)}, newTask(2), &fakeCall{pending: &task.PendingResult{Ref: pictureURL, Age: 3 * time.Hour}})
	e := task.AsError(err)
	assert.Equal(t, []any{task.CodeShutdown, task.Release, false}, []any{e.Code, e.Disposition, e.Paid})
}

// While the picture can't be stored, its URL stays: nothing is lost, and it is the picture store that is at fault.
func TestWork_DownloadCannotBeStored(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	api := &urlClient{download: func(_ context.Context, w io.Writer) error {
		_, err := w.Write(simapi.Draw("x"))
		return errors.Join(err, os.Rename(f.pictures.Dir(), f.pictures.Dir()+".away"))
	}}
	_, err := imageworker.New(imageworker.Only(api), f.pictures, f.logger).Work(ctx, newTask(2), &fakeCall{pending: &task.PendingResult{Ref: pictureURL}})
	e := task.AsError(err)
	assert.Equal(t, []any{task.CodePictureStore, task.Pause, task.ScopeAll, false}, []any{e.Code, e.Disposition, e.Scope, e.Paid})
	require.NoError(t, os.Rename(f.pictures.Dir()+".away", f.pictures.Dir()))
}

var _ processor.Worker = (*imageworker.Worker)(nil)

// While the database is away, most of the claim's time is for recording the URL; what remains is for fetching it without. A picture that is
// published is found by the next claim.
func TestWork_DatabaseAway(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	began := time.Now()
	var waited time.Duration
	call := &fakeCall{saving: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	api := &urlClient{download: func(ctx context.Context, w io.Writer) error {
		waited = time.Since(began)
		_, err := w.Write(simapi.Draw("x"))
		return errors.Join(err, ctx.Err())
	}}
	_, err := imageworker.New(imageworker.Only(api), f.pictures, f.logger).Work(ctx, newTask(1), call)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, waited, 1400*time.Millisecond)
	again, err := f.work(t, api, newTask(2), &fakeCall{refusal: errors.New("it makes no request")})
	require.NoError(t, err)
	assert.True(t, again.Recovered)
}
