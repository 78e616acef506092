package processor_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgfault"
	"imagetasks/internal/simapi"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/imageworker"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

func ownPicture(self string) string { return self + "/picture" }

// lateBy returns the host of a picture that is not there at first.
func lateBy(there *atomic.Bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if !there.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write(simapi.Draw("x"))
	}
}

// hangingUntil returns the host of a picture that does not respond at first. asked gets each request that hangs.
func hangingUntil(there *atomic.Bool, asked chan<- struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if there.Load() {
			_, _ = w.Write(simapi.Draw("x"))
			return
		}
		asked <- struct{}{}
		<-r.Context().Done()
	}
}

// waitFor waits until a condition holds.
func waitFor(t *testing.T, condition func() bool, what string) {
	t.Helper()
	require.Eventually(t, condition, 30*time.Second, 5*time.Millisecond, what)
}

// savePendingStatement is part of the statement that records a URL.
const savePendingStatement = "pending_results as p ("

// The database refuses the URL, or does not respond, for longer than an attempt may take: it is recorded, and the picture fetched, when that is over.
func TestPaidURL_CannotBeRecordedForLongerThanTaskTimeout(t *testing.T) {
	for _, fault := range []string{"refused", "silent", "answer lost"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			f, proxy := newFaultFixture(t)
			var there atomic.Bool
			api, paid := urlAPI(t, ownPicture, lateBy(&there))
			id := f.enqueue("x")[0]
			rule := pgfault.Rule{Fault: pgfault.Error, SQLState: "57P03", Contains: savePendingStatement}
			if fault == "answer lost" {
				rule = pgfault.Rule{Fault: pgfault.LostFIN, Contains: savePendingStatement, Times: 20}
			}
			injection := proxy.Add(rule)
			f.start(f.downloading(f.clientAt(api), imageworker.Downloads{}, func(c *processor.Config) { c.TaskTimeout, c.Lease = time.Second, 30*time.Second }))
			waitFor(t, func() bool { return injection.Hits() > 0 }, "the URL is to be recorded")
			if fault == "silent" {
				proxy.Silence(true)
			}
			time.Sleep(9 * time.Second) // and longer than the last try to record it
			there.Store(true)
			proxy.Silence(false)
			injection.Remove()
			f.seen(processor.EventCompleted, 1)
			assert.EqualValues(t, 1, paid.Load())
			row := f.row(id)
			assert.Equal(t, []any{task.Completed, 1, 0, 0}, []any{row.State, row.RequestsSent, row.Unknown, row.Attempts})
			f.requireAudit()
		})
	}
}

// A stop does not wait for a download whose URL is recorded longer than for anything else that can be repeated.
func TestPaidURL_StopDuringDownload(t *testing.T) {
	f := newFixture(t)
	asked := make(chan struct{}, 100)
	api, paid := urlAPI(t, ownPicture, func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	})
	id := f.enqueue("x")[0]
	p := f.downloading(f.clientAt(api), imageworker.Downloads{}, func(c *processor.Config) { c.ShutdownGrace = 100 * time.Millisecond })
	stop := f.start(p)
	<-asked
	assert.Zero(t, p.Status().PaidRequests, "the request was answered")
	began := time.Now()
	stop()
	assert.Less(t, time.Since(began), 10*time.Second)
	row := f.row(id)
	assert.Equal(t, []any{task.Pending, 1, 0, 0}, []any{row.State, row.RequestsSent, row.Unknown, row.Attempts})
	assert.EqualValues(t, 1, paid.Load())
}

// An answer with a URL is one of the API's, whatever becomes of the download: it closes the circuit, and shows that the model works.
func TestPaidURL_ShowsThatTheAPIWorks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var there, works atomic.Bool
	api, paid := urlAPI(t, ownPicture, lateBy(&there))
	client := &checkedGenerator{f.clientAt(api), func() error {
		if works.Load() {
			return nil
		}
		return unauthorized
	}}
	p := f.downloading(client, imageworker.Downloads{}, func(c *processor.Config) { c.DefaultModel = "m" })
	f.start(p)
	f.seen(processor.EventCircuitOpened, 1)
	f.enqueueFor("other", 6)
	works.Store(true)
	f.seen(processor.EventCircuitClosed, 1)
	waitFor(t, func() bool { return paid.Load() == 6 }, "the others follow")
	waitFor(t, func() bool {
		models, err := f.WorkedModels(t.Context())
		return err == nil && len(models) == 1 && models[0].Name == "other"
	}, "the model is known to work")
	assert.Zero(t, f.count(processor.EventCompleted))
	there.Store(true)
	f.seen(processor.EventCompleted, 6)
	assert.EqualValues(t, 6, paid.Load())
	f.requireAudit()
}

// checkedGenerator is a client with other results of checks.
type checkedGenerator struct {
	generator
	check func() error
}

