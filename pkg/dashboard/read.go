package dashboard

import (
	"context"
	"encoding/json"
	"time"

	"imagetasks/pkg/overview"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

const (
	closedWindow = 24 * time.Hour
	recentTasks  = 12
	// shownFailures bounds the causes of failures, and shownExamples the tasks of each.
	shownFailures = 20
	shownExamples = 3
	// latestMinutes are sent each minute, so that a browser that missed one has it.
	latestMinutes = 5
)

// contents are what documents are made of, as it was read last.
type contents struct {
	livePart
	slowPart
	found        []overview.Processor
	local        overview.LocalProcessor
	failingSince time.Time // the database has not responded since then; zero: it does
	failure      string
}

// livePart is read every two seconds.
type livePart struct {
	readAt   time.Time // zero: never
	queue    store.QueueStats
	control  store.Control
	rows     []store.Processor
	aside    []store.AsideTask
	bridge   *overview.Bridge
	closed   store.ClosedFigures // as far as they are recorded
	tail     []store.ClosedGroup // since then
	recent   []store.ClosedTask
	examples map[string]store.FoundTask // tasks that failed, by id

	closedByHand bool // minutes are missing in closed: its numbers are those of the tasks

	// What is recorded does not change: it is read again when there is another minute.
	failures []store.FailureGroup
	latest   []byte
}

// slowPart is read less often.
type slowPart struct {
	slowAt       time.Time // zero: never
	unsettled    store.Unsettled
	webhooks     *overview.Webhooks
	hour         store.ClosedFigures // of the last hour
	hourFailures []store.FailureGroup
	days         []Day
	disks        []overview.Disk
}

// readLive reads the live part. If that fails, the document says so and has the last one.
func (r *Reader) readLive(ctx context.Context) (time.Duration, error) {
	r.mu.Lock()
	last := r.contents.livePart
	r.mu.Unlock()
	began := time.Now()
	bounded, cancel := context.WithTimeout(ctx, liveTimeout)
	read, err := r.conf.readLive(bounded, last)
	cancel()
	now := time.Now()
	bounded, cancel = context.WithTimeout(ctx, processorsTimeout)
	defer cancel()
	processors, local, processorsErr := r.conf.Processors(bounded, knownRows(read.rows, now.Sub(read.readAt)))
	r.mu.Lock()
	defer r.mu.Unlock()
	if processorsErr == nil {
		r.contents.found, r.contents.local = processors, local
	}
	switch {
	case err == nil:
		r.contents.livePart, r.contents.failingSince, r.contents.failure = read, time.Time{}, ""
	default:
		if r.contents.failingSince.IsZero() {
			r.contents.failingSince = now
		}
		r.contents.failure = r.conf.Redact(err.Error())
	}
	r.publish(time.Now())
	return now.Sub(began), err
}

// readLive returns the live part, and last where that fails.
func (c Config) readLive(ctx context.Context, last livePart) (livePart, error) {
	p := livePart{failures: last.failures, latest: last.latest}
	st := c.Store
	var err error
	if p.closed, err = st.ClosedFigures(ctx, closedWindow, recentTasks); err != nil {
		return last, err
	}
	p.readAt = time.Now()
	if p.queue, err = st.QueueStats(ctx, c.StuckAfter); err != nil {
		return last, err
	}
	if p.control, err = st.Control(ctx); err != nil {
		return last, err
	}
	if p.rows, err = st.Processors(ctx); err != nil {
		return last, err
	}
	if p.aside, err = st.TasksAside(ctx, overview.UnsettledLimit); err != nil {
		return last, err
	}
	if p.bridge, err = overview.ReadBridge(ctx, st); err != nil {
		return last, err
	}
	if p.tail, err = st.ClosedSince(ctx, p.closed.To); err != nil {
		return last, err
	}
	if p.recent, err = st.RecentlyClosed(ctx, p.closed.LastFrom, recentTasks); err != nil {
		return last, err
	}
	if !p.closed.To.Equal(last.closed.To) || last.readAt.IsZero() {
		if err := c.readRecorded(ctx, &p); err != nil {
			return last, err
		}
	} else if last.closedByHand {
		p.closedByHand = true
		p.closed.Completed, p.closed.Failed, p.closed.Cancelled = last.closed.Completed, last.closed.Failed, last.closed.Cancelled
	}
	var ids []string
	for _, f := range p.allFailures() {
		ids = append(ids, f.Tasks...)
	}
	p.examples = map[string]store.FoundTask{}
	if len(ids) == 0 {
		return p, nil
	}
	found, err := st.FindTasks(ctx, ids)
	if err != nil {
		return last, err
	}
	for _, t := range found {
		p.examples[t.ID] = t
	}
	return p, nil
}

// readRecorded reads what changes when a minute is recorded.
func (c Config) readRecorded(ctx context.Context, p *livePart) error {
	var err error
	if p.failures, err = c.Store.FailureFigures(ctx, p.closed.From); err != nil {
		return err
	}
	figures, err := c.Store.Figures(ctx, latestMinutes*time.Minute, time.Minute)
	if err != nil {
		return err
	}
	if p.latest, err = json.Marshal(newSeries(figures, time.Minute)); err != nil {
		return err
	}
	if p.closed.Complete() {
		return nil
	}
	// Minutes are missing: nothing ran, or what was to be filled in took too long.
	p.closedByHand = true
	p.closed.Completed, p.closed.Failed, p.closed.Cancelled, err = c.Store.ClosedBetween(ctx, p.closed.From, p.closed.To)
	return err
}

// allFailures returns the tasks that failed within the window by cause, the most frequent first.
func (p livePart) allFailures() []store.FailureGroup {
	return mergeFailures(p.failures, p.tail, shownFailures)
}

// readSlow reads the rest. What can't be read stays as it was: the live part says when the database does not respond.
func (r *Reader) readSlow(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, slowTimeout)
	defer cancel()
	r.mu.Lock()
	p := r.contents.slowPart
	r.mu.Unlock()
	st := r.conf.Store
	now := time.Now()
	if unsettled, err := st.Unsettled(ctx, overview.UnsettledWindow, overview.UnsettledLimit); err == nil {
		p.unsettled = unsettled
	}
	if webhooks, err := overview.ReadWebhooks(ctx, st); err == nil {
		p.webhooks = webhooks
	}
	if hour, err := st.ClosedFigures(ctx, time.Hour, 0); err == nil {
		if failures, err := st.FailureFigures(ctx, hour.From); err == nil {
			p.hour, p.hourFailures = hour, failures
		}
	}
	if r.conf.Disks != nil {
		if disks, ok := r.conf.Disks(ctx); ok {
			p.disks = disks
		}
	}
	p.days = readDays(ctx, st, p.days, now.In(r.conf.Zone))
	p.slowAt = now
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.contents.slowAt.IsZero()
	r.contents.slowPart = p
	if first {
		close(r.slowRead)
	}
	if r.snapshot != nil {
		r.publish(time.Now())
	}
	return time.Since(now), nil
}

// mergeFailures adds the failures of tasks that were closed later.
func mergeFailures(recorded []store.FailureGroup, tail []store.ClosedGroup, limit int) []store.FailureGroup {
	var all []store.FailureGroup
	for _, g := range tail {
		if g.State == task.Failed {
			all = append(all, g.FailureGroup)
		}
	}
	for _, f := range recorded {
		known := false
		for i := range all {
			if all[i].Code == f.Code {
				known = true
				all[i].Count += f.Count
				all[i].Tasks = append(append([]string{}, all[i].Tasks...), f.Tasks...)
			}
		}
		if !known {
			all = append(all, f)
		}
	}
	sortFailures(all)
	all = all[:min(len(all), limit)]
	for i := range all {
		all[i].Tasks = all[i].Tasks[:min(len(all[i].Tasks), shownExamples)]
	}
	return all
}
