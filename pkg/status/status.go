// Package status serves the state of a processor: /healthz, /readyz, /status.json, /metrics in Prometheus's text format
// (https://prometheus.io/docs/instrumenting/exposition_formats/) and a page for people at /. It shows no secrets and changes
// nothing.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"imagetasks/pkg/dashboard"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/metrics"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// Source is where the server reads the state.
type Source struct {
	Version   string
	Processor func() overview.ProcessorReport
	Queue     func(ctx context.Context) (store.QueueStats, error)
	// Bridge returns the state of the bridge to an application's tables, nil: there is none. Optional.
	Bridge    func(ctx context.Context) (*overview.Bridge, error)
	Dashboard *dashboard.Reader // of the data of the page; optional
	// CommandLine formats the command to run next.
	CommandLine func(finding.Command) string
	Redact      func(string) string
	// Metrics are what /metrics shows besides the state; nil: those of the program alone.
	Metrics *metrics.Metrics
	// Operator does what signed-in people ask for. Optional.
	Operator Operator
	// Thumbnails makes small copies of pictures for those who have signed in; nil: none are shown.
	Thumbnails Thumbnails
	// BacklogAfter is how long a task may be due; 0: for any time.
	BacklogAfter time.Duration
}

// Report is the document at /status.json.
type Report struct {
	Version   string                   `json:"version"`
	Processor overview.ProcessorReport `json:"processor"`
	Queue     *store.QueueStats        `json:"queue"` // null: the database does not respond
	OldestDue float64                  `json:"oldest_due_seconds"`
	Bridge    *overview.Bridge         `json:"bridge"` // null: there is none, or it can't be read
	Ready     bool                     `json:"ready"`
	Problems  []finding.Document       `json:"problems"`
}

// queueTimeout bounds the query for the state of the queue.
const queueTimeout = 3 * time.Second

// fetchTimeout bounds Live.
const fetchTimeout = 5 * time.Second

// report collects the state.
func (s Source) report(ctx context.Context) Report {
	r := Report{Version: s.Version, Processor: s.Processor()}
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	self := overview.Processor{Processor: store.Processor{Worker: r.Processor.Worker}, Alive: true, Report: r.Processor}
	snapshot := overview.Snapshot{Now: time.Now(), Local: overview.LocalProcessor{Verdict: supervise.Running}, Processors: []overview.Processor{self},
		BacklogAfter: s.BacklogAfter}
	var problems []finding.Finding
	if q, err := s.Queue(ctx); err == nil {
		r.Queue, r.OldestDue, snapshot.Queue = &q, q.OldestDue.Seconds(), q
	} else {
		problems = append(problems, finding.Finding{Code: finding.DatabaseUnavailable, Reason: s.Redact(err.Error())})
	}
	if s.Bridge != nil && r.Queue != nil {
		if b, err := s.Bridge(ctx); err == nil {
			r.Bridge, snapshot.Bridge = b, b
		} else {
			problems = append(problems, finding.Finding{Code: finding.DatabaseUnavailable, Reason: s.Redact(err.Error())})
		}
	}
	problems = append(problems, overview.Assess(snapshot)...)
	r.Problems = finding.Documents(problems, s.CommandLine)
	r.Ready = r.Queue != nil && r.Processor.APIUnreachableSince.IsZero() && r.Processor.PicturesFailingSince.IsZero() &&
		r.Processor.LeasesFailingSince.IsZero()
	return r
}

// Live returns a function that fetches the report of the processor on a status address; it returns nil if none responds. An address that is not
// loopback needs the token.
func Live(ctx context.Context, addr, token string) func() *overview.ProcessorReport {
	return func() *overview.ProcessorReport {
		if addr == "" {
			return nil
		}
		return fetch(ctx, addr, token)
	}
}

