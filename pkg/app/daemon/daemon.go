// Package daemon wires the supervision of this host's background processor from the settings.
package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// BackgroundFlag is the flag with which start runs `task-processor run` in the background.
const BackgroundFlag = "background"

// confirmTimeout bounds the question to the database whether a pid is a processor's.
const confirmTimeout = 5 * time.Second

// New returns this host's background processor. Without a store it can be stopped but not started.
func New(a *app.App, c *cli.Context, s settings.Settings, st *store.Store) (*supervise.Daemon, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the programs: %w", err)
	}
	args := []string{"run", "--" + BackgroundFlag}
	if path, given := app.FlagValue(c, "env-file"); given {
		args = append(args, "--env-file", path)
	}
	// Flags are passed on in the environment, which no process list shows.
	env := a.Environ
	for _, setting := range settings.List() {
		if setting.Flag == "" {
			continue
		}
		if value, given := app.FlagValue(c, setting.Flag); given {
			env = append(slices.Clip(env), setting.Env+"="+value)
		}
	}
	return &supervise.Daemon{
		Dir:     supervise.Dir(s.LogDir),
		Program: filepath.Join(filepath.Dir(self), "task-processor"),
		Args:    args,
		Env:     env,
		Grace:   s.ShutdownGrace + 2*processor.FinalWriteTimeout,
		Redact:  a.Redact.String,
		Confirm: func(ctx context.Context, pid int, since time.Time) bool { return confirm(ctx, a, s, st, pid, since) },
		Healthy: func(ctx context.Context, pid int) (bool, error) {
			rows, err := st.Processors(ctx)
			for _, p := range rows {
				if p.Host == app.Hostname() && p.PID == pid && p.Alive(s.HungAfter) {
					return true, nil
				}
			}
			return false, err
		},
	}, nil
}

// confirm reports whether the processor with that pid runs on this host: its status address reports it, or a heartbeat of it
// is younger than its pid file.
func confirm(ctx context.Context, a *app.App, s settings.Settings, st *store.Store, pid int, since time.Time) bool {
	if s.StatusAddr != "" {
		if report := status.Live(ctx, s.StatusAddr)(); report != nil && report.PID == pid {
			return true
		}
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	if st == nil {
		var err error
		if st, err = a.NewStore(ctx, s); err != nil {
			return false
		}
		defer st.Close()
	}
	rows, err := st.Processors(ctx)
	if err != nil {
		return false
	}
	for _, p := range rows {
		if p.Host == app.Hostname() && p.PID == pid && p.HeartbeatAge <= time.Since(since) {
			return true
		}
	}
	return false
}
