package proxy

import (
	"errors"
	"fmt"
	"strings"
)

// tunnelSchemes are the schemes of addresses that a client program (Clash, sing-box, v2ray) connects to. They are not proxies that other
// programs can use.
var tunnelSchemes = []string{"ss", "ssr", "vmess", "vless", "trojan", "trojan-go", "hysteria", "hysteria2", "hy2", "tuic", "snell", "naive+https",
	"naive+quic", "anytls", "wireguard", "wg"}

// checkKind returns an error for a proxy URL of a known kind that can't be used. The error says what to write instead and does not quote the URL.
func checkKind(text string) error {
	scheme, rest, _ := strings.Cut(text, "://")
	scheme = strings.ToLower(strings.TrimSpace(scheme))
	for _, s := range tunnelSchemes {
		if scheme == s {
			return fmt.Errorf("%s:// is the address of a node, not of a proxy; write the http or SOCKS port of the local client that uses this node "+
				"(Clash, sing-box, v2rayN), such as http://127.0.0.1:7890 or socks5h://127.0.0.1:10808", scheme)
		}
	}
	switch {
	case isPAC(scheme, rest):
		return errors.New("it is a PAC file (automatic proxy configuration), which is not supported; look in it for the proxy: " +
			"for \"PROXY host:port\" write http://host:port, for \"SOCKS5 host:port\" write socks5h://host:port")
	case scheme == "socks":
		return errors.New("socks:// does not say which version; write socks5h://host:port, or socks5://host:port if this host is to resolve names")
	case scheme == "socks4", scheme == "socks4a":
		return fmt.Errorf("%s:// is not supported; write socks5h://host:port if the proxy takes SOCKS5 too, as most do, or http://host:port for its http port", scheme)
	}
	return nil
}

// isPAC reports whether a URL is that of a PAC file.
func isPAC(scheme, rest string) bool {
	if scheme == "file" || scheme == "pac" || strings.HasPrefix(scheme, "pac+") {
		return true
	}
	rest, _, _ = strings.Cut(rest, "#")
	rest, _, _ = strings.Cut(rest, "?")
	_, path, _ := strings.Cut(rest, "/")
	path = strings.ToLower(path)
	return strings.HasSuffix(path, ".pac") || strings.HasSuffix(path, "wpad.dat")
}
