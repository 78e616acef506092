package pgurl_test

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/pgurl"
)

// environment returns a lookup in NAME=value lines.
func environment(lines ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, line := range lines {
			if value, ok := strings.CutPrefix(line, name+"="); ok {
				return value, true
			}
		}
		return "", false
	}
}

func parse(t *testing.T, text string, env ...string) pgurl.Config {
	t.Helper()
	c, err := pgurl.Parse(text, environment(env...))
	require.NoError(t, err, text)
	return c
}

func TestParse_Hosts(t *testing.T) {
	ip := netip.MustParseAddr
	for text, want := range map[string][]pgurl.Host{
		"postgres://u@h":                            {{Name: "h", Port: 5432}},
		"postgres://u@h:1/d":                        {{Name: "h", Port: 1}},
		"postgres://u@h1:1,h2,h3:3/d":               {{Name: "h1", Port: 1}, {Name: "h2", Port: 5432}, {Name: "h3", Port: 3}},
		"postgres://u@h1,h2/d?port=1,2":             {{Name: "h1", Port: 1}, {Name: "h2", Port: 2}},
		"postgres://u@h1,h2/d?port=7":               {{Name: "h1", Port: 7}, {Name: "h2", Port: 7}},
		"postgres://u@h1,/d":                        {{Name: "h1", Port: 5432}, {Port: 5432}},
		"postgres://[::1]:6/d":                      {{Name: "::1", Port: 6}},
		"postgres://u:p@[fe80::1%25eth0],[::2]:7/d": {{Name: "fe80::1%eth0", Port: 5432}, {Name: "::2", Port: 7}},
		"postgres://%2Fvar%2Frun/d":                 {{Name: "/var/run", Port: 5432}},
		"postgres:///d?host=/tmp&port=6":            {{Name: "/tmp", Port: 6}},
		"postgres://ignored/d?host=/tmp":            {{Name: "/tmp", Port: 5432}},
		"postgres:///d":                             {{Port: 5432}},
		"POSTGRES://h/d":                            {{Name: "h", Port: 5432}},
		"host=h1,h2 port=1,":                        {{Name: "h1", Port: 1}, {Name: "h2", Port: 5432}},
		"host=a,b hostaddr=10.0.0.1,":               {{Name: "a", Addr: ip("10.0.0.1"), Port: 5432}, {Name: "b", Port: 5432}},
		"hostaddr=::1,10.0.0.2":                     {{Addr: ip("::1"), Port: 5432}, {Addr: ip("10.0.0.2"), Port: 5432}},
		"dbname=d":                                  {{Port: 5432}},
	} {
		assert.Equal(t, want, parse(t, text).Hosts, text)
	}
}

func TestParse_UserAndPassword(t *testing.T) {
	for text, want := range map[string][3]string{
		"postgres://u:p@h/d":                      {"u", "p", "d"},
		"postgres://u:p@ss@h/d":                   {"u", "p@ss", "d"},
		"postgres://u:a:b?c#d[e]$^\"' @h/d":       {"u", "a:b?c#d[e]$^\"' ", "d"},
		"postgres://u%40x:%2F%25+@h/d%20e":        {"u@x", "/%+", "d e"},
		"postgres://u:p@h":                        {"u", "p", "u"},
		"postgres://:p@h/?user=v":                 {"v", "p", "v"},
		"postgres://u:p@h/d?password=q&dbname=e":  {"u", "q", "e"},
		`user=u password='it\'s \\ ' dbname=d`:    {"u", `it's \ `, "d"},
		`user = u  password=a\ b'c dbname=''`:     {"u", "a b'c", "u"},
		`  "postgresql+psycopg://u:p@h/d"  `:      {"u", "p", "d"},
		"jdbc:postgresql://h/d?user=u&password=p": {"u", "p", "d"},
		"postgis://u:p@h/d":                       {"u", "p", "d"},
		"postgres://u:p@h/d?database=e":           {"u", "p", "e"},
	} {
		c := parse(t, text)
		assert.Equal(t, want, [3]string{c.User, c.Password, c.Database}, text)
	}
}

