package pgdial

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"

	"imagetasks/pkg/pgurl"
)

// authCheck reads the server's messages before the driver does, until the session is authenticated. It refuses
// authentication requests that require_auth does not accept. With channel_binding=require it does the authentication
// itself, because the driver does not know SCRAM-SHA-256-PLUS: the driver then sees an authenticated session at once.
type authCheck struct {
	conn     net.Conn
	conf     pgurl.Config
	password string

	unread    []byte // of a message that was checked
	requested bool   // the server has requested an authentication
	bound     bool   // SCRAM-SHA-256-PLUS has succeeded
	done      bool
}

// Codes of an authentication request.
const (
	authOK       = 0
	authPassword = 3
	authMD5      = 5
	authGSS      = 7
	authSSPI     = 9
	authSASL     = 10
	authSASLCont = 11
	authSASLEnd  = 12
)

var methodNames = map[uint32]string{authPassword: "password", authMD5: "md5", authGSS: "gss", authSSPI: "sspi",
	authSASL: "scram-sha-256"}

func (a *authCheck) read(p []byte) (int, error) {
	if len(a.unread) == 0 {
		if a.done {
			return a.conn.Read(p)
		}
		if err := a.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, a.unread)
	a.unread = a.unread[n:]
	return n, nil
}

// next reads a message and checks it.
func (a *authCheck) next() error {
	kind, message, err := a.message()
	if err != nil {
		return err
	}
	if kind == 'R' {
		code := binary.BigEndian.Uint32(message[5:])
		if err := a.check(code); err != nil {
			return err
		}
		if code == authSASL && a.conf.ChannelBinding {
			if !slices.Contains(strings.Split(string(message[9:]), "\x00"), plusMechanism) {
				return errors.New("channel_binding=require: the server does not offer authentication with channel binding")
			}
			return a.scram()
		}
		a.done = code == authOK
	}
	a.unread = message
	return nil
}

// maxMessage bounds a message of the server before the session starts, as in libpq.
const maxMessage = 30000

// message reads a message: its kind, and all of it. Authentication requests have a code.
func (a *authCheck) message() (kind byte, message []byte, err error) {
	header := make([]byte, 5)
	if _, err := io.ReadFull(a.conn, header); err != nil {
		return 0, nil, err
	}
	size := int(binary.BigEndian.Uint32(header[1:])) - 4
	if size < 0 || size > maxMessage || header[0] == 'R' && size < 4 {
		return 0, nil, errors.New("the server sent an invalid message; it may be unable to start a session")
	}
	message = append(header, make([]byte, size)...)
	_, err = io.ReadFull(a.conn, message[5:])
	return header[0], message, err
}

func (a *authCheck) check(code uint32) error {
	method, isRequest := methodNames[code]
	if code == authOK && !a.requested {
		method, isRequest = "none", true
	}
	a.requested = a.requested || isRequest
	if isRequest && a.conf.RequireAuth != nil && !slices.Contains(a.conf.RequireAuth, method) {
		return fmt.Errorf("require_auth does not accept the authentication method %q that the server uses", method)
	}
	if a.conf.ChannelBinding && (isRequest && code != authSASL || code == authOK && !a.bound) {
		return fmt.Errorf("channel_binding=require: the server uses the authentication method %q, which has no channel binding", method)
	}
	return nil
}

const plusMechanism = "SCRAM-SHA-256-PLUS"

// scram authenticates with SCRAM-SHA-256-PLUS (RFC 5802, 7677, 5929). If the server refuses, its error is left for the
// driver.
func (a *authCheck) scram() error {
	conn, ok := a.conn.(*tls.Conn)
	if !ok {
		return errors.New("channel_binding=require demands TLS")
	}
	binding, err := endPoint(conn.ConnectionState())
	if err != nil {
		return err
	}
	nonce := make([]byte, 18)
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	s := &scramClient{password: a.password, binding: binding, nonce: base64.StdEncoding.EncodeToString(nonce)}
	first := s.first()
	initial := binary.BigEndian.AppendUint32(append([]byte(plusMechanism), 0), uint32(len(first)))
	challenge, err := a.exchange(append(initial, first...), authSASLCont)
	if err != nil || challenge == nil {
		return err
	}
	final, err := s.final(string(challenge))
	if err != nil {
		return err
	}
	end, err := a.exchange([]byte(final), authSASLEnd)
	if err != nil || end == nil {
		return err
	}
	if err := s.verify(string(end)); err != nil {
		return err
	}
	a.bound = true
	return a.next()
}

