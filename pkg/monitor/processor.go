package monitor

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/supervise"
)

// checkProcessor checks this host's processor and restarts it when it is dead or hung.
func (m *Monitor) checkProcessor(ctx context.Context, r *Report, s *overview.Snapshot) error {
	began := time.Now()
	var err error
	s.Processors, s.Local, err = overview.Processors(ctx, overview.Config{Store: m.conf.Store, Inspector: m.conf.Supervisor,
		Host: m.conf.Host, HungAfter: m.conf.HungAfter, Live: m.conf.Live})
	if err != nil {
		return err
	}
	p := &r.Summary.Processor
	p.LocalProcessor = s.Local
	ok := p.Verdict != supervise.Dead && p.Verdict != supervise.Hung
	result := string(p.Verdict)
	switch {
	case ok:
	case m.conf.NoRestart || m.conf.DryRun || !p.Wanted:
		p.Action = ActionUnchanged
	default:
		ok = m.restart(ctx, p, s)
	}
	m.record("processor", began, ok, result, string(p.Action))
	return nil
}

// restart restarts the processor and reports whether one runs.
func (m *Monitor) restart(ctx context.Context, p *Processor, s *overview.Snapshot) bool {
	m.conf.Log.WithFields(logrus.Fields{"state": string(p.Verdict), "pid": p.PID}).Warn("restarting the processor")
	pid, err := m.conf.Supervisor.Revive(ctx, p.Verdict == supervise.Hung)
	limit, limited := errors.AsType[*supervise.CrashLoopError](err)
	switch {
	case limited:
		p.Action = ActionRestartLimit
		s.RestartFailure = &finding.Finding{Code: finding.RestartLimit, Count: limit.Restarts, Subject: limit.Log}
	case err != nil:
		p.Action = ActionRestartFailed
		s.RestartFailure = &finding.Finding{Code: finding.RestartFailed, Reason: m.conf.Redact(err.Error())}
	case pid == 0:
		p.Action = ActionHandledElsewhere
	default:
		p.Action, p.RestartPID = ActionRestarted, pid
		m.conf.Log.WithField("pid", pid).Info("the processor was restarted")
	}
	if err != nil {
		m.conf.Log.WithError(errors.New(m.conf.Redact(err.Error()))).Error("the processor could not be restarted")
		return false
	}
	s.Local.Verdict = supervise.Running
	return true
}
