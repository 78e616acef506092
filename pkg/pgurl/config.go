package pgurl

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	defaultPort        = 5432
	defaultTimeout     = 10 * time.Second
	defaultUserTimeout = 20 * time.Second
)

// defaultKeepAlive notices after 30 seconds that an idle connection is broken. The defaults of systems take two hours.
func defaultKeepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
}

// config checks the parameters and returns them with their types.
func (v *values) config(env func(string) (string, bool)) (Config, error) {
	c := Config{
		User:            v.text("user"),
		Password:        v.text("password"),
		Passfile:        v.text("passfile"),
		Database:        v.text("dbname"),
		Options:         v.text("options"),
		ApplicationName: v.text("application_name"),
		Settings:        v.settings,
		RequirePeer:     v.text("requirepeer"),
		KerberosService: v.text("krbsrvname"),
	}
	if c.ApplicationName == "" {
		c.ApplicationName = v.text("fallback_application_name")
	}
	home := homeDir(env)
	if c.Passfile == "" && home != "" {
		c.Passfile = filepath.Join(home, ".pgpass")
	}
	if c.User == "" {
		name, err := currentUser(env)
		if err != nil {
			return Config{}, err
		}
		c.User = name
	}
	if c.Database == "" {
		c.Database = c.User
	}
	for _, set := range []func(*Config) error{v.setHosts, v.setNetwork, v.setSession, v.setAuth,
		func(c *Config) error { return v.setTLS(c, home) }} {
		if err := set(&c); err != nil {
			return Config{}, err
		}
	}
	v.checkUnused()
	c.Warning = v.warning(c)
	return c, nil
}

func (v *values) text(keyword string) string { return v.keywords[keyword].text }

// currentUser returns the name of the user that runs the program, as libpq does.
func currentUser(env func(string) (string, bool)) (string, error) {
	u, err := user.Current()
	if err == nil && u.Username != "" {
		return u.Username, nil
	}
	if name, _ := env("USER"); name != "" {
		return name, nil
	}
	return "", errors.New("the database URL names no user, and the name of the current user is unknown")
}

func (v *values) setHosts(c *Config) error {
	list := func(keyword string) []string {
		if text := v.text(keyword); text != "" {
			return strings.Split(text, ",")
		}
		return nil
	}
	names, addrs, ports := list("host"), list("hostaddr"), list("port")
	if len(names) > 0 && len(addrs) > 0 && len(names) != len(addrs) {
		return fmt.Errorf("%s has %d items and %s has %d", v.keywords["host"].source, len(names), v.keywords["hostaddr"].source, len(addrs))
	}
	n := max(len(names), len(addrs), 1)
	if len(ports) > 1 && len(ports) != n {
		return fmt.Errorf("%s has %d items for %d hosts", v.keywords["port"].source, len(ports), n)
	}
	for i := range n {
		h := Host{Port: defaultPort}
		if i < len(names) {
			h.Name = strings.TrimSpace(names[i])
		}
		if i < len(addrs) && addrs[i] != "" {
			addr, err := netip.ParseAddr(strings.TrimSpace(addrs[i]))
			if err != nil {
				return fmt.Errorf("%s must be an IP address", v.keywords["hostaddr"].source)
			}
			h.Addr = addr
		}
		if len(ports) > 0 {
			port := strings.TrimSpace(ports[min(i, len(ports)-1)])
			if port != "" {
				number, err := strconv.ParseUint(port, 10, 16)
				if err != nil || number == 0 {
					return fmt.Errorf("the port of the database URL must be a number from 1 to 65535; write special characters" +
						" in the password as %%XX")
				}
				h.Port = uint16(number)
			}
		}
		c.Hosts = append(c.Hosts, h)
	}
	random, err := v.oneOf("load_balance_hosts", "disable", "random")
	c.RandomHosts = random == "random"
	return err
}

func (v *values) setNetwork(c *Config) error {
	c.ConnectTimeout = defaultTimeout
	if n, given, err := v.number("connect_timeout"); err != nil {
		return err
	} else if given {
		c.ConnectTimeout = time.Duration(max(n, 0)) * time.Second
	}
	c.KeepAlive = defaultKeepAlive()
	n, given, err := v.number("keepalives")
	if err != nil {
		return err
	}
	c.KeepAlive.Enable = !given || n != 0
	for keyword, field := range map[string]*time.Duration{
		"keepalives_idle": &c.KeepAlive.Idle, "keepalives_interval": &c.KeepAlive.Interval,
	} {
		n, given, err := v.number(keyword)
		if err != nil {
			return err
		}
		if given {
			*field = time.Duration(orSystem(n)) * time.Second
		}
	}
	if n, given, err = v.number("keepalives_count"); err != nil {
		return err
	} else if given {
		c.KeepAlive.Count = orSystem(n)
	}
	c.UserTimeout = defaultUserTimeout
	if n, given, err = v.number("tcp_user_timeout"); err != nil {
		return err
	} else if given {
		c.UserTimeout = time.Duration(max(n, 0)) * time.Millisecond
	}
	return nil
}