func (g *checkedGenerator) Check(context.Context, string) error { return g.check() }

// While the endpoint's circuit is open, a picture is fetched although its user may have one task in work only, and the next one waits for the API.
func TestPaidURL_UserLimitAndOpenCircuit(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.SetLimits(t.Context(), 1, 0))
	var there atomic.Bool
	api, paid := urlAPI(t, ownPicture, lateBy(&there))
	first := f.enqueue("first")[0]
	stop := f.start(f.downloading(f.clientAt(api), imageworker.Downloads{}))
	f.seen(processor.EventReleased, 1)
	stop()
	f.enqueue("second") // it may start, and the first may not
	client := &checkedGenerator{f.clientAt(api), func() error { return unauthorized }}
	f.start(f.downloading(client, imageworker.Downloads{}, func(c *processor.Config) { c.ScaleCircuits(1) }))
	f.seen(processor.EventCircuitOpened, 1)
	there.Store(true)
	waitFor(t, func() bool { return f.row(first).State == task.Completed }, "the picture is fetched")
	assert.EqualValues(t, 1, paid.Load())
	f.requireAudit()
}

var unauthorized = &task.Error{Code: task.CodeUnauthorized, Disposition: task.Pause, Scope: task.ScopeEndpoint, Message: "the key is refused"}

// A task whose picture is paid for is not failed because it has waited for too long.
func TestPaidURL_PendingTimeout(t *testing.T) {
	f := newFixture(t)
	var there atomic.Bool
	api, paid := urlAPI(t, ownPicture, lateBy(&there))
	id := f.enqueue("x")[0]
	stop := f.start(f.downloading(f.clientAt(api), imageworker.Downloads{}))
	f.seen(processor.EventReleased, 1)
	stop()
	f.exec(`update imagetasks.tasks set run_after = now() - interval '30 minutes'`) // no processor ran
	there.Store(true)
	f.start(f.downloading(f.clientAt(api), imageworker.Downloads{}, func(c *processor.Config) { c.PendingTimeout = 10 * time.Minute }))
	waitFor(t, func() bool { s := f.row(id).State; return s == task.Completed || s == task.Failed }, "it is closed")
	assert.Equal(t, task.Completed, f.row(id).State)
	assert.EqualValues(t, 1, paid.Load())
}

// What interrupts a download leaves one paid request, and a redriven task does not use the URL of the run before.
func TestPaidURL_Interruptions(t *testing.T) {
	for name, interrupt := range map[string]func(f *fixture, id string){
		"requeued": func(f *fixture, _ string) {
			_, err := f.Sweep(f.t.Context(), store.Sweep{Requeue: true, Limit: 10})
			require.NoError(f.t, err)
		},
		"its processor ended": func(f *fixture, _ string) {
			f.exec(`update imagetasks.tasks set lease_epoch = lease_epoch + 1, lease_expires_at = now() - interval '1 second' where status = 'processing'`)
		},
		"its processor ended often": func(f *fixture, _ string) {
			f.exec(`update imagetasks.tasks set lease_epoch = lease_epoch + 1, lease_expires_at = now() - interval '1 second', lost_claims = 4 where status = 'processing'`)
		},
		"all attempts are used": func(f *fixture, _ string) {
			f.exec(`update imagetasks.tasks set lease_epoch = lease_epoch + 1, lease_expires_at = now() - interval '1 second', attempt_count = 2 where status = 'processing'`)
		},
		"paused": func(f *fixture, _ string) {
			f.exec(`update imagetasks.tasks set lease_epoch = lease_epoch + 1, lease_expires_at = now() - interval '1 second' where status = 'processing'`)
			_, err := f.Pause(f.t.Context(), "test", "")
			require.NoError(f.t, err)
			time.Sleep(300 * time.Millisecond)
			require.NoError(f.t, f.Resume(f.t.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			var there atomic.Bool
			asked := make(chan struct{}, 100)
			api, paid := urlAPI(t, ownPicture, hangingUntil(&there, asked))
			id := f.enqueue("x")[0]
			f.start(f.downloading(f.clientAt(api), imageworker.Downloads{}))
			<-asked
			there.Store(true)
			interrupt(f, id)
			f.seen(processor.EventCompleted, 1)
			assert.EqualValues(t, 1, paid.Load())
			row := f.row(id)
			assert.Equal(t, []any{task.Completed, 1, 0}, []any{row.State, row.RequestsSent, row.Unknown})
			f.requireAudit()
		})
	}
}

// A task that is cancelled during the download is refunded, and leaves no picture. One that is redriven pays for another one.
func TestPaidURL_CancelAndRedrive(t *testing.T) {
	f := newFixture(t)
	var there atomic.Bool
	asked := make(chan struct{}, 100)
	var run atomic.Int64
	api, paid := urlAPI(t, func(self string) string { run.Add(1); return self + "/picture" }, hangingUntil(&there, asked))
	ids := f.enqueue("cancelled", "redriven")
	f.start(f.downloading(f.clientAt(api), imageworker.Downloads{}, func(c *processor.Config) { c.Lease = time.Second }))
	<-asked
	<-asked
	c, err := f.Cancel(t.Context(), ids[0], "")
	require.NoError(t, err)
	assert.EqualValues(t, 1, c.Refunded)
	_, err = f.Sweep(t.Context(), store.Sweep{Limit: 10})
	require.NoError(t, err)
	f.seen(processor.EventLeaseLost, 2)
	assert.Empty(t, f.files())
	there.Store(true)
	_, err = f.Redrive(t.Context(), ids[1], 0)
	require.NoError(t, err)
	f.seen(processor.EventCompleted, 1)
	assert.EqualValues(t, 3, paid.Load())
	row := f.row(ids[1])
	assert.Equal(t, []any{task.Completed, 1, 0, 2}, []any{row.State, row.RequestsSent, row.Unknown, row.Run})
	f.requireAudit()
}

// A run that ends by itself waits for pictures that have to be fetched.
func TestPaidURL_RunOnceWaits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var there atomic.Bool
	api, paid := urlAPI(t, ownPicture, lateBy(&there))
	ids := f.enqueue("a", "b")
	done := make(chan error, 1)
	go func() {
		done <- f.downloading(f.clientAt(api), imageworker.Downloads{}).RunOnce(t.Context())
	}()
	f.seen(processor.EventReleased, 4)
	there.Store(true)
	require.NoError(t, <-done)
	for _, id := range ids {
		assert.Equal(t, task.Completed, f.row(id).State)
	}
	assert.EqualValues(t, 2, paid.Load())
}

