// Package pgurl reads DATABASE_URL: a PostgreSQL URL or key=value string as users have it, with parameters of ORMs and
// hosting services in it, completed from the PG* environment as libpq does. docs/database-url.md lists every parameter.
//
// It does not connect. Errors name the parameter and what is wrong with it, and never quote a value: it could be a
// password, or a part of one.
package pgurl

import (
	"errors"
	"net"
	"net/netip"
	"time"
)

// Config is how to connect to a database.
type Config struct {
	// Hosts are the servers to try in order. There is at least one.
	Hosts []Host
	// RandomHosts makes the order random for each connection.
	RandomHosts bool

	User     string
	Password string
	Passfile string // read for a password if Password is empty; it may not exist
	Database string
	Options  string // command-line options for the server
	// ApplicationName is empty if neither the URL nor the environment sets it.
	ApplicationName string
	// Settings are settings of the session, such as search_path.
	Settings map[string]string

	// ConnectTimeout bounds one attempt to connect to one host; 0 means no bound.
	ConnectTimeout time.Duration
	// TargetSessionAttrs is any, read-write, read-only, primary, standby or prefer-standby.
	TargetSessionAttrs string
	// KeepAlive is for TCP connections.
	KeepAlive net.KeepAliveConfig
	// UserTimeout is how long sent data may stay unacknowledged (TCP_USER_TIMEOUT); 0 means the system's default.
	UserTimeout time.Duration

	TLS TLS
	// ChannelBinding demands SCRAM authentication that is bound to the TLS connection.
	ChannelBinding bool
	// RequireAuth are the authentication methods to accept, by their names in require_auth; nil means all.
	RequireAuth []string
	// RequirePeer is the operating system's user that the server of a unix socket must run as; empty means any.
	RequirePeer string
	// KerberosService is the service name for GSSAPI authentication.
	KerberosService string

	// MinProtocol and MaxProtocol are versions of the protocol: 3.0, 3.2 or latest.
	MinProtocol, MaxProtocol string
	// TextParameters and TextResults turn off the driver's binary formats, which are on by default.
	TextParameters, TextResults bool

	// Warning is what the user should know: names of parameters that are not used, without values. It is empty if all
	// are used.
	Warning string
}

// Host is one server.
type Host struct {
	// Name is a host name, an IP address, or the directory of a unix socket. If Name and Addr are empty, the server is
	// the local one: its unix socket, or localhost if there is no socket.
	Name string
	// Addr is the IP address to connect to instead of looking up Name; it may be invalid.
	Addr netip.Addr
	Port uint16
}

// TLS says whether and how connections are encrypted. Files are read for each connection, so that they may be replaced.
type TLS struct {
	// Mode is disable, allow, prefer, require, verify-ca or verify-full.
	Mode string
	// Direct starts with TLS at once, without PostgreSQL's request for it.
	Direct bool
	// RootCert is a file with the certificates of authorities, or "system". If it is empty, DefaultRootCert is used if
	// that file exists.
	RootCert, DefaultRootCert string
	// Cert and Key are the files of the client's certificate. They may not exist.
	Cert, Key string
	// Inline means that RootCert, Cert and Key are PEM texts and not files.
	Inline bool
	// CertMode is disable, allow or require: whether the client's certificate is sent.
	CertMode string
	// NoSNI leaves the host name out of the TLS handshake.
	NoSNI bool
	// MinVersion and MaxVersion are versions of crypto/tls; 0 means the default.
	MinVersion, MaxVersion uint16
}

var (
	errEmpty   = errors.New("DATABASE_URL is not set; set it to postgres://user:password@host:5432/database")
	errInvalid = errors.New("the database URL is invalid; the expected form is postgres://user:password@host:5432/database" +
		" (write special characters in the password as %XX)")
)

// Parse reads a URL or a key=value string. What it does not set is looked up in a service file and the PG* environment,
// in libpq's order: the text, the service, the environment, the default. A nil env is an empty environment.
func Parse(raw string, env func(name string) (string, bool)) (Config, error) {
	if env == nil {
		env = func(string) (string, bool) { return "", false }
	}
	text := trim(raw)
	if text == "" {
		return Config{}, errEmpty
	}
	pairs, err := split(text)
	if err != nil {
		return Config{}, err
	}
	v, err := sortOut(pairs)
	if err != nil {
		return Config{}, err
	}
	if err := v.addService(env); err != nil {
		return Config{}, err
	}
	v.addEnvironment(env)
	return v.config(env)
}
