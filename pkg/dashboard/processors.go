package dashboard

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"imagetasks/pkg/overview"
	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// rowList is the rows of the database as they were read last.
type rowList []store.Processor

// Processors implements overview.ProcessorLister.
func (l rowList) Processors(context.Context) ([]store.Processor, error) { return l, nil }

// knownRows returns rows that are so old.
func knownRows(rows []store.Processor, age time.Duration) rowList {
	aged := slices.Clone(rows)
	for i := range aged {
		aged[i].HeartbeatAge += age
	}
	return aged
}

// Own returns a Config.Processors for a page that a processor serves: it runs, and knows more of itself than the database does.
func Own(host string, hungAfter time.Duration, own func() overview.ProcessorReport) func(context.Context, overview.ProcessorLister) ([]overview.Processor, overview.LocalProcessor, error) {
	return func(ctx context.Context, known overview.ProcessorLister) ([]overview.Processor, overview.LocalProcessor, error) {
		report := own()
		local := overview.LocalProcessor{Verdict: supervise.Running, PID: report.PID, Wanted: true}
		rows, err := known.Processors(ctx)
		if err != nil {
			return nil, local, err
		}
		self := overview.Processor{Processor: store.Processor{Worker: report.Worker, Host: host, PID: report.PID, StartedAt: report.StartedAt, LastHeartbeat: report.LastHeartbeat},
			Alive: true, SilentSeconds: report.SilentSeconds, Report: report}
		all := []overview.Processor{self}
		for _, row := range rows {
			if row.Worker == report.Worker {
				all[0].Version = row.Version
				continue
			}
			p := overview.Processor{Processor: row, SilentSeconds: row.HeartbeatAge.Seconds(), Alive: row.Alive(hungAfter)}
			if row.Host == host {
				p.Alive = p.Alive && supervise.ProcessExists(row.PID)
			}
			if json.Unmarshal(row.Report, &p.Report) != nil {
				p.Report = overview.ProcessorReport{} // of another version, or changed by hand
			}
			all = append(all, p)
		}
		return all, local, nil
	}
}

// addCircuits adds the endpoints, models, proxies and picture stores that the running processors report. Of one that several report, the worst state
// counts.
func (d *Document) addCircuits(found []overview.Processor) {
	d.Endpoints, d.Models, d.Proxies, d.PictureStores = []Endpoint{}, []Model{}, []Proxy{}, []PictureStore{}
	for _, p := range found {
		if !p.Alive || p.Report.Worker == "" {
			continue
		}
		d.addEndpoints(p)
		d.addModels(p)
		d.addProxies(p)
		pictures := Circuit{State: StateClosed, Hosts: []string{p.Host}}
		for _, c := range p.Report.Circuits {
			if c.Scope == processor.CircuitPictureStore {
				pictures = newCircuit(c, p.Host)
			}
		}
		addTo(&d.PictureStores, PictureStore{Host: p.Host, Circuit: pictures}, func(s PictureStore) bool { return s.Host == p.Host }).merge(pictures)
	}
}

func (d *Document) addEndpoints(p overview.Processor) {
	r := p.Report
	for _, e := range r.Endpoints {
		circuit := Circuit{State: StateClosed, Hosts: []string{p.Host}}
		if !e.FailingSince.IsZero() {
			circuit = Circuit{State: StateOpen, Since: e.FailingSince, Code: e.ErrorCode, Reason: e.Error, Hint: hint(e.ErrorCode), Hosts: circuit.Hosts}
		}
		for _, c := range r.Circuits {
			if c.Scope == processor.CircuitEndpoint && c.State != processor.CircuitClosed && (c.Name == e.Name || len(r.Endpoints) == 1) {
				circuit = newCircuit(c, p.Host)
			}
		}
		of := Endpoint{Name: e.Name, Circuit: circuit, Concurrency: e.Concurrency, Rate: e.Rate, RateLimitedUntil: e.RateLimited}
		for _, a := range r.APIEndpoints {
			if a.Name == e.Name || len(r.APIEndpoints) == 1 {
				of.Address = a.Address
			}
		}
		known := addTo(&d.Endpoints, of, func(x Endpoint) bool { return x.Name == e.Name })
		known.merge(circuit)
		known.InFlight += e.InFlight
		if e.RateLimited.After(known.RateLimitedUntil) {
			known.RateLimitedUntil = e.RateLimited
		}
	}
}