// orSystem returns a number of net.KeepAliveConfig, where 0 is Go's default, for one of libpq's, where 0 is the system's.
func orSystem(n int) int {
	if n <= 0 {
		return -1
	}
	return n
}

func (v *values) setSession(c *Config) (err error) {
	c.TargetSessionAttrs, err = v.oneOf("target_session_attrs", "any", "read-write", "read-only", "primary", "standby", "prefer-standby")
	if err != nil {
		return err
	}
	if c.MinProtocol, err = v.oneOf("min_protocol_version", "3.0", "3.2", "latest"); err != nil {
		return err
	}
	if c.MaxProtocol, err = v.oneOf("max_protocol_version", "3.0", "3.2", "latest"); err != nil {
		return err
	}
	if c.MinProtocol != "3.0" && v.text("max_protocol_version") == "" {
		c.MaxProtocol = "latest"
	}
	if c.MinProtocol != "3.0" && c.MaxProtocol == "3.0" {
		return errors.New("min_protocol_version is greater than max_protocol_version")
	}
	binary, err := v.flag("binary_parameters", true)
	if err != nil {
		return err
	}
	c.TextParameters = !binary
	c.TextResults, err = v.flag("disable_prepared_binary_result", false)
	return err
}

// authMethods are the names of require_auth that PostgreSQL's clients know.
var authMethods = []string{"password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none"}

func (v *values) setAuth(c *Config) error {
	if mode, err := v.oneOf("gssencmode", "prefer", "disable", "require"); err != nil {
		return err
	} else if mode == "require" {
		return fmt.Errorf("%s=require demands encryption by GSSAPI, which is not supported; use sslmode=verify-full and leave it out",
			v.keywords["gssencmode"].source)
	}
	binding, err := v.oneOf("channel_binding", "prefer", "disable", "require")
	if err != nil {
		return err
	}
	c.ChannelBinding = binding == "require"
	required, given := v.get("require_auth")
	if !given {
		return nil
	}
	var accepted, refused []string
	for method := range strings.SplitSeq(required.text, ",") {
		method, negated := strings.CutPrefix(strings.TrimSpace(method), "!")
		if !slices.Contains(authMethods, method) {
			return fmt.Errorf("%s must be a list of %s, or of these with \"!\" before each", required.source, strings.Join(authMethods, ", "))
		}
		if negated {
			refused = append(refused, method)
		} else {
			accepted = append(accepted, method)
		}
	}
	switch {
	case len(accepted) > 0 && len(refused) > 0:
		return fmt.Errorf("%s must not have methods with and without \"!\"", required.source)
	case len(refused) > 0:
		for _, method := range authMethods {
			if !slices.Contains(refused, method) {
				accepted = append(accepted, method)
			}
		}
	}
	c.RequireAuth = accepted
	return nil
}

var tlsVersions = map[string]uint16{
	"tlsv1": tls.VersionTLS10, "tlsv1.0": tls.VersionTLS10, "tlsv1.1": tls.VersionTLS11, "tlsv1.2": tls.VersionTLS12, "tlsv1.3": tls.VersionTLS13,
}

func (v *values) setTLS(c *Config, home string) (err error) {
	t := &c.TLS
	t.RootCert, t.Cert, t.Key = v.text("sslrootcert"), v.text("sslcert"), v.text("sslkey")
	if t.Mode, err = v.tlsMode(); err != nil {
		return err
	}
	if t.Inline, err = v.flag("sslinline", false); err != nil {
		return err
	}
	if home != "" && !t.Inline {
		dir := filepath.Join(home, ".postgresql")
		t.DefaultRootCert = filepath.Join(dir, "root.crt")
		if t.Cert == "" {
			t.Cert = filepath.Join(dir, "postgresql.crt")
		}
		if t.Key == "" {
			t.Key = filepath.Join(dir, "postgresql.key")
		}
	}
	if t.CertMode, err = v.oneOf("sslcertmode", "allow", "disable", "require"); err != nil {
		return err
	}
	sni, err := v.flag("sslsni", true)
	if err != nil {
		return err
	}
	t.NoSNI = !sni
	for keyword, field := range map[string]*uint16{"ssl_min_protocol_version": &t.MinVersion, "ssl_max_protocol_version": &t.MaxVersion} {
		if text, given := v.get(keyword); given {
			if *field = tlsVersions[strings.ToLower(text.text)]; *field == 0 {
				return fmt.Errorf("%s must be TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3", text.source)
			}
		}
	}
	if t.MaxVersion != 0 && t.MinVersion > t.MaxVersion {
		return errors.New("ssl_min_protocol_version is greater than ssl_max_protocol_version")
	}
	negotiation, err := v.oneOf("sslnegotiation", "postgres", "direct")
	if err != nil {
		return err
	}
	t.Direct = negotiation == "direct"
	if t.Direct && !slices.Contains([]string{"require", "verify-ca", "verify-full"}, t.Mode) {
		return fmt.Errorf("%s=direct needs sslmode=require, verify-ca or verify-full", v.keywords["sslnegotiation"].source)
	}
	return v.refuseCRL(t.Mode)
}

