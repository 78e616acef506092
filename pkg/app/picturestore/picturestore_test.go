package picturestore

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

// A page that is open asks for the files again and again: no connection to the object store is left behind.
func TestFiles_ConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	var open, requests atomic.Int32
	bucket := httptest.NewUnstartedServer(nil)
	bucket.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { requests.Add(1); http.NotFound(w, r) })
	bucket.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	bucket.Start()
	defer bucket.Close()
	s := settings.Settings{LogDir: t.TempDir(), AccessKeyID: "key", SecretAccessKey: "secret", ImageMaxBytes: 1 << 20, SpoolMax: 1 << 20,
		ImageStore: settings.ImageStore{Bucket: "pictures", Endpoint: bucket.URL, Region: "auto", PathStyle: true}}
	for range 10 {
		_, _ = files(t.Context(), s, store.Installation{ID: "0190d5a0-0000-7000-8000-000000000000", Secret: make([]byte, 32)}, store.TaskRow{ID: "a", Run: 1})
	}
	require.NotZero(t, requests.Load())
	assert.Eventually(t, func() bool { return open.Load() == 0 }, 5*time.Second, 10*time.Millisecond)
}
