package postgres

import (
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCluster_KeepsDataOverHaltAndIsRemovedByStop(t *testing.T) {
	c, err := Start(t.Context(), Config{Settings: map[string]string{"work_mem": "'5MB'"}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Stop()) })
	require.NoError(t, c.CreateDatabase(t.Context(), "one", ""))
	db, err := sql.Open("postgres", c.URL("one"))
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec("create table kept as select 1 as x")
	require.NoError(t, err)

	require.NoError(t, c.Halt())
	require.NoError(t, c.Halt())
	assert.Error(t, db.Ping())
	require.NoError(t, c.Launch(t.Context()))
	require.NoError(t, c.CreateDatabase(t.Context(), "two", "one"))
	two, err := sql.Open("postgres", c.URL("two"))
	require.NoError(t, err)
	defer two.Close()
	var memory string
	require.NoError(t, two.QueryRow("select current_setting('work_mem') from kept").Scan(&memory))
	assert.Equal(t, "5MB", memory)
	require.NoError(t, c.DropDatabase(t.Context(), "two"))

	require.NoError(t, c.Stop())
	assert.NoDirExists(t, c.SocketDir())
}

func TestMakeDir_TooLongForSocket(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("d", maxSocketDir))
	require.NoError(t, os.Mkdir(long, 0o755))
	t.Setenv("TMPDIR", long)
	for _, dir := range []string{"", filepath.Join(long, "cluster")} {
		made, err := makeDir(dir, os.TempDir(), nil)
		require.NoError(t, err)
		defer os.RemoveAll(made)
		assert.LessOrEqual(t, len(made), maxSocketDir)
		assert.NoDirExists(t, filepath.Join(long, "cluster"))
	}
}

func TestStartChild_ReportsExitAndStartFailure(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	exited, err := StartChild(cmd, syscall.SIGKILL)
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	select {
	case <-exited:
	case <-time.After(10 * time.Second):
		t.Fatal("the exit is not reported")
	}
	_, err = StartChild(exec.Command("/no/such/program"), syscall.SIGKILL)
	assert.Error(t, err)
}
