package pgdial

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/pgurl"
)

// serverError is an error that a server sent.
type serverError struct{ state string }

func (e serverError) Error() string    { return "server error " + e.state }
func (e serverError) SQLState() string { return e.state }

// opened calls Open with a server that gives the errors in this order, and returns the attempts.
func opened(t *testing.T, conf pgurl.Config, encrypted bool, results ...error) (attempts []string, err error) {
	t.Helper()
	names := map[encryption]string{plain: "plain", available: "available", required: "required"}
	err = Open(t.Context(), conf, nil, func(_ context.Context, a *Attempt) (bool, error) {
		attempts = append(attempts, a.Host.Name+" "+names[a.encryption]+" "+a.TargetSessionAttrs)
		result := results[0]
		results = results[1:]
		return encrypted, result
	})
	require.Empty(t, results)
	return attempts, err
}

func TestOpen_Attempts(t *testing.T) {
	refused, starting, down := serverError{"28P01"}, serverError{cannotConnectNow}, errors.New("connection refused")
	handshake := &handshakeError{errors.New("certificate")}
	for name, c := range map[string]struct {
		mode, target string
		encrypted    bool
		results      []error
		want         []string
		err          string
	}{
		"first host":             {"disable", "any", false, []error{nil}, []string{"a plain any"}, ""},
		"unreachable":            {"require", "any", true, []error{down, nil}, []string{"a required any", "b required any"}, ""},
		"starting":               {"prefer", "any", true, []error{starting, nil}, []string{"a available any", "b available any"}, ""},
		"login refused":          {"require", "any", true, []error{refused}, []string{"a required any"}, "a:1: server error 28P01"},
		"prefer, refused":        {"prefer", "any", true, []error{refused, nil}, []string{"a available any", "a plain any"}, ""},
		"prefer, refused plain":  {"prefer", "any", false, []error{refused}, []string{"a available any"}, "28P01"},
		"prefer, handshake":      {"prefer", "any", false, []error{handshake, nil}, []string{"a available any", "a plain any"}, ""},
		"prefer, both fail":      {"prefer", "any", false, []error{handshake, refused}, []string{"a available any", "a plain any"}, "certificate; then without TLS: server error"},
		"verify-full, handshake": {"verify-full", "any", false, []error{handshake, handshake}, []string{"a required any", "b required any"}, "certificate; b:2"},
		"allow, refused":         {"allow", "any", false, []error{refused, nil}, []string{"a plain any", "a required any"}, ""},
		"allow, no TLS":          {"allow", "any", false, []error{refused, errNoTLS}, []string{"a plain any", "a required any"}, "28P01"},
		"allow, unreachable":     {"allow", "any", false, []error{down, nil}, []string{"a plain any", "b plain any"}, ""},
		"prefer-standby": {"disable", "prefer-standby", false, []error{down, down, nil},
			[]string{"a plain standby", "b plain standby", "a plain any"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			conf := pgurl.Config{Hosts: []pgurl.Host{{Name: "a", Port: 1}, {Name: "b", Port: 2}}, TLS: pgurl.TLS{Mode: c.mode}, TargetSessionAttrs: c.target}
			attempts, err := opened(t, conf, c.encrypted, c.results...)
			assert.Equal(t, c.want, attempts)
			if c.err == "" {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, c.err)
				assert.ErrorIs(t, err, c.results[0])
			}
		})
	}
}

func TestOpen_RandomHosts(t *testing.T) {
	conf := pgurl.Config{RandomHosts: true, TLS: pgurl.TLS{Mode: "disable"}, Hosts: []pgurl.Host{{Name: "a"}, {Name: "b"}}}
	var first []string
	for range 64 {
		attempts, err := opened(t, conf, false, nil)
		require.NoError(t, err)
		first = append(first, attempts[0])
	}
	slices.Sort(first)
	assert.Len(t, slices.Compact(first), 2)
}

