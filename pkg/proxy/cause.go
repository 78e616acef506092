package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"imagetasks/pkg/task"
)

// Code returns why the connection could not be made.
func (e *Error) Code() task.Code {
	if e.code != "" {
		return e.code
	}
	switch e.Op {
	case OpResolve:
		return task.CodeDirectName
	case OpDial:
		return e.dialCode()
	case OpProxy:
		return proxyTLSCode(e.Err)
	case OpTLS:
		return tlsCode(e.Err)
	}
	return e.connectCode()
}

func (e *Error) dialCode() task.Code {
	codes := struct{ name, refused, timeout, failed task.Code }{
		task.CodeDirectName, task.CodeDirectRefused, task.CodeDirectTimeout, task.CodeDirectFailed}
	if e.Proxy != "" {
		codes.name, codes.refused = task.CodeProxyName, task.CodeProxyRefused
		codes.timeout, codes.failed = task.CodeProxyTimeout, task.CodeProxyFailed
	}
	_, unknown := errors.AsType[*net.DNSError](e.Err)
	switch {
	case unknown:
		return codes.name
	case errors.Is(e.Err, syscall.ECONNREFUSED):
		return codes.refused
	case e.Timeout(), errors.Is(e.Err, syscall.EHOSTUNREACH), errors.Is(e.Err, syscall.ENETUNREACH):
		return codes.timeout
	}
	return codes.failed
}

// socksReplies maps the error texts of golang.org/x/net/proxy for a SOCKS proxy's replies.
var socksReplies = []struct {
	text string
	code task.Code
}{
	{"general SOCKS server failure", task.CodeSOCKSFailure},
	{"connection not allowed by ruleset", task.CodeSOCKSNotAllowed},
	{"network unreachable", task.CodeSOCKSNetwork},
	{"host unreachable", task.CodeSOCKSHost},
	{"connection refused", task.CodeSOCKSRefused},
	{"TTL expired", task.CodeSOCKSExpired},
	{"command not supported", task.CodeSOCKSCommand},
	{"address type not supported", task.CodeSOCKSAddressType},
	{"username/password authentication failed", task.CodeProxyLoginRefused},
	{"unexpected protocol version", task.CodeProxyNoProxy},
}

// connectCode is the code for a proxy that was reached and opened no tunnel.
func (e *Error) connectCode() task.Code {
	switch {
	case e.Timeout():
		return task.CodeProxyNoAnswer
	case needsLogin(e.Status) && e.Login:
		return task.CodeProxyLoginRefused
	case needsLogin(e.Status):
		return task.CodeProxyLoginMissing
	case e.Status >= 500:
		return task.CodeProxyTarget
	case e.Status >= 400:
		return task.CodeProxyForbids
	case e.Status != 0:
		return task.CodeProxyNoProxy
	}
	text := e.Err.Error()
	if strings.Contains(text, "no acceptable authentication methods") {
		if e.Login {
			return task.CodeProxyLoginRefused
		}
		return task.CodeProxyLoginMissing
	}
	for _, reply := range socksReplies {
		if strings.Contains(text, reply.text) {
			return reply.code
		}
	}
	switch {
	case errors.Is(e.Err, errTLS):
		return task.CodeProxyNeedsTLS
	case errors.Is(e.Err, errNotHTTP):
		return task.CodeProxyNoProxy
	case isAlert(e.Err): // of TLS 1.3: a client certificate is required, for example
		return task.CodeProxyTLSRefused
	}
	return task.CodeProxyFailed
}

func tlsCode(err error) task.Code {
	_, plain := errors.AsType[tls.RecordHeaderError](err)
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case authority:
		return task.CodeTLSAuthority
	case host:
		return task.CodeTLSHost
	case isInvalid && invalid.Reason == x509.Expired:
		return task.CodeTLSExpired
	case isInvalid:
		return task.CodeTLSFailed
	case plain:
		return task.CodeTLSNotSpoken
	case isNet && timeout.Timeout():
		return task.CodeTLSTimeout
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return task.CodeTLSReset
	}
	return task.CodeTLSFailed
}

// proxyTLSCode is the code for a failed handshake with an https proxy.
func proxyTLSCode(err error) task.Code {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return task.CodeProxyCertificate
	}
	switch code := tlsCode(err); code {
	case task.CodeTLSAuthority, task.CodeTLSHost, task.CodeTLSExpired:
		return task.CodeProxyCertificate
	case task.CodeTLSFailed:
		return task.CodeProxyTLSRefused // it was TLS, or else the first record would be what is wrong
	}
	return task.CodeProxyTLS
}

// isAlert reports whether the other end refused TLS by an alert.
func isAlert(err error) bool {
	_, alert := errors.AsType[tls.AlertError](err)
	return alert || strings.Contains(err.Error(), "remote error: tls:")
}

// Issuer returns the issuer of the certificate that was refused, or "" if none was.
func (e *Error) Issuer() string {
	invalid, ok := errors.AsType[*tls.CertificateVerificationError](e.Err)
	if !ok || len(invalid.UnverifiedCertificates) == 0 {
		return ""
	}
	return IssuerOf(invalid.UnverifiedCertificates[0])
}

// IssuerOf returns a short name of a certificate's issuer: common name and organizations.
func IssuerOf(c *x509.Certificate) string {
	var parts []string
	if c.Issuer.CommonName != "" {
		parts = append(parts, c.Issuer.CommonName)
	}
	for _, o := range c.Issuer.Organization {
		if o != c.Issuer.CommonName {
			parts = append(parts, o)
		}
	}
	if len(parts) == 0 {
		return c.Issuer.String()
	}
	return strings.Join(parts, ", ")
}
