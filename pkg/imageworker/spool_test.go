package imageworker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/internal/storetest"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/task"
)

var errAway = fmt.Errorf("it is away: %w", picture.ErrUnavailable)

// inMemory puts the fixture's pictures in a store in memory, with a spool of a host.
func (f *fixture) inMemory(t *testing.T, memory *storetest.Memory, copied bool) {
	t.Helper()
	var err error
	f.pictures, err = picture.OpenRemote(t.Context(), picture.Config{MaxBytes: 1 << 20, Installation: "0f3a1b2c-4d5e-4f60-8123-456789abcdef", Copied: copied,
		Secret: []byte("a secret of thirty-two bytes...."), Spool: picture.Spool{Dir: t.TempDir(), MaxBytes: 1 << 30}}, memory)
	require.NoError(t, err)
}

// A picture that can't be uploaded is recorded before its upload, and the next claim of this host uploads it. Another host waits, and no claim
// makes another request.
func TestWork_UploadsLater(t *testing.T) {
	t.Parallel()
	f, memory := newFixture(t), &storetest.Memory{}
	f.inMemory(t, memory, false)
	memory.Fail(errAway)
	c := &fakeCall{}
	_, err := f.work(t, f.client, newTask(1), c)
	e := task.AsError(err)
	assert.Equal(t, []any{task.CodePictureStore, task.Release, 2 * time.Second}, []any{e.Code, e.Disposition, e.RetryAfter})
	assert.False(t, e.Paid || e.Unknown)
	require.NotNil(t, c.pending)
	spooled, here := f.pictures.IsRef(c.pending.Ref)
	assert.True(t, spooled && here)

	again := func(epoch int64, age time.Duration) (*fakeCall, task.Task) {
		pending := *c.pending
		pending.Age = age
		work := newTask(epoch)
		work.RequestsSent = 1
		return &fakeCall{pending: &pending, refusal: errors.New("it makes no request")}, work
	}
	call, work := again(2, 10*time.Second)
	_, err = f.work(t, f.client, work, call)
	assert.Equal(t, 10*time.Second, task.AsError(err).RetryAfter)
	call, work = again(3, time.Hour)
	_, err = f.work(t, f.client, work, call)
	assert.Equal(t, []any{task.CodePictureLost, task.Fail}, []any{task.AsError(err).Code, task.AsError(err).Disposition})

	own := f.pictures
	f.inMemory(t, &storetest.Memory{}, false) // another host; its store has no such picture
	for _, test := range []struct {
		age  time.Duration
		code task.Code
		wait time.Duration
	}{{time.Second, task.CodePictureStore, 2 * time.Second}, {59 * time.Minute, task.CodePictureStore, time.Minute}, {time.Hour, task.CodePictureLost, 0}} {
		call, work = again(4, test.age)
		_, err = f.work(t, f.client, work, call)
		e = task.AsError(err)
		assert.Equal(t, []any{test.code, test.wait}, []any{e.Code, e.RetryAfter})
		assert.ErrorContains(t, err, "the spool of another host")
	}

	f.pictures = own
	memory.Fail(nil)
	call, work = again(5, time.Minute)
	result, err := f.work(t, f.client, work, call)
	require.NoError(t, err)
	assert.True(t, result.Recovered)
	assert.Equal(t, c.pending.RequestID, result.RequestID)
	assert.Contains(t, result.URL, "https://memory.example/t-1-")
	assert.Len(t, f.api.Calls(), 1)
	call, work = again(6, time.Minute)
	result, err = f.work(t, f.client, work, call)
	require.NoError(t, err, "it is found in the store")
	assert.True(t, result.Recovered)
}

// A picture that is neither in this host's spool, where the record says it is, nor in the store, is lost.
func TestWork_SpoolRemoved(t *testing.T) {
	t.Parallel()
	f, memory := newFixture(t), &storetest.Memory{}
	f.inMemory(t, memory, false)
	memory.Fail(errAway)
	c := &fakeCall{}
	_, err := f.work(t, f.client, newTask(1), c)
	require.Error(t, err)
	memory.Fail(nil)
	waiting, err := filepath.Glob(filepath.Join(f.pictures.Dir(), "waiting", "*"))
	require.NoError(t, err)
	require.Len(t, waiting, 1)
	require.NoError(t, os.Remove(waiting[0]))
	_, err = f.work(t, f.client, newTask(2), &fakeCall{pending: c.pending})
	assert.Equal(t, []any{task.CodePictureLost, true}, []any{task.AsError(err).Code, task.AsError(err).Paid})
}

// A fresh task needs no store that can be read. One of which a request was sent waits until it can; so does every task of a restored backup.
func TestWork_StoreUnreadable(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sent   int
		copied bool
		asked  bool
	}{"fresh": {0, false, false}, "sent before": {1, false, true}, "restored": {0, true, true}} {
		t.Run(name, func(t *testing.T) {
			f, memory := newFixture(t), &storetest.Memory{}
			f.inMemory(t, memory, test.copied)
			memory.Fail(errAway)
			work := newTask(1)
			work.RequestsSent = test.sent
			_, err := f.work(t, f.client, work, &fakeCall{})
			assert.Equal(t, task.Release, task.AsError(err).Disposition)
			want := 1
			if test.asked {
				want = 0
				assert.Equal(t, 15*time.Second, task.AsError(err).RetryAfter)
			}
			assert.Len(t, f.api.Calls(), want)
		})
	}
}

// Where the database can't record that a picture waits, the next claim of this host finds it all the same.
func TestWork_SpoolNotRecorded(t *testing.T) {
	t.Parallel()
	f, memory := newFixture(t), &storetest.Memory{}
	f.inMemory(t, memory, false)
	memory.Fail(errAway)
	c := &fakeCall{saving: func(context.Context) error { return errors.New("the database is away") }}
	_, err := f.work(t, f.client, newTask(1), c)
	assert.True(t, task.AsError(err).Paid, "the engine records it later")
	memory.Fail(nil)
	result, err := f.work(t, f.client, newTask(2), &fakeCall{refusal: errors.New("it makes no request")})
	require.NoError(t, err)
	assert.True(t, result.Recovered)
	assert.Len(t, f.api.Calls(), 1)
}

// A picture whose URL the API answers with goes through the spool, too.
func TestWork_FetchesURLIntoSpool(t *testing.T) {
	t.Parallel()
	f, memory := newFixture(t), &storetest.Memory{}
	f.inMemory(t, memory, false)
	api := &urlClient{download: delivers(simapi.Draw("x"))}
	memory.Fail(errAway)
	c := &fakeCall{}
	_, err := f.work(t, api, newTask(1), c)
	e := task.AsError(err)
	assert.Equal(t, []any{task.CodePictureStore, task.Release}, []any{e.Code, e.Disposition}, "it waits in the spool, and no circuit opens")
	_, here := f.pictures.IsRef(c.pending.Ref)
	assert.True(t, here)
	memory.Fail(nil)
	_, err = f.work(t, api, newTask(2), &fakeCall{pending: c.pending})
	require.NoError(t, err)
	assert.Equal(t, []any{1, 1}, []any{api.requests, len(api.tries)})
}
