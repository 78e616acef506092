package speech_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/examples/speech"
	"imagetasks/examples/speech/speechsim"
	"imagetasks/internal/pgtest"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

var server *pgtest.Server

func TestMain(m *testing.M) {
	os.Exit(pgtest.Main(m, &server, func(ctx context.Context, url string) error {
		s, err := store.Open(store.Config{URL: url})
		if err != nil {
			return err
		}
		defer s.Close()
		_, err = s.Migrate(ctx, store.Roles{})
		return err
	}))
}

func TestWorker_IsShort(t *testing.T) {
	source, err := os.ReadFile("worker.go")
	require.NoError(t, err)
	assert.Less(t, bytes.Count(source, []byte("\n")), 100)
}

// One order is made at once, one after an attempt that failed, and one is refused and refunded. None is paid for twice.
func TestWorker_OrdersOnceRetriesAndRefunds(t *testing.T) {
	s, err := store.Open(store.Config{URL: server.Database(t)})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	_, err = s.GrantCredits(t.Context(), "ada", 30, "test", "test")
	require.NoError(t, err)
	ids := map[string]string{}
	for _, text := range []string{"good morning", "[500 once] good evening", "[refused] good night"} {
		made, err := s.Enqueue(t.Context(), store.EnqueueRequest{UserID: "ada", Prompt: text, Cost: 10})
		require.NoError(t, err)
		ids[text] = made.TaskIDs[0]
	}
	api := &speechsim.API{}
	host := httptest.NewServer(api)
	t.Cleanup(host.Close)
	worker := &speech.Worker{API: host.URL, Dir: t.TempDir(), Client: &http.Client{Timeout: time.Minute}}
	endpoints := []processor.Endpoint{{Name: "speech", Check: func(context.Context, string) error { return nil }}}
	require.NoError(t, processor.New(processor.Config{Worker: "test", Endpoints: endpoints}, s, worker).RunOnce(t.Context()))

	for text, want := range map[string]struct {
		state    task.State
		code     task.Code
		requests int
		attempts int
		refunded int64
	}{
		"good morning":            {task.Completed, "", 1, 0, 0},
		"[500 once] good evening": {task.Completed, "", 2, 1, 0},
		"[refused] good night":    {task.Failed, task.CodeModeration, 1, 1, 10},
	} {
		row, err := s.Task(t.Context(), ids[text])
		require.NoError(t, err)
		assert.Equal(t, want.state, row.State, text)
		assert.Equal(t, want.code, row.ErrorCode, text)
		assert.Equal(t, []int{want.requests, want.attempts}, []int{row.RequestsSent, row.Attempts}, text)
		assert.Equal(t, want.refunded, row.Refunded, text)
		if want.state == task.Completed {
			audio, err := os.ReadFile(row.ImageURL)
			require.NoError(t, err)
			assert.Equal(t, "RIFF speech: "+text, string(audio))
		}
	}
	assert.Equal(t, 2, api.Orders(), "what was ordered is fetched, and not ordered again")
	balance, err := s.Balance(t.Context(), "ada")
	require.NoError(t, err)
	assert.EqualValues(t, 10, balance)
	rules, err := s.Audit(t.Context())
	require.NoError(t, err)
	assert.Zero(t, store.CountViolations(rules))
}