func TestOpen_ConnectTimeout(t *testing.T) {
	conf := pgurl.Config{Hosts: []pgurl.Host{{Name: "a"}}, TLS: pgurl.TLS{Mode: "prefer"}, ConnectTimeout: time.Millisecond}
	err := Open(t.Context(), conf, nil, func(ctx context.Context, _ *Attempt) (bool, error) {
		<-ctx.Done()
		return false, net.ErrClosed
	})
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "connect_timeout of 1ms")
	ctx, cancel := context.WithCancel(t.Context())
	err = Open(ctx, conf, nil, func(context.Context, *Attempt) (bool, error) { cancel(); return false, net.ErrClosed })
	assert.ErrorIs(t, err, context.Canceled)
}

// dialed calls Dial with a server that does what serve does.
func dialed(t *testing.T, a Attempt, serve func(net.Conn)) (*Conn, error) {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(server)
	}()
	t.Cleanup(func() { _ = client.Close(); _ = server.Close(); <-done })
	a.dial = func(context.Context, string, string) (net.Conn, error) { return client, nil }
	return a.Dial(t.Context())
}

func TestDial_RequestForTLS(t *testing.T) {
	for response, want := range map[string]string{
		"N":     "the server does not support TLS, and sslmode=require demands it",
		"E":     "the server answered the request for TLS with an error",
		"SEVIL": "TLS with sslmode=require", // what follows the S is not taken for the server's
	} {
		_, err := dialed(t, Attempt{encryption: required, conf: pgurl.Config{TLS: pgurl.TLS{Mode: "require"}}}, func(c net.Conn) {
			request := make([]byte, len(sslRequest))
			if _, err := io.ReadFull(c, request); err == nil && assert.Equal(t, sslRequest, request) {
				go func() { _, _ = io.Copy(io.Discard, c) }()
				_, _ = c.Write([]byte(response))
			}
			_ = c.Close()
		})
		assert.ErrorContains(t, err, want)
	}
	c, err := dialed(t, Attempt{encryption: available}, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, len(sslRequest)))
		_, _ = c.Write([]byte("N"))
	})
	require.NoError(t, err)
	assert.False(t, c.Encrypted)
}

func TestDial_EndOfContext(t *testing.T) {
	client, server := net.Pipe()
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	a := Attempt{encryption: required, dial: func(context.Context, string, string) (net.Conn, error) { return client, nil }}
	go func() {
		_, _ = io.ReadFull(server, make([]byte, len(sslRequest)))
		cancel() // instead of a response
	}()
	_, err := a.Dial(ctx)
	assert.ErrorIs(t, err, context.Canceled)
}

// message returns a message of the server.
func message(kind byte, body string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4)), body...)
}

func authRequest(code uint32, data string) []byte {
	return message('R', string(binary.BigEndian.AppendUint32(nil, code))+data)
}

func TestConn_RequireAuth(t *testing.T) {
	for name, c := range map[string]struct {
		accepted []string
		messages [][]byte
		err      string
	}{
		"accepted":            {[]string{"md5"}, [][]byte{authRequest(authMD5, "salt"), authRequest(authOK, ""), message('Z', "I")}, ""},
		"other":               {[]string{"scram-sha-256"}, [][]byte{authRequest(authPassword, "")}, `"password"`},
		"none not accepted":   {[]string{"md5"}, [][]byte{authRequest(authOK, "")}, `"none"`},
		"none accepted":       {[]string{"none"}, [][]byte{authRequest(authOK, ""), authRequest(authPassword, "")}, ""},
		"none, but requested": {[]string{"none"}, [][]byte{message('v', "\x00\x03\x00\x00\x00\x00\x00\x00"), authRequest(authSASL, "SCRAM-SHA-256\x00\x00")}, `"scram-sha-256"`},
		"error":               {[]string{"md5"}, [][]byte{message('E', "SFATAL\x00\x00")}, ""},
		"invalid":             {[]string{"md5"}, [][]byte{[]byte("Ecould not fork")}, "invalid message"},
		"short":               {[]string{"md5"}, [][]byte{message('R', "\x00")}, "invalid message"},
	} {
		t.Run(name, func(t *testing.T) {
			sent := slices.Concat(c.messages...)
			conn, err := dialed(t, Attempt{conf: pgurl.Config{RequireAuth: c.accepted}}, func(c net.Conn) {
				_, _ = c.Write(sent)
				_ = c.Close()
			})
			require.NoError(t, err)
			received, err := io.ReadAll(bufio.NewReaderSize(conn, 16))
			if c.err == "" {
				require.NoError(t, err)
				assert.Equal(t, sent, received)
			} else {
				assert.ErrorContains(t, err, c.err)
			}
		})
	}
}