// exchange sends a message of the SASL exchange and returns the data of the response. It returns nil after leaving an error
// of the server for the driver.
func (a *authCheck) exchange(data []byte, want uint32) ([]byte, error) {
	message := binary.BigEndian.AppendUint32([]byte{'p'}, uint32(len(data)+4))
	if _, err := a.conn.Write(append(message, data...)); err != nil {
		return nil, err
	}
	kind, response, err := a.message()
	switch {
	case err != nil:
		return nil, err
	case kind == 'E':
		a.unread = response
		return nil, nil
	case kind != 'R' || binary.BigEndian.Uint32(response[5:]) != want:
		return nil, errors.New("SCRAM: the server sent an unexpected message")
	}
	return response[9:], nil
}

// endPoint returns the data of the channel binding tls-server-end-point: the hash of the server's certificate, by the hash
// function of its signature, or SHA-256 instead of MD5 and SHA-1.
func endPoint(state tls.ConnectionState) ([]byte, error) {
	if len(state.PeerCertificates) == 0 {
		return nil, errors.New("channel_binding=require: the server sent no certificate")
	}
	cert := state.PeerCertificates[0]
	switch cert.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256:
		sum := sha256.Sum256(cert.Raw)
		return sum[:], nil
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		sum := sha512.Sum384(cert.Raw)
		return sum[:], nil
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		sum := sha512.Sum512(cert.Raw)
		return sum[:], nil
	}
	return nil, fmt.Errorf("channel_binding=require: not defined for a certificate with the signature %v", cert.SignatureAlgorithm)
}

// scramClient is the client's side of SCRAM-SHA-256-PLUS. The user is that of the session, so its name here is empty, as
// with libpq.
type scramClient struct {
	password, nonce string
	binding         []byte

	authMessage string
	salted      []byte
}

// maxRounds bounds the time that a server can make the client compute; PostgreSQL's default is 4096.
const maxRounds = 10_000_000

const gs2Header = "p=tls-server-end-point,,"

func (s *scramClient) bare() string  { return "n=,r=" + s.nonce }
func (s *scramClient) first() string { return gs2Header + s.bare() }

func (s *scramClient) final(challenge string) (string, error) {
	fields := scramFields(challenge)
	salt, err := base64.StdEncoding.DecodeString(fields["s"])
	rounds, err2 := strconv.Atoi(fields["i"])
	if err != nil || err2 != nil || rounds < 1 || rounds > maxRounds || len(salt) == 0 || len(fields["r"]) <= len(s.nonce) || !strings.HasPrefix(fields["r"], s.nonce) {
		return "", errors.New("SCRAM: the server's challenge is invalid")
	}
	if s.salted, err = pbkdf2.Key(sha256.New, s.password, salt, rounds, sha256.Size); err != nil {
		return "", err
	}
	unproven := "c=" + base64.StdEncoding.EncodeToString(append([]byte(gs2Header), s.binding...)) + ",r=" + fields["r"]
	s.authMessage = s.bare() + "," + challenge + "," + unproven
	clientKey := mac(s.salted, "Client Key")
	storedKey := sha256.Sum256(clientKey)
	proof := mac(storedKey[:], s.authMessage)
	subtle.XORBytes(proof, proof, clientKey)
	return unproven + ",p=" + base64.StdEncoding.EncodeToString(proof), nil
}

// verify checks that the server knows the password, too.
func (s *scramClient) verify(end string) error {
	signature, err := base64.StdEncoding.DecodeString(scramFields(end)["v"])
	if err != nil || !hmac.Equal(signature, mac(mac(s.salted, "Server Key"), s.authMessage)) {
		return errors.New("SCRAM: the server's proof is invalid: it does not know the password")
	}
	return nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func scramFields(text string) map[string]string {
	fields := map[string]string{}
	for field := range strings.SplitSeq(text, ",") {
		if name, value, ok := strings.Cut(field, "="); ok {
			fields[name] = value
		}
	}
	return fields
}
