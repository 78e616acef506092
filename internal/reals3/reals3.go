// Package reals3 runs an S3-compatible object store for tests: versitygw, over a directory. It comes through the Go module proxy; server/go.mod
// pins its version. It listens on a free loopback port and is stopped at the end of the test.
package reals3

import (
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"imagetasks/internal/postgres"
)

// The login of every server, and its bucket.
const (
	AccessKeyID     = "AKTEST51C3"
	SecretAccessKey = "s3secret-4f1b9d07e2"
	Bucket          = "pictures"
	Region          = "us-east-1"
)

// Server is an object store that can be stopped and started again.
type Server struct {
	Endpoint string

	tb   testing.TB
	dir  string // of the buckets
	args []string
	addr string
	pid  int
	stop func()
}

// Start starts a server with an empty bucket.
func Start(tb testing.TB) *Server {
	tb.Helper()
	program, err := build()
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	s := &Server{tb: tb, dir: filepath.Join(dir, "buckets"), stop: func() {}}
	meta := filepath.Join(dir, "meta") // the file system may have no extended attributes
	for _, path := range []string{filepath.Join(s.dir, Bucket), meta} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	tb.Cleanup(s.Kill)
	var fault string
	for range 5 { // another process may take the port in the meantime
		s.addr = freeAddress(tb)
		s.args = []string{program, "--port", s.addr, "--region", Region, "--quiet", "--keep-alive", "posix", "--sidecar", meta, s.dir}
		if fault = s.try(); fault == "" {
			s.Endpoint = "http://" + s.addr
			return s
		}
	}
	tb.Fatalf("the S3 server did not start: %s", fault)
	return nil
}

// build returns the path of the program, which Go keeps in its build cache.
var build = sync.OnceValues(func() (string, error) {
	_, here, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(here) {
		return "", fmt.Errorf("the tests must be built without -trimpath")
	}
	cmd := exec.Command("go", "tool", "-n", "versitygw")
	cmd.Dir = filepath.Join(filepath.Dir(here), "server")
	var messages bytes.Buffer
	cmd.Stderr = &messages
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("versitygw can't be built: %w\n%s", err, messages.String())
	}
	return strings.TrimSpace(string(out)), nil
})

// try starts the process and waits until it listens. It returns what went wrong.
func (s *Server) try() string {
	var out bytes.Buffer
	cmd := exec.Command(s.args[0], s.args[1:]...)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+AccessKeyID, "ROOT_SECRET_ACCESS_KEY="+SecretAccessKey)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	exited, err := postgres.StartChild(cmd, syscall.SIGKILL)
	if err != nil {
		s.tb.Fatal(err)
	}
	stop := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); <-exited }
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		select {
		case <-exited:
			return out.String()
		default:
		}
		if conn, err := net.DialTimeout("tcp", s.addr, time.Second); err == nil {
			_ = conn.Close()
			s.pid, s.stop = cmd.Process.Pid, stop
			return ""
		}
	}
	stop()
	return "no response on " + s.addr
}

// Kill ends the process, which resets its connections. It may be called again.
func (s *Server) Kill() {
	s.stop()
	s.stop = func() {}
}

// Restart starts it again on the same port.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Kill()
	if fault := s.try(); fault != "" {
		s.tb.Fatalf("the S3 server did not restart: %s", fault)
	}
}

// Hang stops the process without ending it: it accepts connections, which the kernel does, and never responds. Kill and Restart end that.
func (s *Server) Hang() {
	s.tb.Helper()
	if err := syscall.Kill(-s.pid, syscall.SIGSTOP); err != nil {
		s.tb.Fatal(err)
	}
}

// RemoveBucket removes the bucket and what is in it.
func (s *Server) RemoveBucket() {
	s.tb.Helper()
	if err := os.RemoveAll(filepath.Join(s.dir, Bucket)); err != nil {
		s.tb.Fatal(err)
	}
}

// Object returns the content of an object.
func (s *Server) Object(key string) []byte {
	s.tb.Helper()
	content, err := os.ReadFile(filepath.Join(s.dir, Bucket, filepath.FromSlash(key)))
	if err != nil {
		s.tb.Fatal(err)
	}
	return content
}

// Age makes an object older.
func (s *Server) Age(key string, age time.Duration) {
	s.tb.Helper()
	at := time.Now().Add(-age)
	if err := os.Chtimes(filepath.Join(s.dir, Bucket, filepath.FromSlash(key)), at, at); err != nil {
		s.tb.Fatal(err)
	}
}

// Keys returns the keys of the bucket that end with a text.
func (s *Server) Keys(suffix string) []string {
	s.tb.Helper()
	root := filepath.Join(s.dir, Bucket)
	keys := []string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		key, err := filepath.Rel(root, path)
		if strings.HasSuffix(key, suffix) && !strings.HasPrefix(key, ".") {
			keys = append(keys, filepath.ToSlash(key))
		}
		return err
	})
	if err != nil {
		s.tb.Fatal(err)
	}
	return keys
}

// Store returns IMAGE_STORE for the bucket.
func (s *Server) Store(prefix string) string {
	return fmt.Sprintf("s3://%s/%s?endpoint=%s&region=%s", Bucket, prefix, s.Endpoint, Region)
}

func freeAddress(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
