// Package webhook delivers completion events: it reads them from the database, where the transaction that closed a task wrote them, and sends each one
// to its receiver, as the Standard Webhooks specification describes, until the receiver has accepted it or a day has passed. Any number of
// processors may do so at a time. A receiver that does not respond delays neither a task nor the events of others.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
)

// Store is what this package needs of the store.
type Store interface {
	ClaimEvents(ctx context.Context, c store.EventClaim) ([]store.Event, error)
	RecordEvents(ctx context.Context, retryFor time.Duration, outcomes ...store.EventOutcome) error
	NotifyEvents(ctx context.Context, limit int, call uuid.UUID) (int, error)
}

// Config configures a Service. Zero values mean the documented defaults.
type Config struct {
	Store     Store             // Test needs none
	Transport http.RoundTripper // it must follow no redirect

	URL          string    // of every event; empty: only tasks with a URL of their own have a receiver
	Secrets      []Secret  // an event is signed with each; none: it is not signed
	Template     *Template // for URL; nil: Message
	Hosts        Hosts     // where tasks may have their own URLs
	AllowPrivate bool      // receivers may be on this host and in private networks
	UserAgent    string

	Workers  int           // deliveries at a time; 32
	PerHost  int           // of one host; 4
	Interval time.Duration // between two looks for events; 1s
	Timeout  time.Duration // of one attempt; 15s
	// Retries last for RetryFor after the first attempt, first after FirstRetry, then after twice the time, up to LongestRetry: 24h, 5s, 1h.
	RetryFor, FirstRetry, LongestRetry time.Duration
	StopGrace                          time.Duration // for deliveries in flight at a stop; 5s

	Redact  func(string) string // for reasons; nil: none
	Log     logrus.FieldLogger  // nil: no log
	Observe func(Delivery)      // called after each attempt was recorded, from one goroutine; optional
}

// Delivery is one attempt.
type Delivery struct {
	Outcome store.EventOutcome
	Took    time.Duration
}

func (c *Config) setDefaults() error {
	if c.Transport == nil {
		return errors.New("webhook: Config.Transport is missing")
	}
	setDefault(&c.Workers, 32)
	setDefault(&c.PerHost, 4)
	setDefault(&c.Interval, time.Second)
	setDefault(&c.Timeout, 15*time.Second)
	setDefault(&c.RetryFor, 24*time.Hour)
	setDefault(&c.FirstRetry, 5*time.Second)
	setDefault(&c.LongestRetry, time.Hour)
	setDefault(&c.StopGrace, 5*time.Second)
	if c.Redact == nil {
		c.Redact = func(s string) string { return s }
	}
	if c.Log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		c.Log = discard
	}
	if c.Observe == nil {
		c.Observe = func(Delivery) {}
	}
	return nil
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// The bounds of calls of the database.
const (
	claimTimeout  = 5 * time.Second
	recordTimeout = 10 * time.Second
	notifyBatch   = 500
)

// lastClaim bounds the claim at a stop.
const lastClaim = 2 * time.Second

// claimGap is the least time between two claims while events keep coming.
const claimGap = 20 * time.Millisecond

// Service delivers events. It is made by New and runs once.
type Service struct {
	conf    Config
	url     *url.URL // of conf.URL; nil: none
	wakeups chan struct{}
	busy    atomic.Int64
	reports reporter

	// Of the loop alone.
	receivers  map[string]*receiver // by host
	results    chan Delivery
	unrecorded []Delivery
	inFlight   int
	report     Report
}

// Report is what a Service has done.
type Report struct {
	Delivered   int `json:"delivered"`
	Failed      int `json:"failed"`      // attempts
	Undelivered int `json:"undelivered"` // events that were given up
	Notified    int `json:"notified"`    // tasks whose id was sent with NOTIFY
}

