// Package overview gathers the state of an installation and decides what is wrong with it. Every place that reports
// problems (the status command, the monitor, the status page) uses Assess.
package overview

import (
	"context"
	"encoding/json"
	"time"

	"imagetasks/pkg/endpoint"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// ProcessorReport is the document that a processor stores with its heartbeats and shows on its status address: the state of
// its queue engine, and of the route to the API.
type ProcessorReport struct {
	processor.Status
	// Upstreams and APIRateLimits are those of the only endpoint. Of several, each is in APIEndpoints.
	Upstreams     []proxy.UpstreamState `json:"upstreams,omitempty"` // in order of preference
	APIRateLimits imageapi.RateLimits   `json:"api_rate_limits,omitzero"`
	APIEndpoints  []EndpointReport      `json:"api_endpoints,omitempty"`
	// EndpointsDigest identifies the names, addresses and models of the endpoints.
	EndpointsDigest string `json:"endpoints_digest,omitempty"`
	// LogDir is the directory (LOG_DIR) whose pid file it holds; empty: it runs beside another processor, or with --once.
	LogDir string  `json:"log_dir,omitempty"`
	Reload *Reload `json:"reload,omitempty"` // the last time that it read its settings again; null: never
	// PictureStore is the id of the picture store that it uses.
	PictureStore string `json:"picture_store,omitempty"`
}

// EndpointReport is how a processor uses an endpoint, and the routes to it. Limits and circuits are in the Status.
type EndpointReport struct {
	Name          string                `json:"name"`
	Address       string                `json:"address"` // without its query
	Mode          endpoint.Mode         `json:"mode"`
	Models        []string              `json:"models,omitempty"` // that tasks may name; none: every model
	Preference    int                   `json:"preference"`
	Weight        int                   `json:"weight"`
	Upstreams     []proxy.UpstreamState `json:"upstreams,omitempty"` // in order of preference
	APIRateLimits imageapi.RateLimits   `json:"api_rate_limits,omitzero"`
}

// Routes returns APIEndpoints, or one without a name where there are none.
func (r ProcessorReport) Routes() []EndpointReport {
	if len(r.APIEndpoints) > 0 {
		return r.APIEndpoints
	}
	return []EndpointReport{{Upstreams: r.Upstreams, APIRateLimits: r.APIRateLimits}}
}

// AllUpstreams returns the state of the proxies of all endpoints.
func (r ProcessorReport) AllUpstreams() []proxy.UpstreamState {
	var all []proxy.UpstreamState
	for _, e := range r.Routes() {
		all = append(all, e.Upstreams...)
	}
	return all
}

// Reload is the result of reading the settings again.
type Reload struct {
	At           time.Time `json:"at"`
	Changed      []string  `json:"changed,omitempty"`       // settings that are in use now, by name
	NeedsRestart []string  `json:"needs_restart,omitempty"` // settings that were changed and are not in use
	Error        string    `json:"error,omitempty"`         // nothing was changed
}

// Processor is a processor on any host, as the database knows it.
type Processor struct {
	store.Processor
	// Alive: its last heartbeat is recent, and on this host its process exists.
	Alive         bool            `json:"alive"`
	SilentSeconds float64         `json:"silent_seconds"`
	Report        ProcessorReport `json:"report"`
}

// Verdict is the state of this host's background processor.
type Verdict = supervise.Verdict

// LocalProcessor is this host's background processor.
type LocalProcessor struct {
	Verdict       Verdict             `json:"verdict"`
	PID           int                 `json:"pid,omitempty"`
	SilentSeconds float64             `json:"silent_seconds,omitempty"` // since its last heartbeat
	Wanted        bool                `json:"wanted"`                   // it was started, and not stopped by an operator since
	Stopped       *supervise.StopMark `json:"stopped,omitempty"`
}

// Silence returns SilentSeconds as a time.Duration.
func (l LocalProcessor) Silence() time.Duration {
	return time.Duration(l.SilentSeconds * float64(time.Second))
}

// ProcessorLister is what the processors are read from.
type ProcessorLister interface {
	Processors(ctx context.Context) ([]store.Processor, error)
}

// Inspector inspects the pid file and the markers of this host's processor.
type Inspector interface {
	Inspect(ctx context.Context) (supervise.State, error)
}

// Config says where processors are looked up and when one counts as hung.
type Config struct {
	Store     ProcessorLister
	Inspector Inspector
	Host      string // this host's name in the database
	HungAfter time.Duration
	// Live returns the report of the processor on this host's status address; nil, or a nil report: none responds.
	Live func() *ProcessorReport
}

// Processors returns the processors of every host, and the state of this host's background processor. It changes nothing.
//
// A processor is alive if its last heartbeat is no older than HungAfter. On this host more is known: the lock on the pid
// file decides whether the background processor runs, a process that does not exist is not alive whatever its last
// heartbeat, and a processor that can't reach the database, but responds on its status address, is not hung.
func Processors(ctx context.Context, c Config) ([]Processor, LocalProcessor, error) {
	state, err := c.Inspector.Inspect(ctx)
	if err != nil {
		return nil, LocalProcessor{}, err
	}
	local := LocalProcessor{PID: state.PID, Wanted: state.Wanted, Stopped: state.Stopped}
	rows, err := c.Store.Processors(ctx)
	if err != nil {
		return nil, local, err
	}
	var live *ProcessorReport
	if c.Live != nil {
		live = c.Live()
	}
	all := make([]Processor, 0, len(rows))
	// A process that took the lock and never sent a heartbeat is silent since it took the lock.
	silent := time.Since(state.Since)
	for _, row := range rows {
		p := Processor{Processor: row, SilentSeconds: row.HeartbeatAge.Seconds(), Alive: row.Alive(c.HungAfter)}
		if json.Unmarshal(row.Report, &p.Report) != nil {
			p.Report = ProcessorReport{} // of another version, or changed by hand: the others count all the same
		}
		if row.Host == c.Host {
			p.Alive = p.Alive && supervise.ProcessExists(row.PID)
			if live != nil && live.Worker == row.Worker {
				p.Report = *live // more recent than the last heartbeat
			}
			if row.PID == state.PID {
				silent = min(silent, row.HeartbeatAge)
			}
		}
		all = append(all, p)
	}
	if live != nil && live.PID == state.PID {
		silent = min(silent, time.Duration(live.SilentSeconds*float64(time.Second)))
	}
	local.Verdict = verdict(state, silent, c.HungAfter)
	if state.Running {
		local.SilentSeconds = silent.Seconds()
	}
	return all, local, nil
}

func verdict(state supervise.State, silent, hungAfter time.Duration) Verdict {
	switch {
	case state.Running && silent > hungAfter:
		return supervise.Hung
	case state.Running:
		return supervise.Running
	case state.Stopped != nil:
		return supervise.StoppedByOperator
	case state.Wanted:
		return supervise.Dead
	}
	return supervise.NeverStarted
}
