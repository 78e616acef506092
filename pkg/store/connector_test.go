package store_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/postgres"
	"imagetasks/pkg/store"
)

// postgresServers are a server with TLS and one without, both with passwords on TCP.
type postgresServers struct {
	tls, plain *postgres.Cluster
	// ports: tls, plain, closed (nothing listens), silent (accepts and never responds), greedy (closes at once).
	ports map[string]string
	dir   string // certificates; home directories
}

const password = `p ss/w@rd:#?&=%'"\`

// passwordInURL is the password with %XX for what a URL does not take.
const passwordInURL = `p%20ss%2Fw%40rd%3A#%3F%26%3D%25%27%22%5C`

// startServers starts the servers. They and their files are gone when the test ends.
func startServers(t *testing.T) *postgresServers {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "imagetasks-tls-")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	s := &postgresServers{dir: dir, ports: map[string]string{"closed": closedPort(t)}}
	s.ports["silent"] = listen(t, func(net.Conn) {})
	s.ports["greedy"] = listen(t, func(c net.Conn) { _ = c.Close() })
	writeCertificates(t, dir)
	hba := map[string]string{
		"tls": "local all all trust\n" +
			"hostssl all trusted 127.0.0.1/32 trust\nhostnossl all trusted 127.0.0.1/32 reject\nhostssl all md5 127.0.0.1/32 md5\nhostssl all clear 127.0.0.1/32 password\n" +
			"hostssl all certified 127.0.0.1/32 cert\nhostnossl all unencrypted 127.0.0.1/32 scram-sha-256\n" +
			"hostssl all encrypted 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n",
		"plain": "local all all trust\nhost all trusted 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n",
	}
	settings := map[string]map[string]string{
		"tls": {"ssl": "on", "ssl_cert_file": quote(dir, "server.crt"), "ssl_key_file": quote(dir, "server.key"), "ssl_ca_file": quote(dir, "ca.crt")},
	}
	clusters := map[string]*postgres.Cluster{}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for name, lines := range hba {
		file := filepath.Join(dir, name+".hba")
		require.NoError(t, os.WriteFile(file, []byte(lines), 0o644))
		wg.Go(func() {
			cluster, port := startOnFreePort(t, settings[name], file)
			mu.Lock()
			defer mu.Unlock()
			if cluster != nil {
				clusters[name], s.ports[name] = cluster, port
			}
		})
	}
	wg.Wait()
	s.tls, s.plain = clusters["tls"], clusters["plain"]
	require.Len(t, clusters, 2)
	for name, cluster := range clusters {
		db, err := sql.Open("postgres", cluster.URL("postgres"))
		require.NoError(t, err)
		for _, role := range []string{"alice", "trusted", "clear", "certified", "unencrypted", "encrypted", "reader"} {
			_, err = db.Exec(fmt.Sprintf("create role %s login password '%s'", role, strings.ReplaceAll(password, "'", "''")))
			require.NoError(t, err)
		}
		_, err = db.Exec(`set password_encryption = 'md5'; create role md5 login password 'md5'; create role moved login password '` + name + `'`)
		require.NoError(t, err)
		_, err = db.Exec(`create database "my db/1"`)
		require.NoError(t, err)
		if name == "tls" {
			_, err = db.Exec("alter role reader set default_transaction_read_only = on")
			require.NoError(t, err)
		}
		require.NoError(t, db.Close())
	}
	return s
}

func quote(dir, file string) string { return "'" + filepath.Join(dir, file) + "'" }

// startOnFreePort starts a cluster on a port that was free a moment ago; another process may be faster, so it tries again.
func startOnFreePort(t *testing.T, settings map[string]string, hba string) (*postgres.Cluster, string) {
	var err error
	for range 3 {
		port := closedPort(t)
		conf := postgres.Config{Settings: map[string]string{"hba_file": "'" + hba + "'"}}
		maps.Copy(conf.Settings, settings)
		_, scanErr := fmt.Sscan(port, &conf.Port)
		assert.NoError(t, scanErr)
		var cluster *postgres.Cluster
		if cluster, err = postgres.Start(t.Context(), conf); err == nil {
			t.Cleanup(func() { assert.NoError(t, cluster.Stop()) })
			return cluster, port
		}
	}
	assert.NoError(t, err)
	return nil, ""
}

