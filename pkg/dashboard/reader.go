package dashboard

import (
	"context"
	"encoding/json"
	"hash/fnv"
	"sync"
	"time"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/health"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/store"
)

// Store is what a Reader reads from the database.
type Store interface {
	overview.ProcessorLister
	overview.BridgeReader
	overview.WebhookReader
	QueueStats(ctx context.Context, stuckAfter time.Duration) (store.QueueStats, error)
	Control(ctx context.Context) (store.Control, error)
	TasksAside(ctx context.Context, limit int) ([]store.AsideTask, error)
	Unsettled(ctx context.Context, window time.Duration, limit int) (store.Unsettled, error)
	Figures(ctx context.Context, window, step time.Duration) ([]store.Figures, error)
	ClosedFigures(ctx context.Context, window time.Duration, last int) (store.ClosedFigures, error)
	ClosedFiguresBetween(ctx context.Context, from, to time.Time) (store.ClosedFigures, error)
	FailureFigures(ctx context.Context, since time.Time) ([]store.FailureGroup, error)
	FailedTasks(ctx context.Context, code string, limit int) ([]string, error)
	ClosedSince(ctx context.Context, since time.Time) ([]store.ClosedGroup, error)
	ClosedBetween(ctx context.Context, from, to time.Time) (completed, failed, cancelled int, err error)
	BookedBetween(ctx context.Context, from, to time.Time) (store.Booked, error)
	RecentlyClosed(ctx context.Context, since time.Time, limit int) ([]store.ClosedTask, error)
	FindTasks(ctx context.Context, ids []string) ([]store.FoundTask, error)
	FindTasksByPrefix(ctx context.Context, prefix string, limit int) ([]store.FoundTask, error)
	FindTasksByUser(ctx context.Context, user string, limit int) ([]store.FoundTask, error)
	TaskDetails(ctx context.Context, id string) (store.TaskDetails, error)
}

// Config configures a Reader.
type Config struct {
	Store      Store
	Version    string
	Host       string
	ServedBy   Program
	StuckAfter time.Duration
	HungAfter  time.Duration
	Zone       *time.Location // of the days; nil: the server's
	// Processors returns the processors of all hosts, and the state of this host's background processor, from the rows of the database, which may be
	// old ones. See Own, and overview.Processors.
	Processors func(ctx context.Context, rows overview.ProcessorLister) ([]overview.Processor, overview.LocalProcessor, error)
	Checks     func() []health.Check
	APICheck   func() overview.APICheck // the monitor's last check of the API; optional
	// EndpointsFault says why this host's endpoints can't be used; empty: they can.
	EndpointsFault string
	BacklogAfter   time.Duration // that a task may be due before that is a problem; 0: it is none
	// Disks returns the free space of this host; optional.
	Disks func(ctx context.Context) ([]overview.Disk, bool)
	// Files returns the names of a task's files in the picture store; optional.
	Files       func(ctx context.Context, t store.TaskRow) ([]string, error)
	CommandLine func(finding.Command) string
	Redact      func(string) string
}

const (
	// liveInterval is the least time between two reads of the live part, and slowInterval of the rest.
	liveInterval = 2 * time.Second
	slowInterval = 30 * time.Second
	// pauseFactor bounds what reading costs: between two reads there are at least so many times the time that the last one took.
	pauseFactor = 20
	maxPause    = time.Minute
	// failurePause is the time between two reads where the first one failed.
	failurePause = 5 * time.Second
	// liveTimeout bounds a read of the live part from the database, processorsTimeout the look at this host's processor, and slowTimeout a read of the rest.
	liveTimeout       = 3 * time.Second
	processorsTimeout = 6 * time.Second
	slowTimeout       = 20 * time.Second
	// waitTimeout is how long Snapshot waits for a read.
	waitTimeout = liveTimeout + 2*time.Second
	// firstSlowWait is how long the first Snapshot waits for the part that takes longer.
	firstSlowWait = 2 * time.Second
)

