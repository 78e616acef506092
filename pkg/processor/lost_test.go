package processor_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// The environment of TestHelperProcess, which is a processor that its task kills.
const helperURL, helperPictures = "HELPER_DATABASE_URL", "HELPER_PICTURES"

// A task with which the processor is killed again and again, as if for memory, ends as worker_lost. The others complete: it is
// soon worked on with nothing else in flight.
func TestWorkerKilled(t *testing.T) {
	f := newFixture(t)
	const others = 100
	killer := f.enqueue("kill")[0]
	for range others {
		f.enqueue("fine")
	}
	killer2 := f.enqueue("kill after the request")[0]
	var url string
	require.NoError(t, f.raw.QueryRow(`select current_database()`).Scan(&url))
	kills := 0
	for {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHelperProcess$")
		cmd.Env = append(os.Environ(), helperURL+"="+server.URL(url), helperPictures+"="+filepath.Dir(f.pictures.Dir()))
		out, err := cmd.CombinedOutput()
		if err == nil {
			break
		}
		require.Contains(t, err.Error(), "killed", "%s", out)
		kills++
		require.Less(t, kills, 20, "%s", out)
	}
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
	p := processor.New(processor.Config{Worker: fmt.Sprint(os.Getpid()), Concurrency: 3, RetryUnknown: 1, MaxLostClaims: 3,
		PollInterval: 20 * time.Millisecond, Lease: 300 * time.Millisecond, Log: log}, s, imageworker.New(client, pictures, log))
	// Expired leases are no reason to wait for RunOnce, but they are for this test.
	for {
		require.NoError(t, p.RunOnce(t.Context()))
		stats, err := s.QueueStats(t.Context(), time.Hour)
		require.NoError(t, err)
		if stats.Pending+stats.Processing == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
		p = processor.New(processor.Config{Worker: fmt.Sprint(os.Getpid()), Concurrency: 3, RetryUnknown: 1, MaxLostClaims: 3,
			PollInterval: 20 * time.Millisecond, Lease: 300 * time.Millisecond, Log: log}, s, imageworker.New(client, pictures, log))
	}
}
