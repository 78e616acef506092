// Package status serves how a processor stands: /healthz, /readyz, /status.json, /metrics in
// Prometheus's text format (https://prometheus.io/docs/instrumenting/exposition_formats/) and a page
// for people at /. It says nothing that is secret and changes nothing.
package status

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
)

//go:embed page.html
var pages embed.FS

// Source is where the server looks.
type Source struct {
	Version   string
	Processor func() processor.Status
	Queue     func(ctx context.Context) (store.QueueStats, error)
}

// Report is the document at /status.json.
type Report struct {
	Version   string            `json:"version"`
	Processor processor.Status  `json:"processor"`
	Queue     *store.QueueStats `json:"queue"` // null: the database doesn't answer
	OldestDue float64           `json:"oldest_due_seconds"`
	Ready     bool              `json:"ready"`
	Problems  []string          `json:"problems"`
}

// queueBound is how long the database gets to answer a request for the status.
const queueBound = 3 * time.Second

// askBound is how long a processor gets to answer Ask.
const askBound = 5 * time.Second

// report gathers how things stand.
func (s Source) report(ctx context.Context) Report {
	r := Report{Version: s.Version, Processor: s.Processor(), Problems: []string{}}
	ctx, cancel := context.WithTimeout(ctx, queueBound)
	defer cancel()
	if q, err := s.Queue(ctx); err == nil {
		r.Queue, r.OldestDue = &q, q.OldestDue.Seconds()
		if q.Stuck > 0 {
			r.Problems = append(r.Problems, fmt.Sprintf("%d tasks are stuck; run: fix-stuck-tasks", q.Stuck))
		}
	} else {
		r.Problems = append(r.Problems, "the database does not answer")
	}
	if !r.Processor.APIUnreachableSince.IsZero() {
		r.Problems = append(r.Problems, "the way to the API is shut: "+r.Processor.APIError)
	}
	r.Ready = r.Queue != nil && r.Processor.APIUnreachableSince.IsZero()
	return r
}

// Fetch returns what the processor on a status address says of itself, nil where none answers.
func Fetch(ctx context.Context, addr string) *Report {
	ctx, cancel := context.WithTimeout(ctx, askBound)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/status.json", nil)
	if err != nil {
		return nil
	}
	// A transport without proxies: the address is this machine's.
	transport := &http.Transport{DisableKeepAlives: true}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return nil
	}
	defer answer.Body.Close()
	var report Report
	if err := json.NewDecoder(io.LimitReader(answer.Body, 1<<20)).Decode(&report); err != nil || report.Version == "" {
		return nil
	}
	return &report
}

// SilentFor returns how long ago the processor of that pid gave a sign of life; false: this report is not its own.
func (r *Report) SilentFor(pid int) (time.Duration, bool) {
	if r == nil || r.Processor.PID != pid {
		return 0, false
	}
	return time.Duration(r.Processor.SilentSeconds * float64(time.Second)), true
}

// Handler returns the pages.
func Handler(s Source) (http.Handler, error) {
	page, err := template.ParseFS(pages, "page.html")
	if err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(collector{s}); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		report := s.report(r.Context())
		if !report.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		for _, p := range report.Problems {
			_, _ = fmt.Fprintln(w, p)
		}
		if report.Ready {
			_, _ = fmt.Fprintln(w, "ready")
		}
	})
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.report(r.Context()))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		_ = page.Execute(w, s.report(r.Context()))
	})
	return mux, nil
}

// Server is a status server on its address.
type Server struct {
	http     *http.Server
	listener net.Listener
	done     chan error
}

// Start serves a processor's pages on addr; see Serve. An address in use is an error that names the setting.
func Start(addr string, s Source, hosts []string) (*Server, error) {
	handler, err := Handler(s)
	if err != nil {
		return nil, fmt.Errorf("status address: %w", err)
	}
	server, err := Serve(addr, handler, hosts)
	if err != nil {
		return nil, fmt.Errorf("%w (is another processor running? set STATUS_ADDR to another address, or off)", err)
	}
	return server, nil
}

// Serve serves pages on addr. It refuses requests whose Host header is neither loopback, nor addr, nor one of hosts (names
// with or without a port), nor the address of the connection itself.
func Serve(addr string, handler http.Handler, hosts []string) (*Server, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("status address: %w", err)
	}
	server := &Server{listener: listener, done: make(chan error, 1), http: &http.Server{
		Handler: checkHost(addr, hosts, handler), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}}
	go func() { server.done <- server.http.Serve(listener) }()
	return server, nil
}

// Addr returns the address it serves on.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close stops the server and waits until it has stopped.
func (s *Server) Close() error {
	err := s.http.Close()
	if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
