package dashboard

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"imagetasks/pkg/store"
)

// The bounds of Series.
const (
	MaxHours = 7 * 24
	maxSteps = 1500
	// seriesAge is how long a series is kept: a minute is recorded a few seconds after it has ended.
	seriesAge = 10 * time.Second
)

// seriesSteps are the steps of series.
var seriesSteps = [...]time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute}

// seriesCache is one series, which one caller reads for all.
type seriesCache struct {
	mu   sync.Mutex
	at   time.Time
	json []byte
	err  error // of the last read
}

// Series returns the Series of the last hours as JSON. hours must be from 1 to MaxHours.
func (r *Reader) Series(ctx context.Context, hours int) ([]byte, error) {
	r.mu.Lock()
	c := r.series[hours]
	if c == nil {
		c = &seriesCache{}
		r.series[hours] = c
	}
	r.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) < seriesAge {
		return c.json, c.err
	}
	// The others that wait for it are not to fail because the first one has left.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), liveTimeout)
	defer cancel()
	window := time.Duration(hours) * time.Hour
	step := stepFor(window)
	var figures []store.Figures
	if figures, c.err = r.conf.Store.Figures(ctx, window, step); c.err == nil {
		c.json, c.err = json.Marshal(newSeries(figures, step))
	}
	c.at = time.Now()
	return c.json, c.err
}

func stepFor(window time.Duration) time.Duration {
	for _, step := range seriesSteps {
		if window/step <= maxSteps {
			return step
		}
	}
	return seriesSteps[len(seriesSteps)-1]
}

// newSeries returns figures as columns, with each step from the first to the last.
func newSeries(figures []store.Figures, step time.Duration) Series {
	s := Series{StepSeconds: int(step.Seconds()), Minutes: []int64{}, Arrived: []*int64{}, Completed: []*int64{}, Failed: []*int64{}, Cancelled: []*int64{},
		Charged: []*int64{}, Refunded: []*int64{}, P50: []*float64{}, P95: []*float64{}, Depth: []*int64{}, Processing: []*int64{}, Oldest: []*float64{}}
	if len(figures) == 0 {
		return s
	}
	at := figures[0].At
	for _, f := range figures {
		for at.Before(f.At) {
			s.add(at, nil)
			at = at.Add(step)
		}
		s.add(f.At, &f)
		at = f.At.Add(step)
	}
	return s
}

// add adds a step; nil: nothing is known of it.
func (s *Series) add(at time.Time, f *store.Figures) {
	s.Minutes = append(s.Minutes, at.Unix())
	known := func(n int64) *int64 { return &n }
	if f == nil {
		f = &store.Figures{}
		known = func(int64) *int64 { return nil }
	}
	s.Arrived = append(s.Arrived, known(f.Arrived))
	s.Completed = append(s.Completed, known(f.Completed))
	s.Failed = append(s.Failed, known(f.Failed))
	s.Cancelled = append(s.Cancelled, known(f.Cancelled))
	s.Charged = append(s.Charged, known(f.Charged))
	s.Refunded = append(s.Refunded, known(f.Refunded))
	s.P50 = append(s.P50, seconds(f.P50))
	s.P95 = append(s.P95, seconds(f.P95))
	s.Depth = append(s.Depth, f.Due)
	s.Processing = append(s.Processing, f.Processing)
	s.Oldest = append(s.Oldest, seconds(f.OldestDue))
}

func seconds(d *time.Duration) *float64 {
	if d == nil {
		return nil
	}
	n := d.Seconds()
	return &n
}
