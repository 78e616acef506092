package app

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/processor"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// BackgroundFlag makes `task-processor run` the daemon that start brings up.
const BackgroundFlag = "background"

// Daemon returns this host's background processor, as the settings have it.
func (a *App) Daemon(c *cli.Context, s settings.Settings, st *store.Store) (*supervise.Daemon, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the programs: %w", err)
	}
	args := []string{"run", "--" + BackgroundFlag}
	if path, given := FlagValue(c, "env-file"); given {
		args = append(args, "--env-file", path)
	}
	// What was given by flags goes on in the environment, which no process list shows.
	env := a.Environ
	for _, setting := range settings.List() {
		if setting.Flag == "" {
			continue
		}
		if value, given := FlagValue(c, setting.Flag); given {
			env = append(env[:len(env):len(env)], setting.Env+"="+value)
		}
	}
	host := Hostname()
	return &supervise.Daemon{
		Dir:     supervise.Dir(s.LogDir),
		Program: filepath.Join(filepath.Dir(self), "task-processor"),
		Args:    args,
		Env:     env,
		Grace:   s.ShutdownGrace + 2*processor.FinalWriteTimeout,
		Redact:  a.Redact.String,
		Healthy: func(ctx context.Context, pid int) (bool, error) {
			known, err := st.Processors(ctx)
			for _, p := range known {
				if p.Host == host && p.PID == pid && p.HeartbeatAge < s.HungAfter {
					return true, nil
				}
			}
			return false, err
		},
	}, nil
}

// Supervisor is the daemon as the monitor looks after it.
type Supervisor struct{ *supervise.Daemon }

// Inspect says how the daemon stands.
func (s Supervisor) Inspect() (supervise.State, error) { return s.Dir.Inspect() }

// Hostname is how this host is known in the database.
func Hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown-host"
	}
	return host
}

// Operator names who runs this program, for the record.
func (a *App) Operator() string {
	if sudo, ok := a.Env("SUDO_USER"); ok && sudo != "" {
		return strings.Fields(sudo)[0] + " (sudo)"
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}