// New returns a service, or an error if a field of conf is missing or its URL can't be used.
func New(conf Config) (*Service, error) {
	if err := conf.setDefaults(); err != nil {
		return nil, err
	}
	s := &Service{conf: conf, wakeups: make(chan struct{}, 1), reports: reporter{log: conf.Log}, receivers: map[string]*receiver{},
		results: make(chan Delivery, conf.Workers)}
	var err error
	s.url, err = conf.receiver()
	return s, err
}

// Check returns an error if URL can't be used.
func (c *Config) Check() error {
	_, err := c.receiver()
	return err
}

// receiver parses URL. It returns nil if there is none.
func (c *Config) receiver() (*url.URL, error) {
	if c.URL == "" {
		return nil, nil
	}
	u, err := parseURL(c.URL)
	if err != nil {
		return nil, err
	}
	return u, c.checkHost(u)
}

// Wake makes Run look for events soon. It never blocks, and is safe for concurrent use.
func (s *Service) Wake() {
	select {
	case s.wakeups <- struct{}{}:
	default:
	}
}

// Busy returns how many deliveries are in flight or still to be recorded. It is safe for concurrent use.
func (s *Service) Busy() int { return int(s.busy.Load()) }

// Run delivers events until ctx ends. Then deliveries in flight have Config.StopGrace to end.
func (s *Service) Run(ctx context.Context) { s.loop(ctx, false) }

// PassTimeout bounds a pass.
const PassTimeout = 20 * time.Second

// Pass delivers the events that are due, once, within PassTimeout.
func Pass(ctx context.Context, conf Config) (Report, error) {
	s, err := New(conf)
	if err != nil {
		return Report{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, PassTimeout-s.conf.StopGrace)
	defer cancel()
	err = s.loop(ctx, true)
	return s.report, err
}

// loop claims events, starts their deliveries and records the outcomes, until ctx ends or, with once, until nothing is due.
func (s *Service) loop(ctx context.Context, once bool) error {
	// The end of ctx cuts nothing that was begun.
	kept := context.WithoutCancel(ctx)
	sending, cut := context.WithCancel(kept)
	defer cut()
	var running sync.WaitGroup
	defer running.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var failed error // of the last call of the database
	fails := 0
	for ctx.Err() == nil {
		wait := s.conf.Interval
		more, err := s.step(kept, claimTimeout, sending, &running)
		switch {
		case err != nil:
			fails++
			wait = min(s.conf.Interval<<min(fails, 5), 30*time.Second)
		case more:
			fails, wait = 0, claimGap
		default:
			fails = 0
		}
		failed = err
		if once && (err != nil || !more && s.inFlight == 0 && len(s.unrecorded) == 0) {
			break
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case d := <-s.results:
			s.ended(d)
		case <-s.wakeups:
			pause(ctx, claimGap) // several tasks may end at about the same time
		}
	}
	stop := time.AfterFunc(s.conf.StopGrace, cut)
	defer stop.Stop()
	if !once && failed == nil {
		// The events of tasks that ended last leave at once, not when a processor runs again.
		_, failed = s.step(kept, lastClaim, sending, &running)
	}
	for s.inFlight > 0 {
		s.ended(<-s.results)
	}
	if err := s.record(kept); err != nil {
		failed = errors.Join(failed, err)
	}
	return failed
}

// step records what has ended, and claims as much as can be sent at once. more: another step may find more. The end of the loop cuts no call of the
// database, because what it has leased would wait for the end of the lease.
func (s *Service) step(ctx context.Context, limit time.Duration, sending context.Context, running *sync.WaitGroup) (more bool, err error) {
	s.collect()
	if err := s.record(ctx); err != nil {
		return false, err
	}
	notified, err := s.notify(ctx, limit)
	if err != nil {
		return false, err
	}
	free := s.conf.Workers - s.inFlight
	if free <= 0 {
		return notified, nil
	}
	events, err := s.claim(ctx, limit, free)
	if err != nil {
		return false, err
	}
	for _, e := range events {
		s.receiver(e.Host).inFlight++
		s.inFlight++
		s.busy.Add(1)
		running.Go(func() {
			began := time.Now()
			outcome := s.attempt(sending, e)
			s.results <- Delivery{outcome, time.Since(began)}
		})
	}
	return notified || len(events) > 0, nil
}

// claim leases up to n events of receivers that may be asked now.
func (s *Service) claim(ctx context.Context, limit time.Duration, n int) ([]store.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	events, err := s.conf.Store.ClaimEvents(ctx, store.EventClaim{CallID: uuid.New(), Limit: n, PerHost: s.conf.PerHost, Hosts: s.limits(time.Now()),
		Lease: 2*s.conf.Timeout + s.conf.StopGrace + recordTimeout})
	if s.reports.result("look for completion events", err); err != nil {
		return nil, err
	}
	return events, nil
}

// notify sends the ids of closed tasks with NOTIFY. It reports whether there may be more.
func (s *Service) notify(ctx context.Context, limit time.Duration) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	n, err := s.conf.Store.NotifyEvents(ctx, notifyBatch, uuid.New())
	s.report.Notified += n
	s.reports.result("send the ids of closed tasks with NOTIFY", err)
	return n == notifyBatch, err
}