func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if !assert.NoError(t, err) {
		return "1"
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// listen accepts connections on a free port until the test ends, and returns the port.
func listen(t *testing.T, accepted func(net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var conns []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			conns = append(conns, c)
			accepted(c)
		}
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// writeCertificates writes an authority, a server certificate for localhost, a client certificate for the role certified,
// and another authority.
func writeCertificates(t *testing.T, dir string) {
	t.Helper()
	number := int64(0)
	issue := func(name string, template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		number++
		template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(number), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		if parent == nil {
			parent, parentKey = template, key
			template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
		require.NoError(t, err)
		keyDER, err := x509.MarshalPKCS8PrivateKey(key)
		require.NoError(t, err)
		for suffix, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name+suffix), pem.EncodeToMemory(block), 0o600))
		}
		require.NoError(t, os.Chmod(filepath.Join(dir, name+".crt"), 0o644))
		cert, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		return cert, key
	}
	ca, caKey := issue("ca", &x509.Certificate{Subject: pkix.Name{CommonName: "test authority"}}, nil, nil)
	issue("other", &x509.Certificate{Subject: pkix.Name{CommonName: "another authority"}}, nil, nil)
	issue("server", &x509.Certificate{Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"localhost"}}, ca, caKey)
	issue("certified", &x509.Certificate{Subject: pkix.Name{CommonName: "certified"}}, ca, caKey)
	cred, err := postgres.Unprivileged()
	require.NoError(t, err)
	if cred != nil {
		require.NoError(t, os.Chown(filepath.Join(dir, "server.key"), int(cred.Uid), int(cred.Gid)))
	}
}

// expand replaces the names of ports, directories and passwords in braces.
func (s *postgresServers) expand(text string) string {
	replace := []string{"{pw}", passwordInURL, "{dir}", s.dir, "{socket}", s.tls.SocketDir(),
		"{%socket}", strings.ReplaceAll(s.tls.SocketDir(), "/", "%2F")}
	for name, port := range s.ports {
		replace = append(replace, "{"+name+"}", "127.0.0.1:"+port, "{"+name+"port}", port)
	}
	return strings.NewReplacer(replace...).Replace(text)
}

// sessionFacts is what must be the same in the sessions of psql and of the store.
const sessionFacts = `select concat_ws('|', current_user, current_database(), current_setting('port'),
	(select ssl from pg_stat_ssl where pid = pg_backend_pid()), current_setting('search_path'), current_setting('work_mem'),
	current_setting('TimeZone'))`

// psql returns the facts of the session, or the error that psql prints.
func (s *postgresServers) psql(t *testing.T, text string, env []string) (string, error) {
	cmd := exec.CommandContext(t.Context(), "psql", "-X", "-w", "-A", "-t", "-c", sessionFacts, text)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}, env...)
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", errors.New(string(bytes.TrimSpace(exit.Stderr)))
	}
	return strings.TrimSpace(string(out)), err
}

// store returns the facts of the session, the warnings, and the error.
func (s *postgresServers) store(t *testing.T, text string, env []string) (facts string, warnings []string, err error) {
	st, err := store.Open(store.Config{
		URL: text,
		Env: func(name string) (string, bool) {
			i := slices.IndexFunc(env, func(line string) bool { return strings.HasPrefix(line, name+"=") })
			if i < 0 {
				return "", false
			}
			return env[i][len(name)+1:], true
		},
		Warn: func(message string) { warnings = append(warnings, message) },
	})
	if err != nil {
		return "", warnings, err
	}
	defer st.Close()
	err = st.DB().QueryRowContext(t.Context(), sessionFacts).Scan(&facts)
	if err == nil {
		// The LISTEN connection is opened in the same way.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		st.Listen(ctx, cancel, nil)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = errors.New("LISTEN failed")
		}
	}
	return facts, warnings, err
}

