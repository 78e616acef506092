// Package realproxy runs the proxies that Debian ships for tests: tinyproxy, squid, privoxy and haproxy (http), microsocks and dante (socks5),
// and v2ray (both), which opens tunnels before it has connected, as Clash and sing-box do. Each listens on a free loopback port and is
// stopped at the end of the test.
package realproxy

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"imagetasks/internal/postgres"
)

// Config is the login that a proxy requires, and what it refuses.
type Config struct {
	User, Password string
	// Forbid makes the proxy refuse every target.
	Forbid bool
	// RefuseHosts are patterns of hosts for which tinyproxy returns 403.
	RefuseHosts []string
	// ConnectPorts are the ports that tinyproxy opens tunnels to; none: any.
	ConnectPorts []int
}

// Tinyproxy starts tinyproxy and returns its URL.
func Tinyproxy(tb testing.TB, conf Config) string {
	tb.Helper()
	return StartTinyproxy(tb, conf).URL
}

// Proxy is a proxy that can be killed and restarted.
type Proxy struct {
	URL string

	tb   testing.TB
	args []string
	addr string
	pid  int
	stop func()
}

// Hang stops the process without ending it: it accepts connections, which the kernel does, and never responds.
func (p *Proxy) Hang() {
	p.tb.Helper()
	if err := syscall.Kill(-p.pid, syscall.SIGSTOP); err != nil {
		p.tb.Fatal(err)
	}
	// A thread that is running may go on for a moment.
	for end := time.Now().Add(30 * time.Second); !stopped(p.pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			p.tb.Fatal("the proxy did not stop within 30 seconds")
		}
	}
}

// stopped reports whether all threads of a process group are stopped.
func stopped(group int) bool {
	threads, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*/stat")
	for _, path := range threads {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// After the name, which may hold anything: state, parent, process group.
		fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
		if len(fields) > 2 && fields[2] == strconv.Itoa(group) && fields[0] != "T" && fields[0] != "Z" {
			return false
		}
	}
	return true
}

// Kill kills the process, which resets its connections. It may be called again.
func (p *Proxy) Kill() {
	p.stop()
	p.stop = func() {}
}

// Restart starts it again on the same port.
func (p *Proxy) Restart() {
	p.tb.Helper()
	p.Kill()
	pid, stop, fault := try(p.tb, p.args, p.addr)
	if fault != "" {
		p.tb.Fatalf("the proxy did not restart: %s", fault)
	}
	p.pid, p.stop = pid, stop
}

// StartTinyproxy starts tinyproxy.
func StartTinyproxy(tb testing.TB, conf Config) *Proxy {
	tb.Helper()
	return start(tb, "http", conf, func(dir string, port int) []string {
		lines := []string{
			fmt.Sprintf("Port %d", port), "Listen 127.0.0.1", "Timeout 600", "MaxClients 200",
			"LogLevel Warning", fmt.Sprintf("PidFile %q", filepath.Join(dir, "pid")), "DisableViaHeader Yes",
		}
		if conf.User != "" {
			lines = append(lines, fmt.Sprintf("BasicAuth %s %s", conf.User, conf.Password))
		}
		if conf.Forbid {
			conf.RefuseHosts = []string{"."}
		}
		if len(conf.RefuseHosts) > 0 {
			filter := filepath.Join(dir, "filter")
			write(tb, filter, strings.Join(conf.RefuseHosts, "\n")+"\n")
			lines = append(lines, fmt.Sprintf("Filter %q", filter))
		}
		for _, p := range conf.ConnectPorts {
			lines = append(lines, fmt.Sprintf("ConnectPort %d", p))
		}
		path := filepath.Join(dir, "tinyproxy.conf")
		write(tb, path, strings.Join(lines, "\n")+"\n")
		return []string{"tinyproxy", "-d", "-c", path}
	})
}

// Microsocks starts microsocks and returns its URL, with the scheme socks5h.
func Microsocks(tb testing.TB, conf Config) string {
	tb.Helper()
	return StartMicrosocks(tb, conf).URL
}

// StartMicrosocks starts microsocks. It can't forbid a target.
func StartMicrosocks(tb testing.TB, conf Config) *Proxy {
	tb.Helper()
	return start(tb, "socks5h", conf, func(_ string, port int) []string {
		args := []string{"microsocks", "-i", "127.0.0.1", "-p", fmt.Sprint(port)}
		if conf.User != "" {
			args = append(args, "-u", conf.User, "-P", conf.Password)
		}
		return args
	})
}

func write(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil { // some proxies read it as another user
		tb.Fatal(err)
	}
}

// start runs a proxy. If its port was taken by another process in the meantime, it uses another.
func start(tb testing.TB, scheme string, conf Config, command func(dir string, port int) []string) *Proxy {
	tb.Helper()
	var last string
	for range 5 {
		port := freePort(tb)
		args := command(tb.TempDir(), port)
		addr := net.JoinHostPort("127.0.0.1", fmt.Sprint(port))
		pid, stop, fault := try(tb, args, addr)
		if last = fault; fault != "" {
			continue
		}
		u := url.URL{Scheme: scheme, Host: addr}
		if conf.User != "" {
			u.User = url.UserPassword(conf.User, conf.Password)
		}
		p := &Proxy{URL: u.String(), tb: tb, args: args, addr: addr, pid: pid, stop: stop}
		tb.Cleanup(p.Kill)
		return p
	}
	tb.Fatalf("the proxy did not start: %s", last)
	return nil
}

// packages are the Debian packages of programs with another name.
var packages = map[string]string{"danted": "dante-server"}

// try starts a program and waits until it listens. It returns its process group and a function that ends it, or what went wrong.
func try(tb testing.TB, args []string, addr string) (pid int, stop func(), fault string) {
	tb.Helper()
	program, err := exec.LookPath(args[0])
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/" + args[0]) // not on every user's PATH
	}
	if err != nil {
		name := args[0]
		if other, ok := packages[name]; ok {
			name = other
		}
		tb.Fatalf("%s is not installed; on Debian or Ubuntu: sudo apt-get install %s", args[0], name)
	}
	var out strings.Builder
	cmd := exec.Command(program, args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // some have child processes
	exited, err := postgres.StartChild(cmd, syscall.SIGKILL)
	if err != nil {
		tb.Fatal(err)
	}
	stop = func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); <-exited }
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		select {
		case <-exited:
			return 0, nil, out.String()
		default:
		}
		if conn, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			_ = conn.Close()
			return cmd.Process.Pid, stop, ""
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	return 0, nil, "no response on " + addr
}

func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