// Snapshot is a Document with its JSON. It must not be changed.
type Snapshot struct {
	Document Document
	JSON     []byte
	// Version differs when anything but the time and the ages in the document do.
	Version uint64
	// Latest are the last minutes as JSON, and LatestAt the end of the last: it differs when there is a new one.
	Latest   []byte
	LatestAt time.Time
}

// Reader reads documents while Run runs, and only while somebody asks for them. It is safe for concurrent use.
type Reader struct {
	conf Config
	live *tier
	slow *tier

	mu       sync.Mutex
	contents contents
	snapshot *Snapshot     // nil: nothing was read yet
	changed  chan struct{} // closed when there is another snapshot
	slowRead chan struct{} // closed when the slow part was read for the first time

	series   map[int]*seriesCache // by hours
	searches chan struct{}        // for files that are in progress
}

// New returns a Reader. Without Run it returns no documents.
func New(conf Config) *Reader {
	if conf.Zone == nil {
		conf.Zone = time.Local
	}
	r := &Reader{conf: conf, changed: make(chan struct{}), slowRead: make(chan struct{}), series: map[int]*seriesCache{},
		searches: make(chan struct{}, maxFileSearches)}
	r.live = newTier(liveInterval, r.readLive)
	r.slow = newTier(slowInterval, r.readSlow)
	return r
}

// Run reads what is asked for until ctx ends.
func (r *Reader) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, t := range []*tier{r.live, r.slow} {
		running.Go(func() { t.run(ctx) })
	}
	running.Wait()
}

// Snapshot returns the latest document, which is about two seconds old at most while the database responds. It waits for a read if one is due, for a
// few seconds at most. nil: nothing was read yet.
func (r *Reader) Snapshot(ctx context.Context) *Snapshot {
	due := r.live.want()
	r.slow.want()
	r.mu.Lock()
	now, changed := r.snapshot, r.changed
	r.mu.Unlock()
	if now != nil && !due {
		return now
	}
	wait(ctx, changed, waitTimeout)
	if now == nil {
		wait(ctx, r.slowRead, firstSlowWait)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snapshot
}

func wait(ctx context.Context, done <-chan struct{}, limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-ctx.Done():
	case <-timer.C:
	}
}

// publish makes a document of the parts. The caller holds r.mu.
func (r *Reader) publish(now time.Time) {
	document := r.conf.document(r.contents, now)
	s := &Snapshot{Document: document, Version: version(document), Latest: r.contents.latest, LatestAt: r.contents.closed.To}
	var err error
	if s.JSON, err = json.Marshal(document); err != nil {
		return // a document has only what can be marshalled; the last one stays
	}
	r.snapshot = s
	close(r.changed)
	r.changed = make(chan struct{})
}

// version returns a number that differs when more of a document does than times that always do.
func version(d Document) uint64 {
	d.AsOf, d.OldestDue = time.Time{}, 0
	processors := append([]Processor{}, d.Processors...)
	for i := range processors {
		processors[i].SilentSeconds = 0
	}
	d.Processors = processors
	text, err := json.Marshal(d)
	if err != nil {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write(text)
	return h.Sum64()
}

// tier is a part that is read at intervals, while it is wanted.
type tier struct {
	every  time.Duration
	read   func(ctx context.Context) (cost time.Duration, err error) // the time that the database was asked for
	wanted chan struct{}

	mu   sync.Mutex
	next time.Time // of the next read, if it is wanted
}

func newTier(every time.Duration, read func(ctx context.Context) (time.Duration, error)) *tier {
	return &tier{every: every, read: read, wanted: make(chan struct{}, 1)}
}

// want asks for a read, and reports whether one is due.
func (t *tier) want() bool {
	select {
	case t.wanted <- struct{}{}:
	default:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return !time.Now().Before(t.next)
}

func (t *tier) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wanted:
		}
		cost, err := t.read(ctx)
		pause := max(t.every, min(pauseFactor*cost, maxPause))
		if err != nil {
			pause = max(t.every, failurePause)
		}
		t.mu.Lock()
		t.next = time.Now().Add(pause)
		t.mu.Unlock()
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}