func TestParse_Errors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                         "not set",
		" '' ":                                     "not set",
		"mysql://u:hunter2@h/d":                    "invalid",
		"prisma+postgres://u:hunter2@h/d":          "direct URL",
		"h/d":                                      "invalid",
		"postgres://u:hunt/er2@h/d":                "%XX",
		"postgres://u:12/hunter2@h:x/d?host=":      "",
		"postgres://u:hunt%er2@h/d":                "invalid",
		"postgres://u:hunter2%00@h/d":              "invalid",
		"postgres://u:hunter2@h:port/d":            "port",
		"postgres://u:hunter2@h:0/d":               "port",
		"postgres://u:hunter2@h:1,i:2,j/d?port":    "port",
		"postgres://u:hunter2@[::1/d":              "invalid",
		"postgres://u:hunter2@[::1]x/d":            "invalid",
		"host=h password='hunter2":                 "quoted",
		"host=h hunter2":                           "invalid",
		"host=h pass word=hunter2":                 "invalid",
		"Host=h;Port=1;Password=hunter2":           "",
		"Server=h;Password=hunter2":                "invalid",
		"postgres://u:hunter2@h/d?sslmode=hunter2": "sslmode must be one of disable, allow, prefer",
		"postgres://u:hunter2@h/d?ssl=hunter2":     "ssl must be one of",
		"postgres://u:hunter2@h/d?sslrootcert=system&sslmode=require":                "sslrootcert=system needs sslmode=verify-full",
		"postgres://u:hunter2@h/d?sslnegotiation=direct":                             "sslnegotiation=direct needs sslmode=require",
		"postgres://u:hunter2@h/d?sslcrl=x":                                          "sslcrl: certificate revocation lists are not supported",
		"postgres://u:hunter2@h/d?gssencmode=require":                                "gssencmode=require demands encryption by GSSAPI",
		"postgres://u:hunter2@h/d?connect_timeout=1s":                                "connect_timeout must be a whole number",
		"postgres://u:hunter2@h/d?tcp_user_timeout=x":                                "tcp_user_timeout must be a whole number",
		"postgres://u:hunter2@h/d?require_auth=md5,!none":                            "require_auth must not have",
		"postgres://u:hunter2@h/d?load_balance_hosts=yes":                            "load_balance_hosts must be one of disable, random",
		"postgres://u:hunter2@h/d?binary_parameters=x":                               "binary_parameters must be 1 or 0",
		"postgres://u:hunter2@h/d?ssl_min_protocol_version=2":                        "ssl_min_protocol_version must be TLSv1",
		"postgres://u:hunter2@h/d?min_protocol_version=3.2&max_protocol_version=3.0": "min_protocol_version is greater",
		"postgres://u:hunter2@h/d?service=x":                                         "service: no service file defines the service",
	} {
		_, err := pgurl.Parse(text, nil)
		if want == "" && err == nil {
			continue // odd, but a URL
		}
		if assert.Error(t, err, text) {
			assert.ErrorContains(t, err, want, text)
			assert.NotContains(t, err.Error(), "hunter2", text)
			assert.NotContains(t, err.Error(), "er2", text)
		}
	}
}

func TestParse_WarningNamesParametersWithoutValues(t *testing.T) {
	for text, want := range map[string]string{
		"postgres://u:p@h/d?sslmode=require":                                              "",
		"postgres://u:p@h/d?schema=hunter2&pgbouncer=true&connection_limit=1&schema=x":    "these are not parameters of PostgreSQL and are ignored: connection_limit, pgbouncer, schema",
		"postgres://u:p@h/d?client_encoding=LATIN1&replication=database&datestyle=German": "these have no effect here: client_encoding, datestyle, replication",
		"postgres://u:p@h/d?client_encoding=utf-8":                                        "",
		"postgres://u:p@h/d?%25hunter2=x":                                                 "these are not parameters of PostgreSQL and are ignored: (not a name)",
		"host=h uselibpqcompat=true":                                                      "these are not parameters of PostgreSQL and are ignored: uselibpqcompat",
	} {
		assert.Equal(t, want, parse(t, text).Warning, text)
	}
	assert.Empty(t, parse(t, "postgres://u:p@h/d", "PGCLIENTENCODING=LATIN1", "PGDATESTYLE=German", "PGREALM=x").Warning)
}

