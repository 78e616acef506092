package taskprocessor

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/processor"
)

// systemd is told nothing until the first heartbeat, goes on hearing from a processor without a database and from one that
// stops, and hears nothing from one that is stalled.
func TestNotifySystemd_WhileStoppingToo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", "")
	receive := func(bound time.Duration) string {
		buffer := make([]byte, 1000)
		require.NoError(t, socket.SetReadDeadline(time.Now().Add(bound)))
		n, err := socket.Read(buffer)
		if err != nil {
			return ""
		}
		return string(buffer[:n])
	}
	var state atomic.Pointer[processor.Status]
	state.Store(&processor.Status{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop := notifySystemd(ctx, func() processor.Status { return *state.Load() }, logrus.New())
	assert.Empty(t, receive(100*time.Millisecond))
	state.Store(&processor.Status{LastHeartbeat: time.Now().Add(-time.Hour), DatabaseLostAt: time.Now().Add(-time.Hour)})
	assert.Equal(t, "READY=1\nWATCHDOG=1", receive(time.Minute))
	assert.Equal(t, "READY=1\nWATCHDOG=1", receive(time.Minute))
	cancel()
	for text := ""; !strings.HasPrefix(text, "STOPPING=1"); {
		text = receive(time.Minute)
		require.NotEmpty(t, text)
	}
	assert.Equal(t, "STOPPING=1\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=60000000", receive(time.Minute))
	stop()
	assert.Empty(t, systemdState(false, processor.Status{LastHeartbeat: time.Now(), Stalled: true}))
}
