package taskprocessor

import (
	"context"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/alerts"
	"imagetasks/pkg/app/picturestore"
	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/health"
	"imagetasks/pkg/metrics"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
)

// statusPage is what a processor serves on its status address.
type statusPage struct {
	settings    settings.Settings
	store       *store.Store
	access      *status.Access
	report      func() overview.ProcessorReport
	commandLine func(finding.Command) string
	log         logrus.FieldLogger
	metrics     *metrics.Metrics
	operator    status.Operator
	thumbnails  status.Thumbnails
}

// startPage serves the page until close is called.
func (a program) startPage(ctx context.Context, p statusPage) (close func() error, err error) {
	s, st := p.settings, p.store
	reader := dashboard.New(dashboard.Config{Store: st, Version: app.BuildVersion(), Host: app.Hostname(), ServedBy: dashboard.TaskProcessor,
		StuckAfter: s.StuckAfter, HungAfter: s.HungAfter, Processors: dashboard.Own(app.Hostname(), s.HungAfter, p.report),
		Checks:      func() []health.Check { return p.report().Checks },
		Files:       func(ctx context.Context, t store.TaskRow) ([]string, error) { return picturestore.Files(ctx, s, st, t) },
		CommandLine: p.commandLine, Redact: a.Redact.String, BacklogAfter: s.BacklogAfter, Disks: alerts.Disks(s).Read})
	server, err := status.Start(status.Source{Version: app.BuildVersion(), CommandLine: p.commandLine, Redact: a.Redact.String, Processor: p.report, Dashboard: reader,
		Metrics: p.metrics, Operator: p.operator, Thumbnails: p.thumbnails, BacklogAfter: s.BacklogAfter,
		Queue:  func(ctx context.Context) (store.QueueStats, error) { return st.QueueStats(ctx, s.StuckAfter) },
		Bridge: func(ctx context.Context) (*overview.Bridge, error) { return overview.ReadBridge(ctx, st) }}, p.access)
	if err != nil {
		return nil, err
	}
	p.log.WithField("address", "http://"+server.Addr()).Info("status page")
	// It is there until the last task has ended.
	stop := app.Background(context.WithoutCancel(ctx), reader.Run)
	return func() error {
		err := server.Close()
		stop()
		return err
	}, nil
}
