package status

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// checkHost passes on requests whose Host header names this server, and refuses the rest: a page of another site whose name
// resolves to this address (DNS rebinding) must not read what is served here. These name it: loopback names and addresses,
// addr, the address that the connection came in on, and hosts, each with any port unless it has one. An address of another
// kind is refused too: behind a port mapping it must be one of hosts.
func checkHost(addr string, hosts []string, next http.Handler) http.Handler {
	allowed := append([]string{}, hosts...)
	if host, _ := splitHost(addr); host != "" {
		allowed = append(allowed, host)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if r.Host != addr && !isLoopback(r.Host) && !isLocal(r.Host, local) && !matches(r.Host, allowed) {
			http.Error(w, "This host name is not served. Add it to STATUS_HOSTS to allow it.", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// splitHost splits a Host header; port is empty where it has none.
func splitHost(text string) (host, port string) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"), ""
	}
	return strings.ToLower(strings.TrimSuffix(host, ".")), port
}

func isLoopback(hostHeader string) bool {
	host, _ := splitHost(hostHeader)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// isLocal reports whether a Host header is the address that the connection came in on. No DNS name can be that.
func isLocal(hostHeader string, local net.Addr) bool {
	tcp, ok := local.(*net.TCPAddr)
	if !ok {
		return false
	}
	host, _ := splitHost(hostHeader)
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().WithZone("") == tcp.AddrPort().Addr().Unmap().WithZone("")
}

func matches(hostHeader string, allowed []string) bool {
	host, port := splitHost(hostHeader)
	for _, a := range allowed {
		if name, only := splitHost(a); host == name && host != "" && (only == "" || only == port) {
			return true
		}
	}
	return false
}
