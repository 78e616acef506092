package taskprocessor

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/render"
	"imagetasks/pkg/app/webhooks"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/webhook"
)

// hooksRun delivers completion events beside a processor. What fails there does not stop the processor. The zero value delivers none.
type hooksRun struct {
	service *webhook.Service
	conf    webhooks.Webhooks
	store   *store.Store
	log     logrus.FieldLogger
	once    bool // the run ends by itself: what is due is delivered before
}

// newHooks checks the settings of completion events, and sets for all processors whether they are written.
func (a program) newHooks(ctx context.Context, s settings.Settings, st *store.Store, once bool, log logrus.FieldLogger, observe func(webhook.Delivery)) (*hooksRun, error) {
	receivers := webhooks.Receivers(s)
	// As with the limits of users.
	if !once || len(receivers) > 0 {
		if err := st.SetCompletionEvents(ctx, receivers...); err != nil {
			return nil, err
		}
	}
	h := &hooksRun{store: st, log: log, once: once}
	if len(receivers) == 0 {
		return h, nil
	}
	var err error
	if h.conf, err = webhooks.New(a.App, s, st, log); err != nil {
		return nil, err
	}
	h.conf.Config.Observe = observe
	h.service, err = webhook.New(h.conf.Config)
	return h, err
}

func (h *hooksRun) close() {
	if h.service != nil {
		h.conf.Close()
	}
}

// observe lets the events of a task leave at once.
func (h *hooksRun) observe(e processor.Event) {
	if h.service == nil {
		return
	}
	switch e.Kind {
	case processor.EventCompleted, processor.EventFailed, processor.EventAbandoned, processor.EventOverdue:
		h.service.Wake()
	}
}

// busy returns how many deliveries are to be recorded, for which connections are needed.
func (h *hooksRun) busy() int {
	if h.service == nil {
		return 0
	}
	return h.service.Busy()
}

// beside delivers events while work runs, and those of its last tasks.
func (h *hooksRun) beside(ctx context.Context, work func() error) error {
	if h.service == nil {
		return work()
	}
	deliveries, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.service.Run(deliveries)
	}()
	err := work()
	cancel()
	<-ended
	if h.once && ctx.Err() == nil {
		if _, err := webhook.Pass(ctx, h.conf.Config); err != nil {
			h.log.WithError(err).Warn("the completion events of the last tasks are not delivered yet")
		}
	}
	return err
}

func webhooksCommand(a program) *cli.Command {
	all := &cli.BoolFlag{Name: "all", Usage: "all that were given up"}
	return &cli.Command{
		Name: "webhooks", Usage: "list completion events, deliver them again, or test the receiver",
		Action: missingSubcommand("webhooks list", "webhooks redeliver", "webhooks discard", "webhooks test"),
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list the latest completion events", Action: a.listEvents, Flags: append([]cli.Flag{
				&cli.BoolFlag{Name: "undelivered", Usage: "only those that were given up"},
				&cli.IntFlag{Name: "limit", Usage: "number of events", Value: 50}, app.JSONFlag()}, app.CommonFlags()...)},
			{Name: "redeliver", Usage: "deliver events again, by their ids, or all that were given up", ArgsUsage: "ID …",
				Action: a.changeEvents(textRedelivered, (*store.Store).RedeliverEvents), Flags: append([]cli.Flag{all, app.JSONFlag()}, app.CommonFlags()...)},
			{Name: "discard", Usage: "give events up for good, by their ids, or all that are not tried again", ArgsUsage: "ID …",
				Action: a.changeEvents(textDiscarded, (*store.Store).DiscardEvents), Flags: append([]cli.Flag{all, app.JSONFlag()}, app.CommonFlags()...)},
			{Name: "test", Usage: "send an event of the type webhook.test to COMPLETION_WEBHOOK_URL", Action: a.testWebhook,
				Flags: append([]cli.Flag{app.JSONFlag()}, app.CommonFlags()...)},
		},
	}
}

func (a program) listEvents(c *cli.Context) error {
	limit := c.Int("limit")
	if limit < 1 || limit > 10_000 {
		return app.Usagef("--limit must be from 1 to 10000")
	}
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		state := store.EventState("")
		if c.Bool("undelivered") {
			state = store.EventUndelivered
		}
		events, err := st.Events(ctx, state, limit)
		if err != nil {
			return err
		}
		for i := range events {
			events[i].Reason = a.Redact.String(events[i].Reason)
		}
		if c.Bool("json") {
			return a.PrintJSON(map[string]any{"events": append([]store.EventRow{}, events...)})
		}
		if len(events) == 0 {
			return a.Print(c, textNoEvents)
		}
		for _, e := range events {
			receiver := e.Host
			if e.Receiver == store.ReceiverWebhook {
				receiver = "COMPLETION_WEBHOOK_URL"
			}
			a.Printf("%s  %s  %-14s  %-11s  %s  %s  %s\n", render.DateTime(e.CreatedAt), e.ID, e.Type, e.State, e.TaskID, receiver, e.Reason)
		}
		return nil
	})
}

// changeEvents returns the action of a command that changes events by id or all that were given up.
func (a program) changeEvents(text lang.Text, change func(*store.Store, context.Context, []string, uuid.UUID) (int, error)) cli.ActionFunc {
	return func(c *cli.Context) error {
		ids := c.Args().Slice()
		if c.Bool("all") == (len(ids) > 0) {
			return app.Usagef("name events by their ids, or use --all")
		}
		if c.Bool("all") {
			ids = nil
		}
		return a.WithStoreAndArguments(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
			n, err := change(st, ctx, ids, uuid.New())
			if err != nil {
				return app.UnknownOutcome(ctx, err, repeatCommand)
			}
			if c.Bool("json") {
				return a.PrintJSON(map[string]int{"events": n})
			}
			return a.Print(c, text, n)
		})
	}
}

// testTimeout bounds webhooks test.
const testTimeout = 30 * time.Second

func (a program) testWebhook(c *cli.Context) error {
	if err := app.NoArguments(c); err != nil {
		return err
	}
	s, err := a.Load(c)
	if err != nil {
		return err
	}
	ctx, stop := a.UntilSignal(c.Context, nil)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	w, err := webhooks.New(a.App, s, nil, nil)
	if err != nil {
		return err
	}
	defer w.Close()
	began := time.Now()
	id, status, err := webhook.Test(ctx, w.Config)
	if err != nil {
		return err
	}
	took := time.Since(began)
	if c.Bool("json") {
		return a.PrintJSON(map[string]any{"id": id, "http_status": status, "ms": took.Milliseconds()})
	}
	return a.Print(c, textWebhookTested, id, status, took.Round(time.Millisecond))
}
