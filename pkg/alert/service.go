package alert

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/store"
)

// Watch is how a processor looks for problems.
type Watch struct {
	// Own returns the problems that this process knows by itself, at once and without the database.
	Own func() []finding.Finding
	// Inspect looks for all problems of the installation. ok: everything was looked at.
	Inspect func(ctx context.Context) (v View, ok bool)
	// OnHost looks for problems of this host that the processors of other hosts can't see; optional. ok: everything was looked at.
	OnHost func(ctx context.Context) (v View, ok bool)
	// Lost returns since when the database is unavailable to this process, and why; zero: it responds.
	Lost func() (since time.Time, reason string)
}

// The times of a Service.
const (
	ownInterval  = time.Second
	lookInterval = 15 * time.Second
	lookTimeout  = time.Minute
	// lostWait is how long the database must be unavailable before that is told: a restart of the server takes a few seconds.
	lostWait = 30 * time.Second
)

// Service tells receivers about problems while a processor runs. What receivers and the database do delays nothing but alerts.
type Service struct {
	conf     Config
	watch    Watch
	process  uuid.UUID
	interval time.Duration // between two looks
	wakes    []chan struct{}
	log      reporter

	mu         sync.Mutex
	unrecorded time.Time // since when nothing can be recorded in the database; zero: it can
	reason     string
}

// NewService returns a Service.
func NewService(conf Config, watch Watch) *Service {
	s := &Service{conf: conf, watch: watch, process: uuid.New(), interval: max(min(lookInterval, conf.Quiet/4), ownInterval), log: reporter{log: conf.Log}}
	for range conf.Receivers {
		s.wakes = append(s.wakes, make(chan struct{}, 1))
	}
	return s
}

// Run works until ctx ends. It returns when nothing is being sent any more.
func (s *Service) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	for i, r := range s.conf.Receivers {
		running.Go(func() { s.notify(ctx, r, s.wakes[i]) })
	}
	running.Go(func() { s.watchDatabase(ctx) })
	tick := time.NewTicker(min(ownInterval, s.interval))
	defer tick.Stop()
	var own []string
	var lookAt, observed time.Time
	for {
		now := time.Now()
		found := s.watch.Own()
		ids := fingerprints(found, s.conf.Host)
		changed := !slices.Equal(ids, own)
		if len(found) > 0 && (changed || now.Sub(observed) >= s.interval) {
			observed = now
			if s.observe(ctx, View{Host: s.conf.Host, Findings: found, Quiet: s.conf.Quiet}) && changed {
				s.wake()
			}
		}
		if changed {
			own, lookAt = ids, now
		}
		if !now.Before(lookAt) {
			lookAt = now.Add(s.interval)
			s.observeWith(ctx, s.watch.OnHost)
			s.inspect(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func fingerprints(found []finding.Finding, host string) []string {
	out := make([]string, 0, len(found))
	for _, f := range found {
		out = append(out, fingerprint(f, host))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// inspect looks for all problems, if no other process does.
func (s *Service) inspect(ctx context.Context) {
	mine, err := bounded(ctx, func(ctx context.Context) (bool, error) {
		return s.conf.Store.TakeAlertTurn(ctx, s.process, s.interval*5/2)
	})
	s.recorded(ctx, err)
	if s.log.result("take turns in looking for problems", err); err != nil || !mine {
		return
	}
	s.observeWith(ctx, s.watch.Inspect)
}

// observeWith looks for problems and records them.
func (s *Service) observeWith(ctx context.Context, watch func(context.Context) (View, bool)) {
	if watch == nil {
		return
	}
	looking, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	v, ok := watch(looking)
	if !ok {
		v.Looked = nil
	}
	if s.observe(ctx, v) && len(v.Findings) > 0 {
		s.wake()
	}
}

func (s *Service) observe(ctx context.Context, v View) bool {
	_, err := bounded(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, Observe(ctx, s.conf.Store, v) })
	s.recorded(ctx, err)
	s.log.result("record problems for alerts", err)
	return err == nil
}

// recorded notes whether something could be recorded. That the database does not respond is known to watch.Lost.
func (s *Service) recorded(ctx context.Context, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.unrecorded = time.Time{}
	case ctx.Err() == nil && s.unrecorded.IsZero() && !store.IsUnavailable(err):
		s.unrecorded, s.reason = time.Now(), unrecorded(err)
	}
}

// lost returns since when the database is unavailable, or takes no records, and why.
func (s *Service) lost() (time.Time, string) {
	if since, reason := s.watch.Lost(); !since.IsZero() {
		return since, reason
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unrecorded, s.reason
}

func (s *Service) wake() {
	for _, w := range s.wakes {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// notify tells a receiver what it has to be told, when something was found and every interval.
func (s *Service) notify(ctx context.Context, r Receiver, wake <-chan struct{}) {
	timer := time.NewTimer(s.interval)
	defer timer.Stop()
	for {
		next := s.interval
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-wake:
			next = min(next, s.conf.Wait) // what is new may be told then
		}
		err := s.conf.deliver(ctx, r, s.conf.Wait)
		s.log.result("read and record what receivers of alerts are told", err)
		timer.Reset(max(next, 100*time.Millisecond))
	}
}

// watchDatabase tells when the database is unavailable for long, and when it is back.
func (s *Service) watchDatabase(ctx context.Context) {
	if s.conf.LostDatabase == nil {
		return
	}
	tick := time.NewTicker(s.interval)
	defer tick.Stop()
	back := time.Now()
	for {
		since, reason := s.lost()
		switch {
		case since.IsZero() && time.Since(back) >= s.conf.Quiet:
			_ = s.conf.databaseBack(ctx) // tried again
		case since.IsZero():
		case time.Since(since) >= min(lostWait, max(s.conf.Wait, s.interval)):
			_ = s.conf.tellLost(ctx, since, reason)
		}
		if !since.IsZero() {
			back = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
