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
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// BackgroundFlag is the flag with which start runs `task-processor run` in the background.
const BackgroundFlag = "background"

// maxShortGrace keeps the restart of a hung processor within the time of a monitor pass.
const maxShortGrace = 2 * time.Minute

// New returns this host's background processor. Without a store it can be stopped but not started. Warnings are printed on
// stderr.
func New(a *app.App, c *cli.Context, s settings.Settings, st *store.Store) (*supervise.Daemon, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the programs: %w", err)
	}
	l, err := a.Lang(c)
	if err != nil {
		return nil, err
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
	rest := s.ShutdownGrace + 2*processor.FinalWriteTimeout
	lookup := Lookup{App: a, Settings: s, Store: st}
	return &supervise.Daemon{
		Dir:        supervise.Dir(s.LogDir),
		Program:    filepath.Join(filepath.Dir(self), program),
		Args:       args,
		Env:        env,
		Grace:      s.TaskTimeout + rest,
		ShortGrace: min(rest, maxShortGrace),
		Redact:     a.Redact.String,
		Find:       lookup.Find,
		Warn:       func(w supervise.Warning) { a.Warn(w.Text(l)) },
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