type connectCase struct {
	text string
	env  string // NAME=value, separated by spaces
	// psql is what psql is given instead of text, because it does not know the parameters in text or their form.
	psql string
	// fails is in the error of both.
	fails string
	// refused is in our error although psql connects.
	refused string
	// warns are names in the warning; a case without has no warning.
	warns string
}

var connectCases = []connectCase{
	// Forms.
	{text: "postgres://alice:{pw}@{tls}/postgres"},
	{text: "postgresql://alice:{pw}@{plain}/postgres"},
	{text: "postgresql+asyncpg://alice:{pw}@{plain}/postgres", psql: "postgresql://alice:{pw}@{plain}/postgres"},
	{text: "postgres+psycopg2://alice:{pw}@{tls}/postgres", psql: "postgresql://alice:{pw}@{tls}/postgres"},
	{text: "jdbc:postgresql://{tls}/postgres?user=alice&password={pw}&ssl=true", psql: "postgresql://{tls}/postgres?user=alice&password={pw}&ssl=true"},
	{text: " \t'postgres://alice:{pw}@{tls}/postgres'\n", psql: "postgres://alice:{pw}@{tls}/postgres"},
	{text: `"postgres://alice:{pw}@{tls}/postgres"`, psql: "postgres://alice:{pw}@{tls}/postgres"},
	{text: "psql 'postgres://alice:{pw}@{tls}/postgres'", psql: "postgres://alice:{pw}@{tls}/postgres"},
	{text: `host=127.0.0.1 port={tlsport} user=alice password='p ss/w@rd:#?&=%\'"\\' dbname=postgres`},
	{text: `host = 127.0.0.1  port={tlsport}   user=alice password=p\ ss/w@rd:#?&=%\'"\\ dbname='my db/1'`},
	{text: "postgres://alice:{pw}@{tls}/my%20db%2F1"},
	{text: "postgres://{tls}/postgres?user=alice&password={pw}"},
	{text: "postgres://127.0.0.1/postgres?user=alice&password={pw}&port={plainport}"},
	{text: "postgres://trusted@{tls}/postgres"},
	{text: "postgres://trusted@{tls}/"},
	{text: "postgres://trusted@{tls}", fails: `database "trusted" does not exist`},
	{text: "postgres://trusted@{tls}/nope", fails: `database "nope" does not exist`},
	{text: "postgres://trusted@{tls}/postgres?options=-c%20work_mem%3D5MB%20-c%20search_path%3Dx"},
	{text: "postgres://trusted@{tls}/postgres?options=-c%20nope%3D1", fails: "nope"},
	{text: "postgres://trusted@{tls}/postgres?application_name=mine&connect_timeout=5&fallback_application_name=other&client_encoding=UTF8"},
	{text: "postgres://trusted@{tls}/postgres?connect_timeout=soon", fails: "connect_timeout"},
	{text: "postgres://trusted@{tls}/postgres?client_encoding=LATIN1", warns: "client_encoding"},
	{text: "postgres://u@127.0.0.1:port/postgres", fails: "port"},
	{text: "postgres://u@127.0.0.1:99999/postgres", fails: "port"},
	{text: "postgres://u:h%er@{tls}/postgres", fails: "invalid"},
	{text: "host=127.0.0.1 port", fails: ""},

	// Parameters of others. psql refuses them, so it gets the URL without.
	{text: "postgres://trusted@{tls}/postgres?schema=public", psql: "postgres://trusted@{tls}/postgres", warns: "schema"},
	{text: "postgres://trusted@{tls}/postgres?pgbouncer=true&connection_limit=1&pool_timeout=0&sslmode=require",
		psql: "postgres://trusted@{tls}/postgres?sslmode=require", warns: "connection_limit, pgbouncer, pool_timeout"},
	{text: "postgres://trusted@{plain}/postgres?supa=base-pooler.x&sslmode=disable", psql: "postgres://trusted@{plain}/postgres?sslmode=disable", warns: "supa"},
	{text: "postgres://trusted@{tls}/postgres?pgbouncer&&pool_max_conns=3&", psql: "postgres://trusted@{tls}/postgres", warns: "pgbouncer, pool_max_conns"},
	{text: "host=127.0.0.1 port={tlsport} user=trusted dbname=postgres pool_max_conns=3", psql: "postgres://trusted@{tls}/postgres", warns: "pool_max_conns"},
	{text: "postgres://trusted@{tls}/postgres?search_path=x&work_mem=5MB&TimeZone=Asia/Tokyo",
		psql: "postgres://trusted@{tls}/postgres?options=-c%20work_mem%3D5MB%20-c%20search_path%3Dx%20-c%20TimeZone%3DAsia/Tokyo"},
	{text: "postgres://trusted@{tls}/postgres?prepareThreshold=0&ApplicationName=x&reWriteBatchedInserts=true", psql: "postgres://trusted@{tls}/postgres",
		warns: "prepareThreshold, reWriteBatchedInserts"},
	{text: "postgres://trusted@{plain}/postgres?sslMode=require", psql: "postgres://trusted@{plain}/postgres?sslmode=require", fails: "not support"},
	{text: "postgres://trusted@{plain}/postgres?ssl-mode=require", psql: "postgres://trusted@{plain}/postgres?sslmode=require", fails: "not support"},
	{text: "postgres://trusted@{plain}/postgres?ssl=require", psql: "postgres://trusted@{plain}/postgres?sslmode=require", fails: "not support"},
	{text: "postgres://trusted@{plain}/postgres?ssl=true", fails: "not support"},
	{text: "postgres://trusted@{tls}/postgres?sslmode=no-verify", psql: "postgres://trusted@{tls}/postgres?sslmode=require"},
	{text: "postgres://trusted@{tls}/postgres?sslaccept=strict", psql: "postgres://trusted@{tls}/postgres?sslmode=verify-full", fails: "certificate"},
	{text: "Host=127.0.0.1;Port=5432;Username=alice;Password=x;Database=postgres", psql: "host=", fails: ""},
	{text: "prisma+postgres://accelerate.prisma-data.net/?api_key=x", psql: "prisma+postgres://x", fails: ""},
	{text: "mysql://u:p@127.0.0.1/x", fails: ""},

	// Parameters of libpq that lib/pq lacks.
	{text: "postgres://trusted@{tls}/postgres?keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3&tcp_user_timeout=5000"},
	{text: "postgres://trusted@{tls}/postgres?keepalives=0"},
	{text: "postgres://trusted@{tls}/postgres?keepalives=x", fails: "keepalives"},
	{text: "postgres://trusted@{tls}/postgres?gssencmode=disable&sslcompression=0&sslsni=0&krbsrvname=x"},
	{text: "postgres://trusted@{tls}/postgres?gssencmode=prefer"},
	{text: "postgres://trusted@{tls}/postgres?gssencmode=require", fails: "GSSAPI"},
	{text: "postgres://trusted@{tls}/postgres?gssencmode=perhaps", fails: "gssencmode"},
	{text: "postgres://alice:{pw}@{tls}/postgres?sslmode=require&channel_binding=require"},
	{text: "postgres://alice:{pw}@{tls}/postgres?channel_binding=prefer"},
	{text: "postgres://alice:{pw}@{tls}/postgres?channel_binding=disable"},
	{text: "postgres://alice:{pw}@{tls}/postgres?channel_binding=perhaps", fails: "channel_binding"},
	{text: "postgres://alice:wrong@{tls}/postgres?channel_binding=require", fails: "password authentication failed"},
	{text: "postgres://alice:{pw}@{plain}/postgres?channel_binding=require", fails: "hannel"},
	{text: "postgres://alice:{pw}@{tls}/postgres?channel_binding=require&sslmode=disable", fails: "hannel"},
	{text: "postgres://md5:md5@{tls}/postgres?channel_binding=require", fails: "hannel"},
	{text: "postgres://trusted@{tls}/postgres?channel_binding=require", fails: "hannel"},
	{text: "postgres://trusted@{tls}/postgres?sslcrl={dir}/none.crl", refused: "sslcrl"},
	{text: "host={socket} port={tlsport} user=alice dbname=postgres requirepeer=postgres"},
	{text: "host={socket} port={tlsport} user=alice dbname=postgres requirepeer=nobody", fails: "requirepeer"},
	{text: "postgres://trusted@{tls}/postgres?ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.3"},
	{text: "postgres://trusted@{tls}/postgres?ssl_min_protocol_version=TLSv1.9", fails: "ssl_min_protocol_version"},
	// psql 15 does not know these.
	{text: "postgres://alice:{pw}@{tls}/postgres?require_auth=scram-sha-256&load_balance_hosts=random&gssdelegation=0",
		psql: "postgres://alice:{pw}@{tls}/postgres"},
	{text: "postgres://md5:md5@{tls}/postgres?require_auth=password,md5", psql: "postgres://md5:md5@{tls}/postgres"},
	{text: "postgres://alice:{pw}@{tls}/postgres?require_auth=!password,!md5,!none", psql: "postgres://alice:{pw}@{tls}/postgres"},
	{text: "postgres://clear:{pw}@{tls}/postgres?require_auth=scram-sha-256", psql: "postgres://clear:{pw}@{tls}/postgres", refused: `require_auth does not accept the authentication method "password"`},
	{text: "postgres://trusted@{tls}/postgres?require_auth=!none", psql: "postgres://trusted@{tls}/postgres", refused: `require_auth does not accept the authentication method "none"`},
	{text: "postgres://trusted@{tls}/postgres?require_auth=magic", psql: "postgres://trusted@{tls}/postgres", refused: "require_auth"},
	{text: "postgres://trusted@{tls}/postgres?sslmode=require&sslnegotiation=direct", psql: "postgres://trusted@{tls}/postgres?sslmode=require", refused: "TLS"}, // PostgreSQL 17

	// TLS.
	{text: "postgres://trusted@{tls}/postgres?sslmode=disable", fails: "pg_hba.conf rejects"},
	{text: "postgres://trusted@{tls}/postgres?sslmode=allow"},
	{text: "postgres://trusted@{tls}/postgres?sslmode=prefer"},
	{text: "postgres://trusted@{tls}/postgres?sslmode=require"},
	{text: "postgres://trusted@{tls}/postgres?sslmode=whatever", fails: "sslmode"},
	{text: "postgres://unencrypted:{pw}@{tls}/postgres"},
	{text: "postgres://unencrypted:{pw}@{tls}/postgres?sslmode=allow"},
	{text: "postgres://unencrypted:{pw}@{tls}/postgres?sslmode=require", fails: "no pg_hba.conf entry"},
	{text: "postgres://encrypted:{pw}@{tls}/postgres?sslmode=allow"},
	{text: "postgres://alice:{pw}@{plain}/postgres?sslmode=disable"},
	{text: "postgres://alice:{pw}@{plain}/postgres?sslmode=allow"},
	{text: "postgres://alice:{pw}@{plain}/postgres?sslmode=prefer"},
	{text: "postgres://alice:{pw}@{plain}/postgres?sslmode=require", fails: "not support"},
	{text: "postgres://alice:{pw}@{plain}/postgres?sslmode=verify-full", fails: ""},
	{text: "postgres://alice:{pw}@localhost:{tlsport}/postgres?sslmode=verify-full&sslrootcert={dir}/ca.crt"},
	{text: "postgres://alice:{pw}@{tls}/postgres?sslmode=verify-full&sslrootcert={dir}/ca.crt", fails: "127.0.0.1"},
	{text: "postgres://alice:{pw}@{tls}/postgres?sslmode=verify-ca&sslrootcert={dir}/ca.crt"},
	{text: "postgres://alice:{pw}@{tls}/postgres?sslmode=verify-ca&sslrootcert={dir}/other.crt", fails: "certificate"},
	{text: "postgres://alice:{pw}@{tls}/postgres?sslmode=require&sslrootcert={dir}/other.crt", fails: "certificate"},
	{text: "postgres://alice:{pw}@{tls}/postgres?sslmode=prefer&sslrootcert={dir}/other.crt"},
	{text: "postgres://alice:{pw}@{tls}/postgres?sslmode=require&sslrootcert={dir}/none.crt"},
	{text: "postgres://alice:{pw}@{tls}/postgres?sslmode=verify-ca&sslrootcert={dir}/none.crt", fails: "none.crt"},
	{text: "postgres://alice:{pw}@{tls}/postgres?sslmode=verify-full", fails: "certificate"},
	{text: "host=localhost hostaddr=127.0.0.1 port={tlsport} user=trusted dbname=postgres sslmode=verify-full sslrootcert={dir}/ca.crt"},
	{text: "hostaddr=127.0.0.1 port={tlsport} user=trusted dbname=postgres sslmode=verify-full sslrootcert={dir}/ca.crt", fails: "host"},
	{text: "postgres://certified@{tls}/postgres?sslcert={dir}/certified.crt&sslkey={dir}/certified.key"},
	{text: "postgres://certified@{tls}/postgres", fails: "certificate"},
	{text: "postgres://certified@{tls}/postgres?sslcert={dir}/certified.crt&sslkey={dir}/none.key&sslmode=require", fails: "key"},

	// Authentication.
	{text: "postgres://alice:wrong@{tls}/postgres", fails: "password authentication failed"},
	{text: "postgres://alice:wrong@{plain}/postgres", fails: "password authentication failed"},
	{text: "postgres://alice@{plain}/postgres", fails: "password"},
	{text: "postgres://nobody:x@{plain}/postgres", fails: "password authentication failed"},
	{text: "postgres://md5:md5@{tls}/postgres"},
	{text: "postgres://clear:{pw}@{tls}/postgres"},

	// Hosts.
	{text: "postgres://trusted@{closed},{tls}/postgres"},
	{text: "postgres://trusted@{tls},{closed}/postgres"},
	{text: "postgres://trusted@{closed},{closed}/postgres", fails: "refused"},
	{text: "postgres://trusted@{closed}/postgres", fails: "refused"},
	{text: "postgres://trusted@127.0.0.1,127.0.0.1/postgres?port={closedport},{tlsport}"},
	{text: "host=127.0.0.1,127.0.0.1 port={closedport},{plainport} user=trusted dbname=postgres"},
	{text: "host=127.0.0.1,127.0.0.1 port={plainport} user=trusted dbname=postgres"},
	{text: "host=127.0.0.1,127.0.0.1 port=1,2,3 user=trusted dbname=postgres", fails: "port"},
	{text: "host=a,b hostaddr=127.0.0.1 port=1 user=trusted dbname=postgres", fails: "host"},
	{text: "host=localhost hostaddr=here port=1 user=trusted dbname=postgres", fails: "addr"},
	{text: "postgres://trusted@[::1]:{closedport},{tls}/postgres"},
	{text: "postgres://trusted@[::1:{closedport}/postgres", fails: ""},
	{text: "postgres://moved:plain@{tls},{plain}/postgres", fails: "password authentication failed"},
	{text: "postgres://moved:tls@{tls},{plain}/postgres"},
	{text: "postgres://reader:{pw}@{tls},{plain}/postgres?target_session_attrs=read-write"},
	{text: "postgres://reader:{pw}@{tls},{plain}/postgres?target_session_attrs=read-only"},
	{text: "postgres://trusted@{tls},{plain}/postgres?target_session_attrs=primary"},
	{text: "postgres://trusted@{tls},{plain}/postgres?target_session_attrs=standby", fails: "standby"},
	{text: "postgres://trusted@{tls},{plain}/postgres?target_session_attrs=prefer-standby"},
	{text: "postgres://trusted@{tls}/postgres?target_session_attrs=mine", fails: "target_session_attrs"},
	{text: "postgres://trusted@nowhere.invalid/postgres", fails: "nowhere.invalid"},
	{text: "postgres://trusted@{silent},{tls}/postgres?connect_timeout=1"},
	{text: "postgres://trusted@{greedy}/postgres", fails: ""},

	// Sockets.
	{text: "postgres://alice@/postgres?host={socket}&port={tlsport}"},
	{text: "postgres://alice@{%socket}:{tlsport}/postgres"},
	{text: "host={socket} port={tlsport} user=alice dbname=postgres sslmode=require"},
	{text: "host={socket} port={tlsport} user=alice dbname=postgres sslmode=require channel_binding=require", fails: "hannel"},
	{text: "postgres:///postgres?host={dir}&port={tlsport}&user=alice", fails: "o such file"},
	{text: "host={closedport}.invalid,{socket} port={tlsport} user=alice dbname=postgres"},

	// Environment.
	{text: "postgres:///", env: "PGHOST=127.0.0.1 PGPORT={tlsport} PGUSER=md5 PGPASSWORD=md5 PGDATABASE=postgres PGSSLMODE=require"},
	{text: "postgres://trusted@{tls}/postgres", env: "PGHOST=nowhere.invalid PGPORT=1 PGUSER=x PGPASSWORD=x PGDATABASE=x"},
	{text: "postgres://trusted@{tls}/postgres", env: "PGSSLMODE=disable", fails: "pg_hba.conf rejects"},
	{text: "postgres://trusted@{tls}/postgres?sslmode=require", env: "PGSSLMODE=disable"},
	{text: "postgres://trusted@{tls}/postgres", env: "PGSSLMODE=whatever", fails: ""},
	{text: "postgres://trusted@{tls}/postgres", env: "PGGSSENCMODE=disable PGCHANNELBINDING=prefer PGSSLCOMPRESSION=0 PGREALM=x PGGSSLIB=gssapi PGREQUIREPEER=postgres"},
	{text: "postgres://trusted@{tls}/postgres", env: "PGGSSENCMODE=require", fails: "GSS"},
	{text: "postgres://trusted@{tls}/postgres", env: "PGCHANNELBINDING=require", fails: "hannel"},
	{text: "postgres://trusted@{plain}/postgres", env: "PGREQUIRESSL=1", fails: "not support"},
	{text: "postgres://trusted@{tls}/postgres", env: "PGAPPNAME=mine PGCONNECT_TIMEOUT=3 PGTZ=Asia/Tokyo PGGEQO=off PGCLIENTENCODING=LATIN1 PGDATESTYLE=German PGTARGETSESSIONATTRS=any"},
	{text: "postgres://trusted@{tls}/postgres", env: "PGOPTIONS=-cwork_mem=7MB"},
	{text: "postgres://alice@{tls}/postgres", env: "PGPASSFILE={dir}/passfile"},
	{text: "postgres://alice@{tls}/postgres", env: "PGPASSFILE={dir}/ca.crt", fails: "password", warns: "ca.crt"},
	{text: "postgres://alice@{tls}/postgres", env: "HOME={dir}/home"},
	{text: "postgres://alice@{tls}/postgres?channel_binding=require", env: "HOME={dir}/home"},
	{text: "postgres://alice@{tls}/postgres?passfile={dir}/passfile"},
	{text: "postgres://trusted@{tls}/?service=test", env: "PGSERVICEFILE={dir}/service.conf"},
	{text: "postgres:///postgres", env: "PGSERVICEFILE={dir}/service.conf PGSERVICE=test PGUSER=nobody"},
	{text: "service=test", env: "PGSYSCONFDIR={dir}/home"},
	{text: "service=none", env: "PGSERVICEFILE={dir}/service.conf", fails: "service"},
	{text: "service=odd", env: "PGSERVICEFILE={dir}/service.conf", fails: "service"},
}