// tlsMode returns the mode that sslmode sets. Without one, libpq's default counts.
func (v *values) tlsMode() (string, error) {
	modes := []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
	system := v.text("sslrootcert") == "system"
	given, ok := v.get("sslmode")
	mode := given.text
	switch {
	case mode == "no-verify": // node-postgres: encrypted, with any certificate
		mode = "require"
	case ok && !slices.Contains(modes, mode):
		return "", fmt.Errorf("%s must be one of %s", given.source, strings.Join(modes, ", "))
	case !ok && system:
		mode = "verify-full"
	case !ok && v.text("requiressl") == "1":
		mode = "require"
	case !ok:
		mode = "prefer"
	}
	if v.text("sslaccept") == "strict" && mode != "disable" {
		mode = "verify-full" // Prisma: the certificate must be valid
	}
	if system && mode != "verify-full" {
		return "", errors.New("sslrootcert=system needs sslmode=verify-full: anybody can get a certificate for a name of their own")
	}
	return mode, nil
}

// refuseCRL refuses revocation lists: a list that is not checked would be a demand that is not met.
func (v *values) refuseCRL(mode string) error {
	for _, keyword := range []string{"sslcrl", "sslcrldir"} {
		if given, ok := v.get(keyword); ok && mode != "disable" {
			return fmt.Errorf("%s: certificate revocation lists are not supported; leave it out", given.source)
		}
	}
	return nil
}

// checkUnused notes the parameters of libpq that are set to something that has no effect here.
func (v *values) checkUnused() {
	for _, keyword := range []string{"oauth_client_id", "oauth_client_secret", "oauth_issuer", "oauth_scope", "replication",
		"scram_client_key", "scram_server_key", "sslkeylogfile"} {
		if given, ok := v.get(keyword); ok {
			v.unused = append(v.unused, given.source)
		}
	}
	encoding, given := v.get("client_encoding")
	if given && encoding.source != keywords["client_encoding"] && !slices.Contains([]string{"utf8", "unicode", "auto"}, plain(encoding.text)) {
		v.unused = append(v.unused, encoding.source) // ours is always UTF8
	}
}

func (v *values) oneOf(keyword, byDefault string, others ...string) (string, error) {
	given, ok := v.get(keyword)
	switch {
	case !ok:
		return byDefault, nil
	case given.text == byDefault || slices.Contains(others, given.text):
		return given.text, nil
	}
	return "", fmt.Errorf("%s must be one of %s", given.source, strings.Join(append([]string{byDefault}, others...), ", "))
}

func (v *values) number(keyword string) (n int, given bool, err error) {
	text, given := v.get(keyword)
	if !given {
		return 0, false, nil
	}
	number, err := strconv.ParseInt(strings.TrimSpace(text.text), 10, 32)
	if err != nil {
		return 0, false, fmt.Errorf("%s must be a whole number", text.source)
	}
	return int(number), true, nil
}

func (v *values) flag(keyword string, byDefault bool) (bool, error) {
	text, given := v.get(keyword)
	if !given {
		return byDefault, nil
	}
	on, err := parseBool(text.text)
	if err != nil {
		return false, fmt.Errorf("%s must be 1 or 0", text.source)
	}
	return on, nil
}

func parseBool(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "yes", "on":
		return true, nil
	case "no", "off":
		return false, nil
	}
	return strconv.ParseBool(text)
}

// Addr returns the network and the address of a host. The local server is at its unix socket if exists reports that a
// usual one exists, and otherwise at localhost.
func (h Host) Address(exists func(path string) bool) (network, address string) {
	port := strconv.Itoa(int(h.Port))
	socket := ".s.PGSQL." + port
	switch {
	case h.Addr.IsValid():
		return "tcp", net.JoinHostPort(h.Addr.String(), port)
	case strings.HasPrefix(h.Name, "/"), strings.HasPrefix(h.Name, "@"):
		return "unix", h.Name + "/" + socket
	case h.Name != "":
		return "tcp", net.JoinHostPort(h.Name, port)
	}
	for _, dir := range []string{"/var/run/postgresql", "/run/postgresql", "/tmp"} {
		if path := filepath.Join(dir, socket); exists(path) {
			return "unix", path
		}
	}
	return "tcp", net.JoinHostPort("localhost", port)
}
