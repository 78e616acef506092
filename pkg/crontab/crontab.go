// Package crontab reads this user's crontab and finds the entries that scripts/monitoring-setup.sh installs.
package crontab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"time"
)

// Interval is how often deploy/crontab runs the monitor.
const Interval = 5 * time.Minute

// readTimeout bounds the call of crontab -l.
const readTimeout = 5 * time.Second

// Status says whether the entries are installed, and if not, why.
type Status string

// The states of the entries.
const (
	Installed     Status = "installed"
	NotInstalled  Status = "not_installed" // a crontab exists, without our entries
	NoCrontab     Status = "no_crontab"    // this user has no crontab
	CronIsMissing Status = "cron_missing"  // the crontab program does not exist
)

// State is what the crontab contains.
type State struct {
	Status Status `json:"status"`
	// InstalledAt is when the entries were installed; zero when that is unknown.
	InstalledAt time.Time `json:"installed_at,omitzero"`
}

// Read returns the state of the entries for the project in that directory. It never fails: what can't be read counts as not
// installed.
func Read(ctx context.Context, project string) State {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "crontab", "-l").Output()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return State{Status: CronIsMissing}
	case err != nil:
		return State{Status: NoCrontab}
	}
	return parse(out, project)
}

// parse finds the block between "# BEGIN imagetasks DIR" and "# END imagetasks DIR", and in it the line
// "# Installed TIME", which older installations lack.
func parse(text []byte, project string) State {
	state := State{Status: NotInstalled}
	inside := false
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		switch line := lines.Text(); {
		case line == "# BEGIN imagetasks "+project:
			inside, state.Status = true, Installed
		case line == "# END imagetasks "+project:
			inside = false
		case inside:
			if at, ok := strings.CutPrefix(line, "# Installed "); ok {
				// Without a readable time, only passes of the monitor tell whether cron runs.
				state.InstalledAt, _ = time.Parse(time.RFC3339, strings.TrimSpace(at))
			}
		}
	}
	return state
}
