package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/store"
)

// pictureAPI is an images API that answers every request with the same picture. It sends it from one buffer, so that it takes little memory
// and CPU time, whatever number of requests are in flight.
type pictureAPI struct {
	server   *http.Server
	address  string
	done     chan struct{}
	inFlight atomic.Int64
	body     atomic.Pointer[[]byte]
	release  atomic.Pointer[chan struct{}] // answers wait until it is closed
}

func startPictureAPI(authority *simapi.Authority) (*pictureAPI, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a := &pictureAPI{address: listener.Addr().String(), done: make(chan struct{})}
	a.open()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"gpt-image-2","object":"model"}]}`)
	})
	mux.HandleFunc("POST /v1/images/generations", a.generate)
	a.server = &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{authority.Certificate}}}
	go func() {
		defer close(a.done)
		_ = a.server.ServeTLS(listener, "", "")
	}()
	return a, nil
}

func (a *pictureAPI) generate(w http.ResponseWriter, r *http.Request) {
	var request struct{ Prompt string }
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil || request.Prompt == "" {
		w.WriteHeader(http.StatusBadRequest) // the check of a processor before it has more than a few requests in flight
		_, _ = io.WriteString(w, `{"error":{"message":"Missing required parameter: 'prompt'.","type":"invalid_request_error","param":"prompt","code":"missing_required_parameter"}}`)
		return
	}
	a.inFlight.Add(1)
	defer a.inFlight.Add(-1)
	select {
	case <-*a.release.Load():
	case <-r.Context().Done():
		return
	}
	_, _ = w.Write(*a.body.Load())
}

// serve sets the answer of the requests that come from now on, whose base64 text is given.
func (a *pictureAPI) serve(base64 []byte) {
	body := []byte(`{"created":1700000000,"data":[{"b64_json":"` + string(base64) + `"}]}`)
	a.body.Store(&body)
}

// open lets requests be answered at once; block makes answers wait until the returned function is called.
func (a *pictureAPI) open() {
	opened := make(chan struct{})
	close(opened)
	a.release.Store(&opened)
}

func (a *pictureAPI) block() (release func()) {
	blocked := make(chan struct{})
	a.release.Store(&blocked)
	return func() { close(blocked) }
}

func (a *pictureAPI) close() error {
	err := a.server.Close()
	<-a.done
	return err
}

// host is a machine as an operator has it: a directory with settings, a database, an API behind a proxy, and the programs.
type host struct {
	dir      string
	programs string
	database string
	store    *store.Store
	api      *pictureAPI
	proxy    *simproxy.Proxy
	env      []string // as cron gives it, besides what stands in .env
}

func newHost(ctx context.Context, s *server, programs string) (_ *host, err error) {
	h := &host{programs: programs}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	if h.dir, err = os.MkdirTemp("", "imagetasks-bench-"); err != nil {
		return nil, err
	}
	authority, err := simapi.NewAuthority()
	if err != nil {
		return nil, err
	}
	if h.api, err = startPictureAPI(authority); err != nil {
		return nil, err
	}
	if h.proxy, err = simproxy.Start(simproxy.Config{User: "operator", Password: "bench"}); err != nil {
		return nil, err
	}
	if h.database, err = newOurs(ctx, s, 0, 1); err != nil {
		return nil, err
	}
	if h.store, err = store.Open(store.Config{URL: s.URL(h.database)}); err != nil {
		return nil, err
	}
	trusted := filepath.Join(h.dir, "ca.pem")
	if err := os.WriteFile(trusted, authority.PEM, 0o600); err != nil {
		return nil, err
	}
	proxyURL, err := url.Parse(h.proxy.URL())
	if err != nil {
		return nil, err
	}
	settings := fmt.Sprintf("DATABASE_URL='%s'\nOPENAI_API_KEY=bench\nOPENAI_BASE_URL=https://%s/v1\nOPENAI_PROXY='%s'\nLOG_LEVEL=info\n",
		s.URL(h.database), h.api.address, proxyURL)
	if err := os.WriteFile(filepath.Join(h.dir, ".env"), []byte(settings), 0o600); err != nil {
		return nil, err
	}
	h.env = []string{"HOME=" + h.dir, "LOGNAME=bench", "SHELL=/bin/sh", "PATH=/usr/bin:/bin", "SSL_CERT_FILE=" + trusted}
	return h, nil
}

func (h *host) close() error {
	var errs []error
	if h.store != nil {
		errs = append(errs, h.store.Close())
	}
	if h.proxy != nil {
		errs = append(errs, h.proxy.Close())
	}
	if h.api != nil {
		errs = append(errs, h.api.close())
	}
	return errors.Join(append(errs, os.RemoveAll(h.dir))...)
}

// command prepares a program of ours.
func (h *host) command(ctx context.Context, name string, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(h.programs, name), arguments...)
	cmd.Dir, cmd.Env = h.dir, h.env
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// enqueue enqueues n tasks with their charge.
func (h *host) enqueue(ctx context.Context, n int) error { return enqueueTasks(ctx, h.store, n, 1) }

// usage is what a process took from its start to its end.
type usage struct {
	Wall time.Duration `json:"wall_ns"`
	CPU  time.Duration `json:"cpu_ns"` // user and system
	Peak int64         `json:"peak_bytes"`
}

// measure runs a command to its end. Its error has the end of the output.
func measure(cmd *exec.Cmd) (u usage, err error) {
	var out tail
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	cmd.Stderr = &out
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return u, err
	}
	watched := make(chan int64)
	ended := make(chan struct{})
	go func() { watched <- watchPeak(cmd.Process.Pid, ended) }()
	err = cmd.Wait()
	u.Wall = time.Since(began)
	close(ended)
	u.Peak = <-watched
	u.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, out.String())
	}
	return u, err
}

// watchPeak returns the largest resident memory of a process. Its rusage can't be used: it begins with the memory of the process that started it.
func watchPeak(pid int, ended <-chan struct{}) (peak int64) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if now, err := highWater(strconv.Itoa(pid)); err == nil {
			peak = max(peak, now)
		}
		select {
		case <-ended:
			return peak
		case <-tick.C:
		}
	}
}

var highWaterLine = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// highWater returns the peak resident memory of a process in bytes (proc(5)).
func highWater(pid string) (int64, error) {
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0, err
	}
	found := highWaterLine.FindSubmatch(status)
	if found == nil {
		return 0, fmt.Errorf("no VmHWM of process %s", pid)
	}
	kib, err := strconv.ParseInt(string(found[1]), 10, 64)
	return kib * 1024, err
}

// tail keeps the last kilobytes of an output.
type tail struct{ text []byte }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-4000):]
	return len(p), nil
}

func (t *tail) String() string { return string(t.text) }