func TestParse_WarningOfFiles(t *testing.T) {
	home := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(home, ".postgresql"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(home, ".postgresql", "root.crl"), nil, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(home, ".pgpass"), nil, 0o644))
	warning := parse(t, "postgres://u@h", "HOME="+home).Warning
	assert.Contains(t, warning, ".pgpass is not used, because others may read it")
	assert.Contains(t, warning, "root.crl is not read")
	assert.Empty(t, parse(t, "postgres://u:p@h?sslmode=disable", "HOME="+home).Warning)
}

func TestParse_TLSMode(t *testing.T) {
	for query, want := range map[string]string{
		"": "prefer", "sslmode=": "prefer", "sslmode=allow": "allow", "sslmode=no-verify": "require", "ssl": "require", "ssl=true": "require",
		"ssl=1": "require", "ssl=false": "prefer", "ssl=verify-ca": "verify-ca", "ssl=true&sslmode=disable": "disable",
		"SSLMode=require": "require", "ssl-mode=verify-full": "verify-full", "sslrootcert=system": "verify-full", "requiressl=1": "require",
		"sslaccept=strict": "verify-full", "sslaccept=strict&sslmode=require": "verify-full", "sslaccept=strict&sslmode=disable": "disable",
		"sslaccept=accept_invalid_certs": "prefer",
	} {
		assert.Equal(t, want, parse(t, "postgres://h/d?"+query).TLS.Mode, query)
	}
	assert.Equal(t, "require", parse(t, "postgres://h/d?ssl=true", "PGSSLMODE=disable").TLS.Mode)
	assert.Equal(t, "require", parse(t, "postgres://h/d", "PGREQUIRESSL=1").TLS.Mode)
	assert.Equal(t, "disable", parse(t, "postgres://h/d", "PGREQUIRESSL=1", "PGSSLMODE=disable").TLS.Mode)
}

func TestParse_Environment(t *testing.T) {
	c := parse(t, "postgres://h", "PGHOST=other", "PGPORT=7", "PGUSER=u", "PGPASSWORD=p", "PGDATABASE=d", "PGAPPNAME=a", "PGOPTIONS=-c x=y",
		"PGCONNECT_TIMEOUT=3", "PGTZ=UTC", "PGGEQO=off", "PGPASSFILE=/f", "PGTARGETSESSIONATTRS=primary", "PGREQUIREPEER=postgres",
		"PGCHANNELBINDING=require", "PGREQUIREAUTH=!none,!password", "PGGSSENCMODE=disable", "PGSSLSNI=0", "PGSSLNEGOTIATION=")
	assert.Equal(t, []pgurl.Host{{Name: "h", Port: 7}}, c.Hosts)
	assert.Equal(t, []string{"u", "p", "d", "a", "-c x=y", "/f", "primary", "postgres"},
		[]string{c.User, c.Password, c.Database, c.ApplicationName, c.Options, c.Passfile, c.TargetSessionAttrs, c.RequirePeer})
	assert.Equal(t, map[string]string{"timezone": "UTC", "geqo": "off"}, c.Settings)
	assert.Equal(t, 3*time.Second, c.ConnectTimeout)
	assert.True(t, c.ChannelBinding)
	assert.True(t, c.TLS.NoSNI)
	assert.Equal(t, []string{"md5", "gss", "sspi", "scram-sha-256", "oauth"}, c.RequireAuth)
	_, err := pgurl.Parse("postgres://h", environment("PGSSLMODE=maybe"))
	assert.ErrorContains(t, err, "PGSSLMODE must be one of")
	_, err = pgurl.Parse("postgres://h", environment("PGGSSENCMODE=require"))
	assert.ErrorContains(t, err, "PGGSSENCMODE=require")
}

