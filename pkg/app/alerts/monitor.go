package alerts

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/alert"
	"imagetasks/pkg/alert/receiver"
	"imagetasks/pkg/app"
	"imagetasks/pkg/app/usage"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/monitor"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

// BeginPass pings that a pass has begun, beside it. The caller calls ended when the pass has ended, with the reason if it could not do its work.
func (a *Alerts) BeginPass(ctx context.Context, log logrus.FieldLogger) (ended func(failure error, summary string)) {
	if a.pinger == nil {
		return func(error, string) {}
	}
	// An interrupted pass is told as well.
	ctx = context.WithoutCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { a.ping(ctx, receiver.PingStart, "", log) })
	return func(failure error, summary string) {
		running.Wait() // the service measures the time between the two
		if failure != nil {
			a.ping(ctx, receiver.PingFail, a.redact(failure.Error()), log)
			return
		}
		a.ping(ctx, receiver.PingSuccess, summary, log)
	}
}

func (a *Alerts) ping(ctx context.Context, signal, text string, log logrus.FieldLogger) {
	ctx, cancel := context.WithTimeout(ctx, alert.SendTimeout)
	defer cancel()
	if err := a.pinger.Ping(ctx, signal, text); err != nil {
		log.Warn(a.redact(err.Error()))
	}
}

// AfterPass tells receivers what a pass of the monitor has found. failure is why it could not do its work.
func (a *Alerts) AfterPass(ctx context.Context, st *store.Store, r monitor.Report, failure error, log logrus.FieldLogger) {
	if len(a.receivers) == 0 || r.Summary.DryRun {
		return
	}
	var lost error
	if failure != nil && !r.DatabaseResponds() {
		lost = failure
	}
	if err := alert.Pass(context.WithoutCancel(ctx), a.config(st, log), a.view(r, failure), lost); err != nil {
		log.Warnf("alerts: %s", a.redact(err.Error()))
	}
}

// view returns what a pass has seen.
func (a *Alerts) view(r monitor.Report, failure error) alert.View {
	v := alert.View{Host: app.Hostname(), Findings: slices.Concat(r.Findings, happened(r)), Quiet: a.settings.Alerts.ResolvedAfter}
	if failure != nil {
		return v
	}
	without := func(all []finding.Code, codes ...finding.Code) []finding.Code {
		return slices.DeleteFunc(all, func(c finding.Code) bool { return slices.Contains(codes, c) })
	}
	installation := without(alert.InstallationCodes(), finding.TasksFailing, finding.ClaimingPaused)
	if r.Running == 0 {
		installation = without(installation, knownToProcessors()...)
	}
	if r.Running == 0 && r.Summary.Due > 0 {
		installation = without(installation, finding.NoProcessor) // this host's monitor may see another problem with its own
	}
	host := append(without(alert.HostCodes(), finding.NotSupervised, finding.MonitorOverdue, finding.StoppedWithDueTasks), finding.APIUnreachable)
	cleaned := func() bool {
		for _, c := range r.Checks {
			if c.Name == "pictures" && !c.At.Before(r.At) {
				return true
			}
		}
		return false
	}
	if !cleaned() {
		host = without(host, finding.PictureCleaningFailed)
	}
	if !r.DisksRead {
		host = without(host, finding.DiskNearlyFull)
	}
	// What the monitor has found is not over for the processors, and the other way around.
	if slices.ContainsFunc(r.Findings, func(f finding.Finding) bool { return f.Code == finding.APIUnreachable }) {
		installation, host = without(installation, finding.APIUnreachable), without(host, finding.APIUnreachable)
	}
	v.Looked = map[alert.Scope][]finding.Code{alert.Installation: installation, alert.Host: host}
	return v
}

// knownToProcessors returns the codes that only a running processor can find: none of them is over because no processor runs.
func knownToProcessors() []finding.Code {
	return []finding.Code{finding.PicturesUnstorable, finding.ModelsRefused, finding.PicturesNotFetched, finding.EndpointFailing,
		finding.EndpointRefusesModels, finding.EndpointsDiffer, finding.ProxyEjected, finding.PictureStoresDiffer}
}

// happened returns what a pass did.
func happened(r monitor.Report) []finding.Finding {
	var out []finding.Finding
	if n := r.Summary.StuckFailed; n > 0 {
		out = append(out, finding.Finding{Code: finding.TasksRepaired, Count: n, Total: int(r.Repair.Credits)})
	}
	if p := r.Summary.Processor; p.Action == monitor.ActionRestarted {
		out = append(out, finding.Finding{Code: finding.ProcessorRestarted, PID: p.RestartPID, Reason: string(p.Verdict)})
	}
	return out
}

// Fault adds to faults of the settings of alerts what still works.
func Fault(err error) error { return fmt.Errorf("%w\nno alerts are sent until this is corrected", err) }

// PrintTest returns the results of a test as text.
func PrintTest(results []Result, l lang.Lang) string {
	var lines []string
	for _, r := range results {
		text := textSent
		if !r.OK {
			text = textNotSent
		}
		lines = append(lines, text.In(l, r.Receiver, usage.Message(r.Error, l)))
	}
	return strings.Join(lines, "\n")
}

// ErrNoReceiver says that there is nobody to be told.
func ErrNoReceiver() error {
	return &settings.Error{Name: "ALERT_WEBHOOK_URL", Reason: "is not set, and " + app.TablesName + " has no [[alert]]: there is no receiver of alerts"}
}

var (
	textSent    = lang.Text{EN: "✓ %s: the test was accepted%s", ZH: "✓ %s：测试消息已送达%s"}
	textNotSent = lang.Text{EN: "✗ %s: %s", ZH: "✗ %s：%s"}
)
