package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"net"
	"net/netip"
	"time"

	"github.com/lib/pq"

	"imagetasks/pkg/pgdial"
	"imagetasks/pkg/pgurl"
)

// connector opens the sessions of a Store. The driver gets connections on which TLS is in use already, and a complete
// configuration: it reads no environment, where it would fail on variables that it does not know, and it need not know
// libpq's rules for hosts and TLS.
type connector struct {
	conf  *currentConfig
	dial  pgdial.DialFunc
	limit time.Duration // of a statement whose context has no deadline
	hot   *hotStatements
}

// maxConnect bounds the time in which a host must start a session, also where connect_timeout is 0 or more: database/sql opens connections in
// the background, without a bound of its own.
const maxConnect = 15 * time.Second

// cancelTimeout bounds the request that cancels a statement.
const cancelTimeout = 5 * time.Second

// newConnector reads the URL. It does not connect.
func newConnector(conf Config) (*connector, *dialer, error) {
	c, err := pgurl.Parse(conf.URL, conf.Env)
	if err != nil {
		return nil, nil, err
	}
	if c.ApplicationName == "" {
		c.ApplicationName = conf.ApplicationName
	}
	if c.Warning != "" && conf.Warn != nil {
		conf.Warn("DATABASE_URL: " + c.Warning)
	}
	boundConnect(&c)
	d := &dialer{dial: pgdial.Network(c)}
	return &connector{conf: newCurrentConfig(c, conf.Env), dial: d.DialContext, limit: conf.StatementTimeout, hot: newHotStatements(nil)}, d, nil
}

// boundConnect bounds the time for a connection.
func boundConnect(c *pgurl.Config) {
	if c.ConnectTimeout <= 0 || c.ConnectTimeout > maxConnect {
		c.ConnectTimeout = maxConnect
	}
}

// pool returns a pool of at most conns connections.
func (c *connector) pool(conns int) *sql.DB {
	db := sql.OpenDB(&poolConnector{connector: c})
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return db
}

// poolConnector opens the connections of one pool.
type poolConnector struct {
	*connector
	state poolState
}

// Connect opens a session. It implements driver.Connector.
func (c *poolConnector) Connect(ctx context.Context) (driver.Conn, error) {
	s, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	return newBoundConn(s.Conn, s.wire, c.limit, c.hot, &c.state)
}

// Driver returns the driver. It implements driver.Connector.
func (c *poolConnector) Driver() driver.Driver { return &pq.Driver{} }

// session is an open session of the driver, and its connection.
type session struct {
	driver.Conn
	wire *wire
}

func (c *connector) connect(ctx context.Context) (s session, err error) {
	conf := c.conf.get()
	err = pgdial.Open(ctx, conf, c.dial, func(ctx context.Context, a *pgdial.Attempt) (encrypted bool, err error) {
		s, err = open(ctx, conf, a)
		return s.wire != nil && s.wire.Encrypted, err
	})
	return s, err
}

// open opens a session on one host. The end of ctx ends it, whatever the server does. If it fails, the session has only the
// connection, if there was one.
func open(ctx context.Context, conf pgurl.Config, a *pgdial.Attempt) (s session, err error) {
	connector, err := pq.NewConnectorConfig(driverConfig(conf, a))
	if err != nil {
		return session{}, err
	}
	stop := func() bool { return true }
	opened := false
	connector.Dialer(dialFunc(func(dialCtx context.Context) (net.Conn, error) {
		c, err := a.Dial(dialCtx)
		if err != nil {
			return nil, err
		}
		if opened { // the driver dials only to cancel a statement, and waits for the end of that connection
			return c, c.SetDeadline(time.Now().Add(cancelTimeout))
		}
		s.wire = &wire{Conn: c}
		stop = context.AfterFunc(ctx, c.Abort)
		return s.wire, nil
	}))
	s.Conn, err = connector.Connect(ctx)
	opened = true
	if !stop() && err == nil {
		_ = s.Conn.Close()
		err = ctx.Err()
	}
	return s, err
}

// driverConfig returns the driver's configuration for one host.
func driverConfig(conf pgurl.Config, a *pgdial.Attempt) pq.Config {
	c := pq.Config{
		Host:                        a.Host.Name,
		Hostaddr:                    a.Host.Addr,
		Port:                        a.Host.Port,
		Database:                    conf.Database,
		User:                        conf.User,
		Password:                    a.Password,
		Passfile:                    noFile,
		Options:                     conf.Options,
		ApplicationName:             conf.ApplicationName,
		SSLMode:                     pq.SSLModeDisable, // the dialer did it
		ConnectTimeout:              conf.ConnectTimeout,
		KrbSrvname:                  conf.KerberosService,
		BinaryParameters:            !conf.TextParameters,
		DisablePreparedBinaryResult: conf.TextResults,
		ClientEncoding:              "UTF8",
		Datestyle:                   "ISO, MDY",
		TargetSessionAttrs:          pq.TargetSessionAttrs(a.TargetSessionAttrs),
		MinProtocolVersion:          pq.ProtocolVersion(conf.MinProtocol),
		MaxProtocolVersion:          pq.ProtocolVersion(conf.MaxProtocol),
		Runtime:                     conf.Settings,
	}
	if c.Host == "" && c.Hostaddr == (netip.Addr{}) {
		c.Host = "localhost" // the dialer knows better; the driver only names it in errors
	}
	return c
}

// noFile can't exist: the password file was read, and the driver must not look for another.
const noFile = "/dev/null/none"

// dialFunc makes a connection to the host that it is for, whatever the driver asks for.
type dialFunc func(ctx context.Context) (net.Conn, error)

// DialContext implements pq.DialerContext.
func (d dialFunc) DialContext(ctx context.Context, _, _ string) (net.Conn, error) { return d(ctx) }

// Dial implements pq.Dialer.
func (d dialFunc) Dial(_, _ string) (net.Conn, error) { return d(context.Background()) }

// DialTimeout implements pq.Dialer.
func (d dialFunc) DialTimeout(_, _ string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d(ctx)
}
