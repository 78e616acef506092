package daemon

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	"imagetasks/pkg/app"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// program is the name of the processor's program.
const program = "task-processor"

// lookupTimeout bounds a question to the database.
const lookupTimeout = 5 * time.Second

// Lookup finds the processor of this host and of LOG_DIR by its status address and its heartbeat. It is for the times when the
// lock on the pid file does not tell: the file was deleted or replaced, or could not be made.
type Lookup struct {
	App      *app.App
	Settings settings.Settings
	Store    *store.Store // nil: a connection is made for each question
}

// Find returns the processor. Of several it returns the one that the status address reports, or the latest heartbeat's.
func (l Lookup) Find(ctx context.Context) (supervise.Found, bool) {
	if report := l.live(ctx); report != nil && l.isOwn(report, report.PID, 0) {
		return supervise.Found{PID: report.PID, Started: report.StartedAt}, true
	}
	for _, p := range l.rows(ctx) {
		var report overview.ProcessorReport
		// The report is the processor's own: one that can't be read is not ours.
		if json.Unmarshal(p.Report, &report) == nil && p.Host == app.Hostname() && l.isOwn(&report, p.PID, p.HeartbeatAge) {
			return supervise.Found{PID: p.PID, Started: p.StartedAt, Age: p.HeartbeatAge}, true
		}
	}
	return supervise.Found{}, false
}

// Report returns the latest report of the processor with that pid; nil: it is not known.
func (l Lookup) Report(ctx context.Context, pid int) *overview.ProcessorReport {
	if report := l.live(ctx); report != nil && report.PID == pid {
		return report
	}
	for _, p := range l.rows(ctx) {
		report := &overview.ProcessorReport{}
		if p.Host == app.Hostname() && p.PID == pid && json.Unmarshal(p.Report, report) == nil {
			return report
		}
	}
	return nil
}

func (l Lookup) live(ctx context.Context) *overview.ProcessorReport {
	return status.Live(ctx, l.Settings.StatusAddr, l.Settings.StatusToken)()
}

// rows returns the processors in the database; none where it does not respond.
func (l Lookup) rows(ctx context.Context) []store.Processor {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	st := l.Store
	if st == nil {
		var err error
		if st, err = l.App.NewStore(ctx, l.Settings); err != nil {
			return nil
		}
		defer st.Close()
	}
	rows, err := st.Processors(ctx)
	if err != nil {
		return nil
	}
	return rows
}

// isOwn reports whether a report of that age is of a processor of this host and LOG_DIR that still runs. A process that began
// after the report was made has only its pid.
func (l Lookup) isOwn(report *overview.ProcessorReport, pid int, age time.Duration) bool {
	if pid == os.Getpid() || report.LogDir == "" || !strings.HasPrefix(report.Worker, app.Hostname()+":") ||
		!sameDir(report.LogDir, l.Settings.LogDir) || !supervise.RunsProgram(pid, program) {
		return false
	}
	if processAge, known := supervise.ProcessAge(pid); known {
		return processAge+time.Second >= age
	}
	return age <= l.Settings.HungAfter
}

// sameDir reports whether two paths name the same directory.
func sameDir(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