func TestConnector_LikePsql(t *testing.T) {
	s := startServers(t)
	require.NoError(t, os.Mkdir(filepath.Join(s.dir, "home"), 0o755))
	escaped := strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(password)
	passfile := "# comment\nother:*:*:*:wrong\n127.0.0.1:*:postgres:alice:" + escaped + "\n"
	service := "[other]\nhost=nowhere\n[test]\n# comment\nhost=127.0.0.1\nport=" + s.ports["tls"] + "\nuser=trusted\ndbname=postgres\n[odd]\ncolour=blue\n"
	for name, text := range map[string]string{"passfile": passfile, "home/.pgpass": passfile, "service.conf": service, "home/pg_service.conf": service} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
	}
	t.Run("cancel", s.testCancel)
	t.Run("abort", s.testAbort)
	t.Run("silence", func(t *testing.T) { checkSilence(t, s.expand("postgres://trusted@{tls}/postgres?sslmode=require")) })
	t.Run("cases", func(t *testing.T) {
		for _, c := range connectCases {
			t.Run(c.text+" "+c.env, func(t *testing.T) {
				t.Parallel()
				s.compare(t, c)
			})
		}
	})
}

func (s *postgresServers) compare(t *testing.T, c connectCase) {
	text, env := s.expand(c.text), []string{"HOME=" + s.dir}
	if strings.HasPrefix(c.env, "HOME=") {
		env = nil
	}
	for name := range strings.FieldsSeq(c.env) {
		env = append(env, s.expand(name))
	}
	theirText := text
	if c.psql != "" {
		theirText = s.expand(c.psql)
	}
	theirs, theirErr := s.psql(t, theirText, env)
	ours, warnings, ourErr := s.store(t, text, env)
	if ourErr != nil {
		assert.NotContains(t, ourErr.Error(), password)
		assert.NotContains(t, ourErr.Error(), passwordInURL)
	}
	switch {
	case c.refused != "":
		require.NoError(t, theirErr)
		require.ErrorContains(t, ourErr, c.refused)
	case theirErr != nil:
		require.Error(t, ourErr, "psql: %v", theirErr)
		assert.ErrorContains(t, theirErr, c.fails, "psql")
		assert.ErrorContains(t, ourErr, c.fails)
	default:
		require.NoError(t, ourErr)
		assert.Equal(t, theirs, ours)
	}
	if c.warns == "" {
		assert.Empty(t, warnings)
	} else if assert.Len(t, warnings, 1) {
		assert.Contains(t, warnings[0], c.warns)
	}
}

