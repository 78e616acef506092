package pgdial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"

	"imagetasks/pkg/pgurl"
)

// handshake starts TLS on a connection to the host and verifies the certificate as the mode demands.
func handshake(ctx context.Context, raw net.Conn, conf pgurl.TLS, host string) (*tls.Conn, error) {
	roots, verify, err := rootCerts(conf)
	if err != nil {
		return nil, err
	}
	if conf.Mode == "verify-full" && host == "" {
		return nil, errors.New("it needs the parameter host, to compare it with the certificate")
	}
	sent := false
	t := &tls.Config{
		MinVersion: conf.MinVersion,
		MaxVersion: conf.MaxVersion,
		// crypto/tls either verifies everything or nothing. VerifyConnection does what the mode demands.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if !verify {
				return nil
			}
			return verifyCert(state.PeerCertificates, roots, host, conf.Mode == "verify-full")
		},
	}
	if !conf.NoSNI && net.ParseIP(host) == nil {
		t.ServerName = host
	}
	if conf.Direct {
		t.NextProtos = []string{"postgresql"} // the server refuses a direct start without it
	}
	cert, err := clientCert(conf)
	if err != nil {
		return nil, err
	}
	// Unlike Certificates, this sends the certificate whatever authorities the server names.
	t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if cert == nil {
			return &tls.Certificate{}, nil
		}
		sent = true
		return cert, nil
	}
	c := tls.Client(raw, t)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if conf.Direct && c.ConnectionState().NegotiatedProtocol != "postgresql" {
		return nil, errors.New("the server does not support sslnegotiation=direct")
	}
	if conf.CertMode == "require" && !sent {
		return nil, errors.New("sslcertmode=require demands that a client certificate is sent, and none is available or requested")
	}
	return c, nil
}

// rootCerts returns the authorities, and whether the certificate is verified. As with libpq, the weaker modes verify it too
// if a file of authorities exists. Without one, verify-ca and verify-full use the system's.
func rootCerts(conf pgurl.TLS) (roots *x509.CertPool, verify bool, err error) {
	strict := strings.HasPrefix(conf.Mode, "verify-")
	text := []byte(conf.RootCert)
	switch {
	case conf.RootCert == "system":
		return nil, true, nil
	case conf.Inline && conf.RootCert == "":
		return nil, strict, nil
	case !conf.Inline:
		file := conf.RootCert
		if file == "" {
			file = conf.DefaultRootCert
		}
		if file == "" {
			return nil, strict, nil
		}
		text, err = os.ReadFile(file)
		if missing(err) && (conf.RootCert == "" || !strict) {
			return nil, strict, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("sslrootcert: %w", err)
		}
	}
	roots = x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, false, errors.New("sslrootcert contains no certificate")
	}
	return roots, true, nil
}

func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

func verifyCert(certs []*x509.Certificate, roots *x509.CertPool, host string, name bool) error {
	if len(certs) == 0 {
		return errors.New("the server sent no certificate")
	}
	options := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, cert := range certs[1:] {
		options.Intermediates.AddCert(cert)
	}
	if _, err := certs[0].Verify(options); err != nil {
		return err
	}
	if !name {
		return nil
	}
	return verifyName(certs[0], host)
}

// verifyName compares the host with the certificate. libpq uses the common name if there are no alternative names, which
// crypto/x509 does not.
func verifyName(cert *x509.Certificate, host string) error {
	if len(cert.DNSNames)+len(cert.IPAddresses) > 0 || cert.Subject.CommonName == "" {
		return cert.VerifyHostname(host)
	}
	named := *cert
	if ip := net.ParseIP(cert.Subject.CommonName); ip != nil {
		named.IPAddresses = []net.IP{ip}
	} else {
		named.DNSNames = []string{cert.Subject.CommonName}
	}
	// VerifyHostname looks for the extension, too.
	named.Extensions = nil
	return named.VerifyHostname(host)
}

// clientCert returns the client's certificate, or nil if there is none or it must not be sent.
func clientCert(conf pgurl.TLS) (*tls.Certificate, error) {
	if conf.CertMode == "disable" || conf.Cert == "" {
		return nil, nil
	}
	if conf.Inline {
		cert, err := tls.X509KeyPair([]byte(conf.Cert), []byte(conf.Key))
		if err != nil {
			return nil, fmt.Errorf("sslcert: %w", err)
		}
		return &cert, nil
	}
	if _, err := os.Stat(conf.Cert); missing(err) {
		return nil, nil
	}
	info, err := os.Stat(conf.Key)
	if err != nil {
		return nil, fmt.Errorf("sslcert is set, and sslkey is not usable: %w", err)
	}
	if err := keyIsPrivate(info); err != nil {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(conf.Cert, conf.Key)
	if err != nil {
		return nil, fmt.Errorf("sslcert and sslkey (a key with an sslpassword is not supported: decrypt it with openssl pkey): %w", err)
	}
	return &cert, nil
}

// keyIsPrivate returns an error if others than the owner, and the group of a file of root, may read the key.
func keyIsPrivate(info fs.FileInfo) error {
	allowed := fs.FileMode(0o600)
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid == 0 {
		allowed = 0o640
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&^allowed&0o077 != 0 {
		return errors.New("sslkey: others may read the file; its permissions must be 0600, or 0640 if root owns it")
	}
	return nil
}
