package monitor

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	_ "github.com/lib/pq"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/pgtest"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

var server *pgtest.Server

func TestMain(m *testing.M) {
	os.Exit(pgtest.Main(m, &server, func(ctx context.Context, url string) error {
		s, err := store.Open(store.Config{URL: url})
		if err != nil {
			return err
		}
		_, err = s.Migrate(ctx, store.Roles{})
		return errors.Join(err, s.Close())
	}))
}

// runningSupervisor supervises a processor that runs.
type runningSupervisor struct{ fakeSupervisor }

func (runningSupervisor) Inspect(context.Context) (supervise.State, error) {
	return supervise.State{Running: true, PID: os.Getpid(), PIDConfirmed: true, Since: time.Now()}, nil
}

// A pass that finds nothing to do asks only what Questions has: all tables are locked meanwhile.
func TestPass_NothingToDoIsReadAhead(t *testing.T) {
	url := server.Database(t)
	s, err := store.Open(store.Config{URL: url, ConnectAhead: true})
	require.NoError(t, err)
	defer func() { assert.NoError(t, s.Close()) }()
	log := logrus.New()
	log.SetOutput(io.Discard)
	conf := Config{Supervisor: &runningSupervisor{}, Dir: t.TempDir(), Check: func(context.Context) []EndpointResult { return []EndpointResult{{}} },
		StuckAfter: time.Minute, PendingTimeout: time.Hour, Lease: time.Minute, RedriveWindow: time.Hour, HungAfter: time.Minute,
		Log: log, Redact: func(text string) string { return text }}
	answers, err := s.ReadAhead(t.Context(), conf.Questions())
	require.NoError(t, err)
	defer func() { assert.NoError(t, answers.Close()) }()
	conf.Store = answers

	db, err := sql.Open("postgres", url)
	require.NoError(t, err)
	defer func() { assert.NoError(t, db.Close()) }()
	tx, err := db.Begin()
	require.NoError(t, err)
	defer func() { assert.NoError(t, tx.Rollback()) }()
	_, err = tx.Exec(`do $$ declare t regclass; begin
		for t in select oid from pg_class where relnamespace = 'imagetasks'::regnamespace and relkind = 'r' loop
			execute 'lock table ' || t || ' in access exclusive mode';
		end loop; end $$`)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	r, err := New(conf).Pass(ctx)
	require.NoError(t, err)
	assert.Empty(t, r.Findings)
	assert.Equal(t, supervise.Running, r.Summary.Processor.Verdict)
}