func (d *Document) addModels(p overview.Processor) {
	r := p.Report
	for _, c := range r.Circuits {
		if c.Scope == processor.CircuitModel {
			d.addModel(c.Name, c.Endpoint, newCircuit(c, p.Host))
		}
	}
	for _, e := range r.APIEndpoints {
		name := e.Name
		if len(r.APIEndpoints) == 1 {
			name = ""
		}
		for _, m := range e.Models {
			refused := slices.ContainsFunc(r.Circuits, func(c processor.Circuit) bool {
				return c.Scope == processor.CircuitModel && c.Name == m && c.Endpoint == name
			})
			if !refused {
				d.addModel(m, name, Circuit{State: StateClosed, Hosts: []string{p.Host}})
			}
		}
	}
}

func (d *Document) addModel(name, endpoint string, c Circuit) {
	addTo(&d.Models, Model{Name: name, Endpoint: endpoint, Circuit: c}, func(x Model) bool { return x.Name == name && x.Endpoint == endpoint }).merge(c)
}

func (d *Document) addProxies(p overview.Processor) {
	routes := p.Report.Routes()
	for _, e := range routes {
		name := e.Name
		if len(routes) == 1 {
			name = ""
		}
		for _, u := range e.Upstreams {
			circuit := Circuit{State: StateClosed, Hosts: []string{p.Host}}
			if u.Ejected {
				circuit = Circuit{State: StateOpen, Since: u.Since, Code: u.Code, Reason: u.Reason, Hint: hint(u.Code), NextTrial: u.RetryAt, Hosts: circuit.Hosts}
			}
			known := addTo(&d.Proxies, Proxy{Address: u.Proxy, Endpoint: name, Circuit: circuit}, func(x Proxy) bool { return x.Address == u.Proxy && x.Endpoint == name })
			known.merge(circuit)
			known.Served += u.Served
		}
	}
}

// addTo returns the element of a list that is meant, and adds it where it is missing.
func addTo[T any](list *[]T, element T, isIt func(T) bool) *T {
	if i := slices.IndexFunc(*list, isIt); i >= 0 {
		return &(*list)[i]
	}
	*list = append(*list, element)
	return &(*list)[len(*list)-1]
}

func newCircuit(c processor.Circuit, host string) Circuit {
	return Circuit{State: State(c.State), Since: c.Since, Code: c.Code, Reason: c.Reason, Hint: hint(c.Code), NextTrial: c.NextTrial, Hosts: []string{host}}
}

// merge takes in what another processor reports of the same.
func (c *Circuit) merge(other Circuit) {
	rank := map[State]int{StateClosed: 0, StateHalfOpen: 1, StateOpen: 2}
	switch {
	case rank[other.State] > rank[c.State]:
		*c = other
	case other.State == c.State:
		for _, host := range other.Hosts {
			if !slices.Contains(c.Hosts, host) {
				c.Hosts = append(c.Hosts, host)
			}
		}
		if !other.Since.IsZero() && other.Since.Before(c.Since) {
			c.Since = other.Since
		}
	}
}

// markPaused marks the endpoints and models that are paused, and adds models that nothing else is known of.
func (d *Document) markPaused() {
	for _, p := range d.Paused {
		switch p.Scope {
		case string(store.ScopeEndpoint):
			for i := range d.Endpoints {
				d.Endpoints[i].Paused = d.Endpoints[i].Paused || d.Endpoints[i].Name == p.Name
			}
		case string(store.ScopeModel):
			if !slices.ContainsFunc(d.Models, func(m Model) bool { return m.Name == p.Name }) {
				d.Models = append(d.Models, Model{Name: p.Name, Circuit: Circuit{State: StateClosed, Hosts: []string{}}})
			}
			for i := range d.Models {
				d.Models[i].Paused = d.Models[i].Paused || d.Models[i].Name == p.Name
			}
		}
	}
}
