package imageapi

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
)

// writeError is an error of the writer that a picture is written to.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// errNotBase64 means that a text is no base64.
var errNotBase64 = errors.New("the picture is not base64")

// base64Writer decodes base64 that is written to it, in the standard alphabet or that for URLs (RFC 4648), with or without its padding. Line
// ends are ignored. Errors of w are *writeError.
type base64Writer struct {
	w       io.Writer
	written int64 // bytes of w
	padding int
	buf     [4 << 10]byte // not decoded yet; decoded when full
	n       int
}

// plainBase64 holds which bytes are characters of the standard alphabet.
var plainBase64 = func() (plain [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" {
		plain[c] = true
	}
	return plain
}()

// Write implements io.Writer.
func (b *base64Writer) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := 0
		for end := min(len(p)-done, len(b.buf)-b.n); n < end && plainBase64[p[done+n]]; {
			n++
		}
		if n > 0 {
			if b.padding > 0 {
				return done, b.corrupt()
			}
			b.n += copy(b.buf[b.n:], p[done:done+n])
			done += n
		} else {
			if err := b.special(p[done]); err != nil {
				return done, err
			}
			done++
		}
		if b.n == len(b.buf) {
			if err := b.decode(); err != nil {
				return done, err
			}
		}
	}
	return len(p), nil
}

// special takes a character that is not one of the standard alphabet.
func (b *base64Writer) special(c byte) error {
	switch {
	case c == '\n' || c == '\r':
	case c == '=' && b.padding < 2:
		b.padding++
	case c == '-' && b.padding == 0:
		b.buf[b.n] = '+'
		b.n++
	case c == '_' && b.padding == 0:
		b.buf[b.n] = '/'
		b.n++
	default:
		return b.corrupt()
	}
	return nil
}

func (b *base64Writer) corrupt() error {
	return fmt.Errorf("%w near its byte %d", errNotBase64, b.written)
}

func (b *base64Writer) decode() error {
	n, err := base64.RawStdEncoding.Decode(b.buf[:], b.buf[:b.n]) // in place: what is decoded is shorter
	b.n = 0
	if err != nil {
		return b.corrupt()
	}
	if n == 0 {
		return nil
	}
	n, err = b.w.Write(b.buf[:n])
	b.written += int64(n)
	if err != nil {
		return &writeError{err}
	}
	return nil
}

// Close decodes what is left.
func (b *base64Writer) Close() error { return b.decode() }

// decodeBase64 streams base64 from r to w and returns the number of bytes written.
func decodeBase64(w io.Writer, r io.Reader) (int64, error) {
	b := &base64Writer{w: w}
	_, err := io.Copy(b, r)
	if err == nil {
		err = b.Close()
	}
	return b.written, err
}

// errReader is a reader that keeps the error of its source.
type errReader struct {
	r   io.Reader
	err error
}

func (m *errReader) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		m.err = err
	}
	return n, err
}
