package simproxy

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strconv"
)

// The few parts of SOCKS5 that a client's CONNECT needs (RFC 1928, RFC 1929).
const (
	version5       = 5
	methodNone     = 0
	methodPassword = 2
	methodRefused  = 0xff
	commandConnect = 1
	addressIPv4    = 1
	addressName    = 3
	addressIPv6    = 4
	replyOK        = 0
	replyForbidden = 2
	replyUnreached = 4
)

func (p *Proxy) serveSOCKS(conn net.Conn) {
	if err := p.greet(conn); err != nil {
		return
	}
	target, err := readTarget(conn)
	if err != nil {
		return
	}
	switch p.asked(target, false) {
	case Hang:
		_, _ = io.Copy(io.Discard, conn)
		return
	case Garbage:
		_, _ = io.WriteString(conn, "SSH-2.0-OpenSSH_9.2\r\n")
		return
	case Early:
		_ = reply(conn, replyOK)
		return
	case Refuse:
		_ = reply(conn, replyForbidden)
		return
	}
	upstream, err := p.dial(target)
	if err != nil {
		_ = reply(conn, replyUnreached)
		return
	}
	defer p.conns.Drop(upstream)
	if reply(conn, replyOK) == nil {
		p.pipe(conn, conn, upstream)
	}
}

func reply(conn net.Conn, code byte) error {
	_, err := conn.Write([]byte{version5, code, 0, addressIPv4, 0, 0, 0, 0, 0, 0})
	return err
}

var errProtocol = errors.New("not SOCKS5")

// greet agrees on a login method and checks the login.
func (p *Proxy) greet(conn net.Conn) error {
	methods, err := readCounted(conn, version5)
	if err != nil {
		return err
	}
	want := byte(methodNone)
	if p.conf.User != "" {
		want = methodPassword
	}
	offered := false
	for _, m := range methods {
		offered = offered || m == want
	}
	if !offered {
		_, _ = conn.Write([]byte{version5, methodRefused})
		return errProtocol
	}
	if _, err := conn.Write([]byte{version5, want}); err != nil || want == methodNone {
		return err
	}
	user, err := readCounted(conn, 1)
	if err != nil {
		return err
	}
	password, err := readBlock(conn)
	if err != nil {
		return err
	}
	if string(user) != p.conf.User || string(password) != p.conf.Password {
		_, _ = conn.Write([]byte{1, 1})
		return errProtocol
	}
	_, err = conn.Write([]byte{1, 0})
	return err
}

// readCounted reads a version byte and a block.
func readCounted(r io.Reader, version byte) ([]byte, error) {
	var head [1]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	if head[0] != version {
		return nil, errProtocol
	}
	return readBlock(r)
}

// readBlock reads a length byte and as many bytes.
func readBlock(r io.Reader) ([]byte, error) {
	var size [1]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	block := make([]byte, size[0])
	_, err := io.ReadFull(r, block)
	return block, err
}

func readTarget(r io.Reader) (string, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	if head[0] != version5 || head[1] != commandConnect {
		return "", errProtocol
	}
	var host string
	switch head[3] {
	case addressName:
		name, err := readBlock(r)
		if err != nil {
			return "", err
		}
		host = string(name)
	case addressIPv4, addressIPv6:
		size := net.IPv4len
		if head[3] == addressIPv6 {
			size = net.IPv6len
		}
		ip := make(net.IP, size)
		if _, err := io.ReadFull(r, ip); err != nil {
			return "", err
		}
		host = ip.String()
	default:
		return "", errProtocol
	}
	var port [2]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return "", err
	}
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(port[:])))), nil
}
