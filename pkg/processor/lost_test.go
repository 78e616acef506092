package processor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/imageworker"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// A task whose work panics ends as worker_lost, and nothing else is affected.
func TestWorkerPanics(t *testing.T) {
	f := newFixture(t)
	content := simapi.Draw("a dot")
	client := generatorOf(generatorFunc(func(_ context.Context, r imageapi.Request, w io.Writer) error {
		if strings.Contains(r.Prompt, "after") {
			panic("the prompt is " + r.Prompt)
		}
		_, err := w.Write(content)
		return err
	}), func(_ context.Context, r imageapi.Request) error {
		if strings.Contains(r.Prompt, "before") {
			panic("the prompt is " + r.Prompt)
		}
		return nil
	})
	before, after := f.enqueue("panics before its request")[0], f.enqueue("panics after its request")[0]
	for range 20 {
		f.enqueue("fine")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		assert.NoError(t, f.once(f.config(func(c *processor.Config) { c.MaxLostClaims = 3 }), client))
	}()
	for {
		select {
		case <-done:
		case <-time.After(50 * time.Millisecond):
			f.exec(`update imagetasks.tasks set run_after = now() where status = 'pending' and run_after > now()`) // sooner than the backoff
			continue
		}
		break
	}
	assert.Equal(t, task.CodeWorkerLost, f.row(before).ErrorCode)
	assert.Zero(t, f.row(before).RequestsSent)
	assert.Equal(t, task.CodeOutcomeUnknown, f.row(after).ErrorCode, "no more than RETRY_UNKNOWN repeats")
	assert.Equal(t, 2, f.row(after).RequestsSent)
	for _, id := range []string{before, after} {
		assert.Equal(t, task.Failed, f.row(id).State)
		assert.EqualValues(t, 1, f.row(id).Refunded)
	}
	assert.Equal(t, 20, f.count(processor.EventCompleted))
	assert.NotContains(t, f.log.String(), "the prompt is")
	f.requireAudit()
}

// The environment of TestHelperProcess, which is a processor that its task kills; with an API, it kills itself when it should record
// the completion of tasks that it has claimed for the first time, and has published their pictures.
const helperURL, helperPictures, helperAPI = "HELPER_DATABASE_URL", "HELPER_PICTURES", "HELPER_API"

// killer is a queue with which the processor is killed as soon as it wants to complete a batch of tasks that were never lost.
type killer struct {
	processor.Queue
	batch int

	mu   sync.Mutex
	held map[task.Lease]bool
}

