package taskprocessor

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"imagetasks/pkg/lang"
)

// cronInterval is how often deploy/crontab runs the monitor.
const cronInterval = 5 * time.Minute

// cron is whether the crontab of this user has the entries that monitoring-setup.sh puts there.
type cron struct {
	Present bool         `json:"present"`
	Detail  lang.Message `json:"detail"`
}

// lookAtCron reads the user's crontab. The entries are known by the marker with the project's directory.
func lookAtCron(ctx context.Context) cron {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "crontab", "-l").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return cron{Detail: lang.NewMessage(textCronMissing)}
	}
	if err != nil {
		return cron{Detail: lang.NewMessage(textCronNoTable)}
	}
	project, err := projectDir()
	if err == nil && bytes.Contains(out, []byte("# BEGIN imagetasks "+project+"\n")) {
		return cron{Present: true, Detail: lang.NewMessage(textCronThere)}
	}
	return cron{Detail: lang.NewMessage(textCronNotThere)}
}

// projectDir is where the programs' bin/ stands.
func projectDir() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.Dir(filepath.Dir(self)), nil
}
