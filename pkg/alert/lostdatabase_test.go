package alert

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/smalldisk"
	"imagetasks/pkg/finding"
)

// LOG_DIR is full: what was told can't be written, and is still told once. So is its end.
func TestLostDatabase_FullDisk(t *testing.T) {
	dir := smalldisk.Mount(t, "size=64k")
	var in inbox
	conf := newConfig(t, nil, Receiver{Name: "r", Repeat: time.Hour, Send: in.send})
	conf.Quiet = time.Nanosecond
	conf.LostDatabase = NewLostDatabase(dir)
	ballast := filepath.Join(dir, "ballast")
	err := os.WriteFile(ballast, []byte(strings.Repeat("x", 1<<20)), 0o600)
	require.Error(t, err)
	for range 4 {
		require.NoError(t, conf.tellLost(t.Context(), time.Now(), "refused"))
	}
	assert.Equal(t, []string{"new database_unavailable"}, in.all())
	require.NoError(t, os.Remove(ballast))
	require.NoError(t, conf.databaseBack(t.Context()))
	assert.Equal(t, []string{"new database_unavailable", "resolved database_unavailable"}, in.all())
	require.NoError(t, conf.databaseBack(t.Context()))
	require.NoError(t, conf.tellLost(t.Context(), time.Now(), "refused"))
	assert.Len(t, in.all(), 3, "a further loss is told again")
}

// A file system that hangs does not keep the loss of the database from being told.
func TestLostDatabase_HangingFileSystemIsTold(t *testing.T) {
	t.Parallel()
	var in inbox
	conf := newConfig(t, nil, Receiver{Name: "r", Repeat: time.Hour, Send: in.send})
	conf.LostDatabase.waiting = true // for a call that hangs
	for range 3 {
		require.NoError(t, conf.tellLost(t.Context(), time.Now(), "refused"))
	}
	assert.Equal(t, []string{"new database_unavailable"}, in.all())
}

// A database that takes no writes, because its disk is full or its service has made it read-only, can't keep alerts. That is told without it.
func TestPass_ReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	url := server.Database(t)
	raw, err := sql.Open("postgres", url)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, raw.Close()) })
	var name string
	require.NoError(t, raw.QueryRow(`select current_database()`).Scan(&name))
	_, err = raw.Exec(`alter database "` + name + `" set default_transaction_read_only = on`)
	require.NoError(t, err)
	var in inbox
	conf := newConfig(t, newStore(t, url), Receiver{Name: "r", Repeat: time.Hour, Send: in.send})
	view := View{Host: "web-1", Findings: []finding.Finding{{Code: finding.LeasesFailing, Subject: "web-1"}}, Looked: looked(), Quiet: time.Second}
	for range 2 {
		_ = Pass(t.Context(), conf, view, nil)
	}
	assert.Equal(t, []string{"new database_unavailable"}, in.all())
}

// A processor tells it as well, and its end.
func TestService_ReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	url := server.Database(t)
	raw, err := sql.Open("postgres", url)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, raw.Close()) })
	var name string
	require.NoError(t, raw.QueryRow(`select current_database()`).Scan(&name))
	_, err = raw.Exec(`alter database "` + name + `" set default_transaction_read_only = on`)
	require.NoError(t, err)
	var in inbox
	conf := newConfig(t, newStore(t, url), Receiver{Name: "r", Repeat: time.Hour, Send: in.send})
	s := NewService(conf, Watch{Own: func() []finding.Finding { return nil }, Lost: func() (time.Time, string) { return time.Time{}, "" },
		Inspect: func(context.Context) (View, bool) { return View{Host: "web-1", Quiet: conf.Quiet}, true }})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	require.Eventually(t, func() bool { return len(in.all()) == 1 }, 20*time.Second, 10*time.Millisecond)
	assert.Equal(t, []string{"new database_unavailable"}, in.all())
	_, err = raw.Exec(`set default_transaction_read_only = off; alter database "` + name + `" reset default_transaction_read_only`)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(in.all()) == 2 }, 20*time.Second, 10*time.Millisecond)
	assert.Equal(t, "resolved database_unavailable", in.all()[1])
}
