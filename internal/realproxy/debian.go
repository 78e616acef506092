package realproxy

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// StartSquid starts squid.
func StartSquid(tb testing.TB, conf Config) *Proxy {
	tb.Helper()
	return start(tb, "http", conf, func(dir string, port int) []string {
		lines := []string{
			fmt.Sprintf("http_port 127.0.0.1:%d", port), "pid_filename none", "access_log none", "cache_log /dev/null", "cache deny all",
			"cache_mem 1 MB", "coredump_dir " + dir, "pinger_enable off", "visible_hostname squid.test", "shutdown_lifetime 0 seconds",
		}
		allow := "http_access allow all"
		if conf.User != "" {
			helper := filepath.Join(dir, "login.sh")
			write(tb, helper, fmt.Sprintf("while read -r login; do if [ \"$login\" = '%s %s' ]; then echo OK; else echo ERR; fi; done\n",
				conf.User, conf.Password))
			lines = append(lines, "auth_param basic program /bin/sh "+helper, "auth_param basic children 1", "acl known proxy_auth REQUIRED")
			allow = "http_access allow known"
		}
		if conf.Forbid {
			allow = ""
		}
		lines = append(lines, allow, "http_access deny all")
		path := filepath.Join(dir, "squid.conf")
		write(tb, path, strings.Join(lines, "\n")+"\n")
		return []string{"squid", "-N", "-f", path}
	})
}

// StartPrivoxy starts privoxy, which has no logins.
func StartPrivoxy(tb testing.TB, conf Config) *Proxy {
	tb.Helper()
	return start(tb, "http", conf, func(dir string, port int) []string {
		lines := []string{
			fmt.Sprintf("listen-address 127.0.0.1:%d", port), "confdir " + dir, "templdir /etc/privoxy/templates", "logdir " + dir,
			"toggle 1", "enforce-blocks 1", "socket-timeout 600", "max-client-connections 200",
		}
		if conf.Forbid {
			actions := filepath.Join(dir, "forbid.action")
			write(tb, actions, "{+block{forbidden}}\n/\n")
			lines = append(lines, "actionsfile "+actions)
		}
		path := filepath.Join(dir, "privoxy.conf")
		write(tb, path, strings.Join(lines, "\n")+"\n")
		return []string{"privoxy", "--no-daemon", path}
	})
}

// StartHAProxy starts haproxy in front of another http proxy at backend, a URL. A login that it requires is refused, whatever it is.
func StartHAProxy(tb testing.TB, conf Config, backend string) *Proxy {
	tb.Helper()
	u, err := url.Parse(backend)
	if err != nil {
		tb.Fatal(err)
	}
	return start(tb, "http", conf, func(dir string, port int) []string {
		lines := []string{
			"defaults", "  mode http", "  timeout connect 2s", "  timeout client 600s", "  timeout server 600s",
			"frontend f", fmt.Sprintf("  bind 127.0.0.1:%d", port),
		}
		if conf.Forbid {
			lines = append(lines, "  http-request deny")
		}
		if conf.User != "" {
			lines = append(lines, "  http-request auth unless { http_auth(users) }")
		}
		lines = append(lines, "  default_backend b", "backend b", "  server s "+u.Host, "userlist users", "  user nobody insecure-password nothing")
		path := filepath.Join(dir, "haproxy.cfg")
		write(tb, path, strings.Join(lines, "\n")+"\n")
		return []string{"haproxy", "-db", "-f", path}
	})
}

// StartDante starts dante. Its logins are those of the system's users, so a login that it requires is refused, whatever it is.
func StartDante(tb testing.TB, conf Config) *Proxy {
	tb.Helper()
	return start(tb, "socks5h", conf, func(dir string, port int) []string {
		method, rule := "none", "pass"
		if conf.User != "" {
			method = "username"
		}
		if conf.Forbid {
			rule = "block"
		}
		path := filepath.Join(dir, "danted.conf")
		write(tb, path, strings.Join([]string{
			"logoutput: " + filepath.Join(dir, "log"), fmt.Sprintf("internal: 127.0.0.1 port = %d", port), "external: 127.0.0.1",
			"socksmethod: " + method, "clientmethod: none", "client pass { from: 0/0 to: 0/0 }", "socks " + rule + " { from: 0/0 to: 0/0 }",
		}, "\n")+"\n")
		return []string{"danted", "-f", path}
	})
}

// StartV2Ray starts v2ray with the scheme http or socks5h. It opens a tunnel before it has connected.
func StartV2Ray(tb testing.TB, scheme string, conf Config) *Proxy {
	tb.Helper()
	return start(tb, scheme, conf, func(dir string, port int) []string {
		login := map[string]string{"user": conf.User, "pass": conf.Password}
		settings := map[string]any{"timeout": 600}
		if conf.User != "" {
			settings["auth"], settings["accounts"] = "password", []any{login}
		}
		protocol, outbound := "http", "freedom"
		if scheme != "http" {
			protocol = "socks"
		}
		if conf.Forbid {
			outbound = "blackhole"
		}
		text, err := json.Marshal(map[string]any{
			"log":       map[string]any{"loglevel": "none"},
			"policy":    map[string]any{"levels": map[string]any{"0": map[string]any{"connIdle": 600}}},
			"inbounds":  []any{map[string]any{"listen": "127.0.0.1", "port": port, "protocol": protocol, "settings": settings}},
			"outbounds": []any{map[string]any{"protocol": outbound}},
		})
		if err != nil {
			tb.Fatal(err)
		}
		path := filepath.Join(dir, "v2ray.json")
		write(tb, path, string(text))
		return []string{"v2ray", "-config", path}
	})
}

// ClosedAddr returns a loopback address that nothing listens on.
func ClosedAddr(tb testing.TB) string {
	tb.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(tb)))
}