func TestParse_Defaults(t *testing.T) {
	c := parse(t, "postgres://u@h", "HOME=/home/x")
	assert.Equal(t, 10*time.Second, c.ConnectTimeout)
	assert.Equal(t, net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}, c.KeepAlive)
	assert.Equal(t, 20*time.Second, c.UserTimeout)
	assert.False(t, c.TextParameters)
	assert.Equal(t, "/home/x/.pgpass", c.Passfile)
	assert.Equal(t, pgurl.TLS{Mode: "prefer", DefaultRootCert: "/home/x/.postgresql/root.crt", Cert: "/home/x/.postgresql/postgresql.crt",
		Key: "/home/x/.postgresql/postgresql.key", CertMode: "allow"}, c.TLS)
	c = parse(t, "postgres://u@h?connect_timeout=0&keepalives=0&keepalives_idle=5&tcp_user_timeout=1500&binary_parameters=no&fallback_application_name=f")
	assert.Zero(t, c.ConnectTimeout)
	assert.False(t, c.KeepAlive.Enable)
	assert.Equal(t, 5*time.Second, c.KeepAlive.Idle)
	assert.Equal(t, 1500*time.Millisecond, c.UserTimeout)
	assert.True(t, c.TextParameters)
	assert.Equal(t, "f", c.ApplicationName)
	assert.NotEmpty(t, parse(t, "postgres://h").User)
	c = parse(t, "postgres://u@h?keepalives_idle=0&keepalives_interval=7&keepalives_count=0&tcp_user_timeout=0")
	assert.Equal(t, net.KeepAliveConfig{Enable: true, Idle: -time.Second, Interval: 7 * time.Second, Count: -1}, c.KeepAlive, "0 is the system's")
	assert.Zero(t, c.UserTimeout)
}

func TestParse_Service(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "services")
	require.NoError(t, os.WriteFile(file, []byte("# x\n[a]\nhost=ha\n\n[b]\nhost = hb\nuser=service\nport=6\n[c]\nldap://x\n[d]\nhunter2=1\n"), 0o600))
	env := []string{"PGSERVICEFILE=" + file, "PGUSER=env", "PGPORT=7", "PGDATABASE=d"}
	c := parse(t, "postgres:///?service=b&port=8", env...)
	assert.Equal(t, []pgurl.Host{{Name: "hb", Port: 8}}, c.Hosts)
	assert.Equal(t, []string{"service", "d"}, []string{c.User, c.Database})
	c = parse(t, "user=u", append(env, "PGSERVICE=a")...)
	assert.Equal(t, []pgurl.Host{{Name: "ha", Port: 7}}, c.Hosts)
	for service, want := range map[string]string{"c": "LDAP", "d": "line 12 is not a parameter", "e": "no service file defines the service"} {
		_, err := pgurl.Parse("service="+service, environment(env...))
		require.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), "hunter2")
	}
}

func TestHost_Address(t *testing.T) {
	none := func(string) bool { return false }
	for want, h := range map[string]pgurl.Host{
		"tcp h:1":               {Name: "h", Port: 1},
		"tcp [::1]:1":           {Name: "::1", Port: 1},
		"tcp 10.0.0.1:1":        {Name: "h", Addr: netip.MustParseAddr("10.0.0.1"), Port: 1},
		"unix /dir/.s.PGSQL.1":  {Name: "/dir", Port: 1},
		"unix @name/.s.PGSQL.1": {Name: "@name", Port: 1},
		"tcp localhost:1":       {Port: 1},
	} {
		network, address := h.Address(none)
		assert.Equal(t, want, network+" "+address)
	}
	network, address := pgurl.Host{Port: 1}.Address(func(path string) bool { return strings.HasPrefix(path, "/tmp/") })
	assert.Equal(t, "unix /tmp/.s.PGSQL.1", network+" "+address)
}

func FuzzParse_NoPanic(f *testing.F) {
	f.Add("postgres://u:p@h:1,[::1]:2/d?a=b&c")
	f.Add(`host=h password='a\'b' x=y`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := pgurl.Parse(text, nil)
		if err == nil && len(c.Hosts) == 0 {
			t.Error("no host")
		}
	})
}
