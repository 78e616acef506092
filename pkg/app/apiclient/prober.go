package apiclient

import (
	"context"
	"sync"
	"time"

	"imagetasks/pkg/monitor"
	"imagetasks/pkg/settings"
)

// Prober checks the endpoints. If the settings of the API are invalid, the check returns the reason: the rest of a program must not
// depend on them. It is safe for concurrent use.
type Prober struct {
	mu  sync.Mutex
	set Set
	err error
}

// NewProber returns a Prober for the settings.
func NewProber(s settings.Settings) *Prober {
	p := &Prober{}
	p.set, p.err = New(s)
	return p
}

// Check asks the endpoints for pictures, each free of charge, as imageapi.Client.Check.
func (p *Prober) Check(ctx context.Context) []monitor.EndpointResult {
	p.mu.Lock()
	set, err := p.set, p.err
	p.mu.Unlock()
	if err != nil {
		return []monitor.EndpointResult{{Err: err}}
	}
	results := make([]monitor.EndpointResult, len(set))
	var running sync.WaitGroup
	for i, e := range set {
		running.Go(func() {
			began := time.Now()
			err := e.Client.Check(ctx, "")
			results[i] = monitor.EndpointResult{Name: e.Name, Err: err, Took: time.Since(began)}
		})
	}
	running.Wait()
	return results
}

// Set makes later checks use these settings. It changes nothing if they are invalid.
func (p *Prober) Set(s settings.Settings) error {
	set, err := New(s)
	if err != nil {
		return err
	}
	p.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set, p.err = set, nil
	return nil
}

// Close closes the connections that carry no request.
func (p *Prober) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set.CloseIdleConnections()
}