func TestScramClient_RFC7677(t *testing.T) {
	// The example of the RFC has a user name and no channel binding; the computation is the same.
	s := &scramClient{password: "pencil", nonce: "rOprNGfwEbeRWgbNEkqO", binding: []byte("hash")}
	challenge := "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	final, err := s.final(challenge)
	require.NoError(t, err)
	assert.Equal(t, "p=tls-server-end-point,,n=,r=rOprNGfwEbeRWgbNEkqO", s.first())
	assert.True(t, strings.HasPrefix(final, "c="+base64.StdEncoding.EncodeToString([]byte("p=tls-server-end-point,,hash"))+
		",r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p="))
	s.authMessage = "n=user,r=rOprNGfwEbeRWgbNEkqO," + challenge + ",c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	assert.NoError(t, s.verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="))
	assert.ErrorContains(t, s.verify("v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), "does not know the password")
	for _, invalid := range []string{"", "r=other,s=W22Z,i=1", "r=rOprNGfwEbeRWgbNEkqO,s=W22Z,i=1", strings.Replace(challenge, "4096", "0", 1),
		strings.Replace(challenge, "4096", "99999999999", 1), strings.Replace(challenge, "W22Z", "!", 1)} {
		_, err := s.final(invalid)
		assert.ErrorContains(t, err, "invalid", invalid)
	}
}

// certificate returns a self-signed certificate.
func certificate(t *testing.T, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

func TestVerifyName_CommonName(t *testing.T) {
	for name, c := range map[string]struct {
		template x509.Certificate
		host     string
		ok       bool
	}{
		"common name":          {x509.Certificate{Subject: pkix.Name{CommonName: "db.test"}}, "db.test", true},
		"wildcard":             {x509.Certificate{Subject: pkix.Name{CommonName: "*.test"}}, "db.test", true},
		"address":              {x509.Certificate{Subject: pkix.Name{CommonName: "10.0.0.1"}}, "10.0.0.1", true},
		"other common name":    {x509.Certificate{Subject: pkix.Name{CommonName: "db.test"}}, "other.test", false},
		"alternative name":     {x509.Certificate{Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{"db.test"}}, "db.test", true},
		"common name not used": {x509.Certificate{Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{"db.test"}}, "x", false},
		"no name":              {x509.Certificate{}, "db.test", false},
	} {
		cert := certificate(t, &c.template)
		roots := x509.NewCertPool()
		roots.AddCert(cert)
		err := verifyCert([]*x509.Certificate{cert}, roots, c.host, true)
		assert.Equal(t, c.ok, err == nil, "%s: %v", name, err)
	}
}

func TestPassword_Passfile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pgpass")
	require.NoError(t, os.WriteFile(file, []byte("# h:1:d:u:comment\nh:2:d:u:other port\nh:1:d:u:a\\:b\\\\:c\r\nlocalhost:*:*:*:socket\n*:*:*:v:any\nshort:1\n"), 0o600))
	for _, c := range []struct {
		host pgurl.Host
		user string
		want string
	}{
		{pgurl.Host{Name: "h", Port: 1}, "u", `a:b\`},
		{pgurl.Host{Name: "h", Port: 2}, "u", "other port"},
		{pgurl.Host{Name: "h", Port: 3}, "u", ""},
		{pgurl.Host{Name: "h", Port: 3}, "v", "any"},
		{pgurl.Host{Port: 9}, "u", "socket"},
		{pgurl.Host{Name: "/tmp", Port: 9}, "u", "socket"},
	} {
		assert.Equal(t, c.want, password(pgurl.Config{User: c.user, Database: "d", Passfile: file}, c.host))
	}
	assert.Equal(t, "given", password(pgurl.Config{Password: "given", Passfile: file}, pgurl.Host{Name: "h", Port: 1}))
	require.NoError(t, os.Chmod(file, 0o640))
	assert.Empty(t, password(pgurl.Config{User: "v", Database: "d", Passfile: file}, pgurl.Host{Name: "h", Port: 1}))
}

// listening runs Listen against a server that does what serve does, and returns the number of calls of wake.
func listening(t *testing.T, ping, timeout time.Duration, serve func(*bufio.Reader, net.Conn)) (woken int, err error) {
	t.Helper()
	conn, err := dialed(t, Attempt{}, func(c net.Conn) { serve(bufio.NewReader(c), c); _ = c.Close() })
	require.NoError(t, err)
	err = conn.Listen(t.Context(), `a"b`, Ping{After: ping, Timeout: timeout}, func() { woken++ })
	return woken, err
}

// query reads a query of the client.
func query(r *bufio.Reader) string {
	header := make([]byte, 5)
	if _, err := io.ReadFull(r, header); err != nil {
		return err.Error()
	}
	body := make([]byte, binary.BigEndian.Uint32(header[1:])-4)
	if _, err := io.ReadFull(r, body); err != nil {
		return err.Error()
	}
	return strings.TrimSuffix(string(body), "\x00")
}

func TestListen_PingsAndWakes(t *testing.T) {
	woken, err := listening(t, 5*time.Millisecond, time.Minute, func(r *bufio.Reader, c net.Conn) {
		assert.Equal(t, `listen "a""b"`, query(r))
		ready := message('Z', "I")
		_, _ = c.Write(slices.Concat(message('C', "LISTEN\x00"), ready))
		assert.Empty(t, query(r), "a ping")
		_, _ = c.Write(slices.Concat(message('I', ""), ready, message('A', "\x00\x00\x00\x01a\x00\x00"), message('N', "\x00")))
		assert.Empty(t, query(r), "another ping")
		_, _ = c.Write(message('E', "SFATAL\x00C57P01\x00Mterminating connection\x00\x00"))
	})
	assert.Equal(t, 2, woken)
	assert.ErrorContains(t, err, "terminating connection")
}

func TestListen_Refused(t *testing.T) {
	woken, err := listening(t, time.Minute, time.Minute, func(r *bufio.Reader, c net.Conn) {
		query(r)
		_, _ = c.Write(message('E', "Mno LISTEN here\x00\x00"))
	})
	assert.Zero(t, woken)
	assert.ErrorContains(t, err, "no LISTEN here")
	_, err = listening(t, time.Minute, time.Minute, func(r *bufio.Reader, c net.Conn) {
		query(r)
		_, _ = c.Write([]byte("Z\xff\xff\xff\xff"))
	})
	assert.ErrorContains(t, err, "invalid message")
	_, err = listening(t, time.Minute, time.Minute, func(*bufio.Reader, net.Conn) {})
	assert.Error(t, err)
}

func TestListen_Silence(t *testing.T) {
	proceed := make(chan struct{})
	for name, respond := range map[string]bool{"to LISTEN": false, "to a ping": true} {
		t.Run(name, func(t *testing.T) {
			woken, err := listening(t, time.Millisecond, 20*time.Millisecond, func(r *bufio.Reader, c net.Conn) {
				query(r)
				if respond {
					_, _ = c.Write(slices.Concat(message('C', "LISTEN\x00"), message('Z', "I")))
					query(r)
				}
				<-proceed
			})
			assert.Equal(t, respond, woken == 1)
			assert.ErrorContains(t, err, "the database did not respond for 20ms")
			proceed <- struct{}{}
		})
	}
}