// collect takes the deliveries that have ended.
func (s *Service) collect() {
	for {
		select {
		case d := <-s.results:
			s.ended(d)
		default:
			return
		}
	}
}

// ended notes the outcome of a delivery.
func (s *Service) ended(d Delivery) {
	s.inFlight--
	s.unrecorded = append(s.unrecorded, d)
	e := d.Outcome.Event
	r := s.receiver(e.Host)
	r.inFlight--
	log := s.conf.Log.WithFields(logrus.Fields{"event": e.ID, "task": e.TaskID, "receiver": receiverName(e)})
	switch d.Outcome.Result {
	case store.ResultDelivered:
		s.report.Delivered++
		if r.worked() {
			log.Info("the receiver of completion events works again")
		}
		log.Debug("completion event delivered")
	case store.ResultRetry:
		s.report.Failed++
		if r.failed(time.Now(), d.Outcome, s.conf.FirstRetry) {
			log.Warnf("the receiver of completion events fails: %s; they are tried again for %s", d.Outcome.Reason, s.conf.RetryFor)
		}
	case store.ResultUndelivered:
		s.report.Failed++
		s.report.Undelivered++
		log.Warnf("completion event not delivered: %s", d.Outcome.Reason)
	}
	if r.idle() {
		delete(s.receivers, e.Host)
	}
}

// record records the outcomes that have been collected. What could not be recorded is kept, and tried again: meanwhile its lease may end.
func (s *Service) record(ctx context.Context) error {
	if len(s.unrecorded) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	outcomes := make([]store.EventOutcome, len(s.unrecorded))
	for i, d := range s.unrecorded {
		outcomes[i] = d.Outcome
	}
	err := s.conf.Store.RecordEvents(ctx, s.conf.RetryFor, outcomes...)
	if s.reports.result("record what became of completion events", err); err != nil {
		return err
	}
	for _, d := range s.unrecorded {
		s.busy.Add(-1)
		s.conf.Observe(d)
	}
	s.unrecorded = nil
	return nil
}

// receiverName returns a name of the receiver of an event for people.
func receiverName(e store.Event) string {
	if e.Receiver == store.ReceiverWebhook {
		return "COMPLETION_WEBHOOK_URL"
	}
	return e.Host
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// Test sends an event of the type webhook.test to Config.URL, and returns the status of the response. A status that is no success is an error.
func Test(ctx context.Context, conf Config) (id string, status int, err error) {
	s, err := New(conf)
	if err != nil {
		return "", 0, err
	}
	if s.url == nil {
		return "", 0, errors.New("COMPLETION_WEBHOOK_URL is not set")
	}
	id = "evt_" + uuidHex()
	o := s.send(ctx, s.url, id, testMessage(time.Now()), true)
	if o.Result != store.ResultDelivered {
		return id, o.Status, fmt.Errorf("the test event was not delivered: %s", o.Reason)
	}
	return id, o.Status, nil
}
