package processor

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"imagetasks/pkg/health"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// turn notes that the loop turns.
func (p *Processor) turn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turned = time.Now()
}

// stalled reports whether the loop turns, or has ended in order.
func (p *Processor) stalled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.draining || time.Since(p.turned) < p.conf.PollInterval+p.conf.StallTimeout
}

// signsOfLife tells the database that this processor lives, for as long as its loop turns.
func (p *Processor) signsOfLife(ctx context.Context) {
	every(ctx, p.conf.HeartbeatInterval, func() { p.signOfLife(ctx) })
}

func (p *Processor) signOfLife(ctx context.Context) {
	if !p.stalled() {
		p.conf.Log.Error("the loop hangs; no sign of life is given")
		return
	}
	report, err := json.Marshal(p.Status())
	if err == nil {
		_, err = bounded(ctx, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, p.queue.RecordHeartbeat(ctx, store.Processor{Worker: p.conf.Worker, Host: p.conf.Host, PID: p.conf.PID,
				Version: p.conf.Version, Report: report})
		})
	}
	if err != nil {
		p.troubled(ctx, "give a sign of life", err)
		return
	}
	p.answered()
	p.mu.Lock()
	p.beat = time.Now()
	p.mu.Unlock()
	p.note(Event{Kind: EventHeartbeat})
}

// leave tells the database that this processor stopped in order.
func (p *Processor) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), FinalWriteTimeout)
	defer cancel()
	if err := p.queue.Deregister(ctx, p.conf.Worker); err != nil {
		p.conf.Log.WithError(err).Warn("could not tell the database that this processor stops")
	}
}

// healthChecks looks after the database and the API, and keeps what it saw.
func (p *Processor) healthChecks(ctx context.Context) {
	every(ctx, p.conf.CheckInterval, func() {
		p.check("database", func() (string, string, bool) { return p.checkDatabase(ctx) })
		p.check("api", func() (string, string, bool) { return p.checkAPI(ctx) })
		p.signOfLife(ctx) // which tells what was seen
	})
}

func (p *Processor) check(what string, look func() (result, action string, ok bool)) {
	began := time.Now()
	result, action, ok := look()
	p.checks.Add(health.Check{At: began, Name: what, OK: ok, Millis: time.Since(began).Milliseconds(), Result: result, Action: action})
	p.note(Event{Kind: EventHealthChecked})
}

func (p *Processor) checkDatabase(ctx context.Context) (result, action string, ok bool) {
	if _, err := bounded(ctx, p.queue.HasPending); err != nil {
		p.troubled(ctx, "look after the queue", err)
		return p.sanitize(err).Message, "waits for it", false
	}
	p.answered()
	return "answers", "", true
}

// checkAPI asks the API for its health, unless it answered lately or is known to be out of reach.
func (p *Processor) checkAPI(ctx context.Context) (result, action string, ok bool) {
	if shut := p.breaker.reason(); shut != nil {
		return shut.Message, "no task is claimed until it opens", false
	}
	p.mu.Lock()
	said := p.apiSaid
	p.mu.Unlock()
	if !said.IsZero() && time.Since(said) < p.conf.ProbeInterval {
		return fmt.Sprintf("answered %s ago", time.Since(said).Round(time.Second)), "", true
	}
	err := p.probe(ctx)
	if err == nil {
		return "answers", "", true
	}
	e := p.sanitize(err)
	if ctx.Err() == nil && e.Disposition == task.Pause {
		p.shut(e)
		return e.Message, "no task is claimed until it opens", false
	}
	return e.Message, "", false
}

// probeBound is how long the API may take over a probe.
const probeBound = time.Minute

// probe asks the API for its health.
func (p *Processor) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeBound)
	defer cancel()
	err := p.maker.Probe(ctx)
	if err == nil {
		p.apiAnswered()
	}
	return err
}

func (p *Processor) apiAnswered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.apiSaid = time.Now()
}

// every calls do at once and then at each interval, until ctx ends.
func every(ctx context.Context, interval time.Duration, do func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		do()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
