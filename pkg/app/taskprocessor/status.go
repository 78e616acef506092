package taskprocessor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// overview is what `task-processor status` prints.
type overview struct {
	Version   string             `json:"version"`
	Processor *status.Report     `json:"processor"` // null: none answers on the status address
	States    map[task.State]int `json:"tasks"`
	Queue     store.Queue        `json:"queue"`
	OldestDue float64            `json:"oldest_due_seconds"`
	Problems  []string           `json:"problems"`
}

func (a program) status(c *cli.Context) error {
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		o, err := look(ctx, s, st)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			err = a.PrintJSON(o)
		} else {
			a.printOverview(o)
		}
		if err == nil && len(o.Problems) > 0 {
			err = app.ErrWrong
		}
		return err
	})
}

func look(ctx context.Context, s settings.Settings, st *store.Store) (overview, error) {
	o := overview{Version: app.BuildVersion(), Problems: []string{}}
	var err error
	if o.States, err = st.States(ctx); err != nil {
		return o, err
	}
	if o.Queue, err = st.Queue(ctx, s.StuckAfter); err != nil {
		return o, err
	}
	o.OldestDue = o.Queue.OldestDue.Seconds()
	if s.StatusAddr != "" {
		o.Processor = askProcessor(ctx, s.StatusAddr)
	}
	switch {
	case o.Processor != nil:
		o.Problems = append(o.Problems, o.Processor.Problems...)
	case o.Queue.Due > 0:
		o.Problems = append(o.Problems, fmt.Sprintf("%d tasks wait and no processor answers on %s; start one with: task-processor run",
			o.Queue.Due, s.StatusAddr))
	}
	if o.Queue.Stuck > 0 && o.Processor == nil {
		o.Problems = append(o.Problems, fmt.Sprintf("%d tasks are stuck; run: fix-stuck-tasks", o.Queue.Stuck))
	}
	return o, nil
}

// askProcessor returns what the processor says of itself, nil where none answers.
func askProcessor(ctx context.Context, addr string) *status.Report {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/status.json", nil)
	if err != nil {
		return nil
	}
	// A transport without proxies: the address is this machine's.
	transport := &http.Transport{DisableKeepAlives: true}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return nil
	}
	defer answer.Body.Close()
	var report status.Report
	if err := json.NewDecoder(io.LimitReader(answer.Body, 1<<20)).Decode(&report); err != nil || report.Version == "" {
		return nil
	}
	return &report
}

func (a program) printOverview(o overview) {
	a.Printf("imagetasks %s\n\n", o.Version)
	if p := o.Processor; p != nil {
		a.Printf("processor   %s, since %s, %d of %d tasks in hand\n", p.Processor.Worker,
			p.Processor.Started.Local().Format(time.DateTime), p.Processor.InHand, p.Processor.Concurrency)
	} else {
		a.Printf("processor   none answers on its status address\n")
	}
	for _, state := range task.States() {
		a.Printf("%-11s %d\n", state, o.States[state])
	}
	a.Printf("due now     %d, the oldest for %s\n", o.Queue.Due, o.Queue.OldestDue.Round(time.Second))
	a.Printf("stuck       %d\n", o.Queue.Stuck)
	if len(o.Problems) > 0 {
		a.Printf("\n")
	}
	for _, p := range o.Problems {
		a.Printf("! %s\n", p)
	}
}