// A statement is cancelled over a connection that is encrypted in the same way.
func (s *postgresServers) testCancel(t *testing.T) {
	st, err := store.Open(store.Config{URL: s.expand("postgres://alice:{pw}@{tls}/postgres?channel_binding=require")})
	require.NoError(t, err)
	defer st.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // connecting is part of it
	defer cancel()
	_, err = st.DB().ExecContext(ctx, "select pg_sleep(60)")
	assert.ErrorContains(t, err, "canceling statement")
}

func (s *postgresServers) testAbort(t *testing.T) {
	st, err := store.Open(store.Config{URL: s.expand("postgres://trusted@{tls}/postgres?sslmode=require")})
	require.NoError(t, err)
	defer st.Close()
	running := make(chan struct{})
	ended := make(chan error, 1)
	conn, err := st.DB().Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	go func() {
		close(running)
		_, err := conn.ExecContext(context.WithoutCancel(t.Context()), "select pg_sleep(60)")
		ended <- err
	}()
	<-running
	st.Abort()
	assert.Error(t, <-ended)
	assert.ErrorIs(t, st.Ping(t.Context()), net.ErrClosed)
}

// lib/pq fails on these variables, and on wrong values of others. The Store passes it no environment.
func TestConnector_ProcessEnvironmentIsNotRead(t *testing.T) {
	url := server.Database(t)
	for _, line := range []string{"PGREALM=x", "PGGSSENCMODE=disable", "PGGSSDELEGATION=0", "PGGSSLIB=gssapi", "PGREQUIREAUTH=none", "PGCHANNELBINDING=prefer",
		"PGSSLCERTMODE=allow", "PGSSLCRL=x", "PGSSLCRLDIR=x", "PGREQUIREPEER=x", "PGREQUIRESSL=1", "PGSSLCOMPRESSION=0", "PGKRBSRVNAME=x",
		"PGSSLMODE=whatever", "PGPORT=x", "PGSERVICE=none", "PGCLIENTENCODING=LATIN1"} {
		name, value, _ := strings.Cut(line, "=")
		t.Setenv(name, value)
	}
	st, err := store.Open(store.Config{URL: url})
	require.NoError(t, err)
	defer st.Close()
	require.NoError(t, st.Ping(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	st.Listen(ctx, cancel, nil)
	assert.ErrorIs(t, ctx.Err(), context.Canceled)
}
