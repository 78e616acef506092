// Package daemon wires the supervision of this host's background processor from the settings.
package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// BackgroundFlag is the flag with which start runs `task-processor run` in the background.
const BackgroundFlag = "background"

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
			env = append(env[:len(env):len(env)], setting.Env+"="+value)
		}
	}
	return &supervise.Daemon{
		Dir:     supervise.Dir(s.LogDir),
		Program: filepath.Join(filepath.Dir(self), "task-processor"),
		Args:    args,
		Env:     env,
		Grace:   s.ShutdownGrace + 2*processor.FinalWriteTimeout,
		Redact:  a.Redact.String,
		Healthy: func(ctx context.Context, pid int) (bool, error) {
			rows, err := st.Processors(ctx)
			for _, p := range rows {
				if p.Host == app.Hostname() && p.PID == pid && p.HeartbeatAge < s.HungAfter {
					return true, nil
				}
			}
			return false, err
		},
	}, nil
}

// Supervisor is a Daemon with what the monitor needs of it.
type Supervisor struct{ *supervise.Daemon }

// Inspect returns the state of the daemon.
func (s Supervisor) Inspect() (supervise.State, error) { return s.Dir.Inspect() }