// The API refuses a repeat while it still works on the request before, whose connection broke. That is no other unknown outcome: the task waits and
// gets its picture with the same key.
func TestUnknown_RepeatWhileInProgress(t *testing.T) {
	f := newFixture(t)
	var mu sync.Mutex
	var keys []string
	inProgress := 3
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request struct{ Prompt string }
		_ = json.NewDecoder(r.Body).Decode(&request)
		w.Header().Set("Content-Type", "application/json")
		if request.Prompt == "" { // a check
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":{"message":"Missing required parameter: 'prompt'.","code":"missing_required_parameter"}}`)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		switch n := len(keys); {
		case n == 1:
			panic(http.ErrAbortHandler)
		case n <= 1+inProgress:
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"error":{"message":"A request with this Idempotency-Key is in progress","code":"idempotency_key_in_use"}}`)
		default:
			fmt.Fprintf(w, `{"data":[{"b64_json":%q}]}`, base64.StdEncoding.EncodeToString(simapi.Draw("x")))
		}
	}))
	t.Cleanup(api.Close)
	id := f.enqueue("x")[0]
	f.run(f.config(func(c *processor.Config) { c.RetryUnknown = 1 }), f.clientAt(api))
	require.Eventually(t, func() bool {
		f.exec(`update imagetasks.tasks set run_after = now() where status = 'pending' and run_after > now()`) // sooner than the backoff
		return f.count(processor.EventCompleted) == 1
	}, time.Minute, 20*time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	assert.Len(t, keys, 2+inProgress)
	assert.Len(t, slices.Compact(keys), 1, "the same key each time")
	row := f.row(id)
	assert.Equal(t, []int{1, 0}, []int{row.Unknown, row.Attempts})
	f.requireAudit()
}

// One that never ends is an unknown outcome in the end.
func TestUnknown_InProgressForEver(t *testing.T) {
	f := newFixture(t)
	api := newFakeAPI()
	var n atomic.Int64
	api.set(func(imageapi.Request) error {
		if n.Add(1) == 1 {
			return &task.Error{Code: task.CodeNetwork, Disposition: task.Release, Scope: task.ScopeEndpoint, Unknown: true, Message: "the connection broke"}
		}
		return &task.Error{Code: task.CodeServer, Disposition: task.Release, Unknown: true, InProgress: true, Message: "in progress (409)"}
	}, nil)
	id := f.enqueue("x")[0]
	f.run(f.config(func(c *processor.Config) { c.RetryUnknown = 1 }), api)
	require.Eventually(t, func() bool {
		f.exec(`update imagetasks.tasks set run_after = now() where status = 'pending' and run_after > now()`)
		return f.count(processor.EventFailed) == 1
	}, time.Minute, 20*time.Millisecond)
	row := f.row(id)
	assert.Equal(t, task.CodeOutcomeUnknown, row.ErrorCode)
	assert.Equal(t, 2, row.Unknown)
	assert.LessOrEqual(t, api.paid(), 25)
	f.requireAudit()
}