func fetch(ctx context.Context, addr, token string) *overview.ProcessorReport {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/status.json", nil)
	if err != nil {
		return nil
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	// No proxy: the address is on this host.
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	var report Report
	if err := json.NewDecoder(io.LimitReader(response.Body, maxReport)).Decode(&report); err != nil || report.Version == "" {
		return nil
	}
	return &report.Processor
}

const (
	// requestTimeout bounds the time that a request may take to arrive, and its answer to be sent; streams of events have bounds of their own.
	requestTimeout = 30 * time.Second
	// maxConnections bounds the connections, so that strangers can't take the files and the memory of a program that works on tasks.
	maxConnections = 1000
	// readyAge is how long the answer to those who may only ask whether the program is ready is kept: each question is a query.
	readyAge = 2 * time.Second
)

// readiness is whether a program is ready, which one caller asks the database for all.
type readiness struct {
	mu    sync.Mutex
	at    time.Time
	ready bool
}

func (c *readiness) of(ctx context.Context, s Source) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() || time.Since(c.at) >= readyAge {
		// The others that wait for it are not to fail because the first one has left.
		c.ready = s.report(context.WithoutCancel(ctx)).Ready
		c.at = time.Now()
	}
	return c.ready
}

// maxReport bounds a report that is read from a status address, in bytes.
const maxReport = 1 << 20

func healthz(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) }

// Handler serves a processor's pages.
func Handler(s Source) http.Handler {
	if s.Metrics == nil {
		s.Metrics = metrics.New(metrics.Config{Version: s.Version})
	}
	mux := http.NewServeMux()
	AddPage(mux)
	mux.HandleFunc("GET /healthz", healthz)
	known := &readiness{}
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		var report Report
		if mayRead(r.Context()) {
			report = s.report(r.Context())
		} else { // anybody may ask whether it is ready
			report.Ready = known.of(r.Context(), s)
		}
		if !report.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		for _, p := range report.Problems {
			_, _ = fmt.Fprintln(w, p.Finding.Text(lang.EN))
		}
		if report.Ready {
			_, _ = fmt.Fprintln(w, "ready")
		}
	})
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.report(r.Context()))
	})
	mux.HandleFunc("GET /metrics", s.serveMetrics)
	if s.Dashboard != nil {
		AddAPI(mux, s.Dashboard)
	}
	if s.Operator != nil {
		AddActions(mux, s.Operator)
	}
	if s.Thumbnails != nil {
		AddThumbnails(mux, s.Thumbnails)
	}
	return mux
}

// Server is a status server on its address.
type Server struct {
	http     *http.Server
	listener net.Listener
	access   *Access
	acts     acts
	close    func() error
}

// Start serves a processor's pages on the address of access; see Serve. An address in use is an error that names the setting.
func Start(s Source, access *Access) (*Server, error) {
	server, err := Serve(Handler(s), access)
	if err != nil {
		return nil, fmt.Errorf("%w (is another processor running? set STATUS_ADDR to another address, or off)", err)
	}
	return server, nil
}

// Serve serves pages on the address of access, to whom it allows. It refuses requests whose Host header is neither loopback, nor that address, nor
// one of its hosts, nor the address of the connection itself.
func Serve(handler http.Handler, access *Access) (*Server, error) {
	return serve(handler, access, requestTimeout)
}

func serve(handler http.Handler, access *Access, timeout time.Duration) (*Server, error) {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", access.conf.Addr)
	if err != nil {
		return nil, fmt.Errorf("status address: %w", err)
	}
	server := &Server{listener: listener, access: access}
	server.http = &http.Server{Handler: access.Handler(server.acts.handler(handler)), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: timeout, WriteTimeout: timeout,
		IdleTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- server.http.Serve(netutil.LimitListener(listener, maxConnections)) }()
	server.close = sync.OnceValue(func() error {
		defer server.acts.close()
		err := server.http.Close()
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	})
	return server, nil
}

// Addr returns the address it serves on.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close stops the server and waits until it has stopped, and what it changes has ended. It may be called again.
func (s *Server) Close() error { return s.close() }