func (k *killer) Complete(ctx context.Context, completions ...store.Completion) ([]task.Lease, error) {
	first := func(c store.Completion) bool { return c.Lease.Epoch == 1 }
	held, err := k.Queue.Complete(ctx, slices.DeleteFunc(slices.Clone(completions), first)...)
	if !slices.ContainsFunc(completions, first) {
		return held, err
	}
	k.mu.Lock()
	for _, c := range completions {
		if first(c) {
			k.held[c.Lease] = true
		}
	}
	full := len(k.held) >= k.batch
	k.mu.Unlock()
	if full {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	return nil, errors.New("it is about to be killed") // and not blocked, because later completions would wait for this one
}

// SIGKILL between the publication of a picture and the completion of its task: the next claim finds the picture, with MAX_ATTEMPTS=1
// too. In the long form a hundred times, in the short form ten times with ten tasks each.
func TestKilledBeforeCompletion(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const tasks = 100
	concurrency := 10
	if os.Getenv("IMAGETASKS_LONG") != "" {
		concurrency = 1
	}
	_, err := f.Enqueue(t.Context(), store.EnqueueRequest{UserID: f.user, Prompt: "x", Cost: 1, Count: tasks, Options: json.RawMessage(`{"max_attempts": 1}`)})
	require.NoError(t, err)
	kills := f.killUntilDone(helperAPI+"="+f.api.URL(), fmt.Sprint("HELPER_CONCURRENCY=", concurrency))
	assert.Equal(t, tasks/concurrency, kills)
	var unexpected int
	require.NoError(t, f.raw.QueryRow(`select count(*) from imagetasks.tasks
		where status <> 'completed' or requests_sent <> 1 or attempt_count <> 0 or image_url is null`).Scan(&unexpected))
	assert.Zero(t, unexpected)
	assert.Len(t, f.api.Calls(), tasks)
	assert.Len(t, f.files(), tasks)
	f.requireAudit()
}

// killUntilDone runs processors, one after the other, until one ends by itself, and returns how many were killed.
func (f *fixture) killUntilDone(env ...string) (kills int) {
	f.t.Helper()
	var name string
	require.NoError(f.t, f.raw.QueryRow(`select current_database()`).Scan(&name))
	for {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHelperProcess$")
		cmd.Env = append(append(os.Environ(), helperURL+"="+server.URL(name), helperPictures+"="+filepath.Dir(f.pictures.Dir())), env...)
		out, err := cmd.CombinedOutput()
		if err == nil {
			// It ends while the lease of a task of the one before has not expired yet.
			var left int
			require.NoError(f.t, f.raw.QueryRow(`select count(*) from imagetasks.tasks where status in ('pending', 'processing')`).Scan(&left))
			if left == 0 {
				return kills
			}
			continue
		}
		require.Contains(f.t, err.Error(), "killed", "%s", out)
		kills++
		require.Less(f.t, kills, 150, "%s", out)
	}
}

// A task with which the processor is killed again and again, as if for memory, ends as worker_lost. The others complete: it is
// soon worked on with nothing else in flight.
func TestWorkerKilled(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const others = 100
	killer := f.enqueue("kill")[0]
	for range others {
		f.enqueue("fine")
	}
	killer2 := f.enqueue("kill after the request")[0]
	kills := f.killUntilDone()
	assert.Less(t, kills, 20)
	for id, code := range map[string]task.Code{killer: task.CodeWorkerLost, killer2: task.CodeOutcomeUnknown} {
		r := f.row(id)
		assert.Equal(t, task.Failed, r.State, code)
		assert.Equal(t, code, r.ErrorCode)
		assert.EqualValues(t, 1, r.Refunded)
	}
	var unexpected, lost int
	require.NoError(t, f.raw.QueryRow(`select count(*) filter (where status <> 'completed' or attempt_count > 0), max(lost_claims)
		from imagetasks.tasks where prompt = 'fine'`).Scan(&unexpected, &lost))
	assert.Zero(t, unexpected)
	assert.LessOrEqual(t, lost, 3)
	t.Logf("killed %d times", kills)
	f.requireAudit()
}

func TestHelperProcess(t *testing.T) {
	url := os.Getenv(helperURL)
	if url == "" {
		return
	}
	s, err := store.Open(store.Config{URL: url})
	require.NoError(t, err)
	defer s.Close()
	installation, err := s.Installation(t.Context())
	require.NoError(t, err)
	pictures, err := picture.Open(picture.Config{Dir: os.Getenv(helperPictures), MaxBytes: 1 << 20, Installation: installation.ID, Secret: installation.Secret})
	require.NoError(t, err)
	log := logrus.New()
	content := simapi.Draw("a dot")
	kill := func() {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	client := generatorOf(generatorFunc(func(_ context.Context, r imageapi.Request, w io.Writer) error {
		if r.Prompt == "kill after the request" {
			kill()
		}
		_, err := w.Write(content)
		return err
	}), func(_ context.Context, r imageapi.Request) error {
		if r.Prompt == "kill" {
			kill()
		}
		return nil
	})
	conf := processor.Config{Worker: fmt.Sprint(os.Getpid()), Concurrency: 3, RetryUnknown: 1, MaxLostClaims: 3,
		PollInterval: 20 * time.Millisecond, Lease: 300 * time.Millisecond, Log: log}
	var queue processor.Queue = s
	if api := os.Getenv(helperAPI); api != "" {
		conf.Concurrency, err = strconv.Atoi(os.Getenv("HELPER_CONCURRENCY"))
		require.NoError(t, err)
		// As many as are pending in the end, too. With a rate nothing is claimed ahead, which would be lost as well, without a request.
		conf.Endpoints = []processor.Endpoint{{Name: "default", Rate: 60_000}}
		queue = &killer{Queue: s, batch: conf.Concurrency, held: map[task.Lease]bool{}}
		client, err := imageapi.New(imageapi.Config{BaseURL: api, Key: key, Model: "m", MaxBytes: 1 << 20})
		require.NoError(t, err)
		require.NoError(t, processor.New(conf, queue, imageworker.New(imageworker.Only(client), pictures, log)).RunOnce(t.Context()))
		return
	}
	require.NoError(t, processor.New(conf, queue, imageworker.New(imageworker.Only(client), pictures, log)).RunOnce(t.Context()))
}

// workerFunc is a Worker.
type workerFunc func(ctx context.Context, t task.Task, c processor.Call) (processor.Result, error)

func (f workerFunc) Work(ctx context.Context, t task.Task, c processor.Call) (processor.Result, error) {
	return f(ctx, t, c)
}

// The claim after the last one that may be lost, which only looks for what is paid for, reads no input pictures: they may be what ended the
// processors.
func TestInputs_NotReadWhereNoRequestMayFollow(t *testing.T) {
	for set, code := range map[string]task.Code{
		`lost_claims = 4`:      task.CodeWorkerLost,
		`unknown_outcomes = 2`: task.CodeOutcomeUnknown,
	} {
		f := newFixture(t)
		id := f.enqueue("x")[0]
		_, err := f.Claim(t.Context(), store.ClaimRequest{Worker: "dead", Limit: 1, Lease: time.Millisecond, MaxAttempts: 3})
		require.NoError(t, err)
		f.exec(`update imagetasks.tasks set ` + set)
		var read error
		conf := f.config(func(c *processor.Config) { c.MaxLostClaims = 5 })
		stop := f.start(processor.New(conf, f.Store, workerFunc(func(ctx context.Context, _ task.Task, c processor.Call) (processor.Result, error) {
			_, read = c.Inputs(ctx)
			return processor.Result{}, read
		})))
		f.seen(processor.EventFailed, 1)
		stop()
		assert.Equal(t, code, task.AsError(read).Code)
		row := f.row(id)
		assert.Equal(t, code, row.ErrorCode)
		assert.EqualValues(t, 1, row.Refunded)
	}
}
