package taskprocessor

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// cronInterval is how often deploy/crontab runs the monitor.
const cronInterval = 5 * time.Minute

// cron is whether the crontab of this user has the entries that monitoring-setup.sh puts there.
type cron struct {
	Present bool   `json:"present"`
	Detail  string `json:"detail"`
}

// lookAtCron reads the user's crontab. The entries are known by the marker with the project's directory.
func lookAtCron(ctx context.Context) cron {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "crontab", "-l").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return cron{Detail: "cron is not installed"}
	}
	if err != nil {
		return cron{Detail: "this user has no crontab; install it with scripts/monitoring-setup.sh"}
	}
	project, err := projectDir()
	if err == nil && bytes.Contains(out, []byte("# BEGIN imagetasks "+project+"\n")) {
		return cron{Present: true, Detail: "installed"}
	}
	return cron{Detail: "not in this user's crontab; install it with scripts/monitoring-setup.sh"}
}

// projectDir is where the programs' bin/ stands.
func projectDir() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.Dir(filepath.Dir(self)), nil
}
