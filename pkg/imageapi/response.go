package imageapi

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
)

// imageResponse is a response of the Images API without the picture.
type imageResponse struct {
	wrote    bool   // a picture in base64 was written
	url      string // of the picture, if the response doesn't contain it
	apiError apiError
	failed   bool // there is an error object
}

// apiError is the API's error object (https://platform.openai.com/docs/guides/error-codes).
type apiError struct {
	Code, Type, Message string
}

const (
	maxURL     = 8 << 10
	maxMessage = 1 << 10
)

// writeError is an error of the writer that a picture is written to.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// parseResponse reads a response of the Images API to its end and writes the first picture to w. With an error it returns
// what was read until then.
func parseResponse(r io.Reader, w io.Writer) (imageResponse, error) {
	var resp imageResponse
	p := newParser(r)
	err := p.object(func(key string) error {
		switch key {
		case "data":
			return resp.parseData(p, w)
		case "error":
			return resp.parseError(p)
		}
		return p.skip()
	})
	if err != nil {
		return resp, err
	}
	// The rest must be white space. Reading it also allows the connection to be reused.
	if _, err := p.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		if err == nil {
			err = fmt.Errorf("%w: more than one document", errSyntax)
		}
		return resp, err
	}
	return resp, nil
}

func (resp *imageResponse) parseData(p *parser, w io.Writer) error {
	if c, err := p.next(); err != nil || c != '[' {
		return orElse(err, p.skip)
	}
	return p.array(func(i int) error {
		if c, err := p.next(); err != nil || c != '{' || i > 0 {
			return orElse(err, p.skip)
		}
		return p.object(func(key string) error {
			switch {
			case key == "b64_json" && !resp.wrote:
				return resp.parsePicture(p, w)
			case key == "url":
				var err error
				resp.url, err = p.textOr(maxURL)
				return err
			}
			return p.skip()
		})
	})
}

func orElse(err error, next func() error) error {
	if err != nil {
		return err
	}
	return next()
}

func (resp *imageResponse) parsePicture(p *parser, w io.Writer) error {
	if c, err := p.next(); err != nil || c != '"' {
		return orElse(err, p.skip)
	}
	s, err := p.string()
	if err != nil {
		return err
	}
	n, err := decodeBase64(w, s)
	resp.wrote = n > 0
	return err
}

// decodeBase64 streams standard base64, with or without its padding, from r to w.
func decodeBase64(w io.Writer, r io.Reader) (int64, error) {
	marked := &errReader{r: r}
	n, err := io.Copy(pictureWriter{w}, base64.NewDecoder(base64.RawStdEncoding, &unpadded{r: marked}))
	if marked.err != nil {
		return n, marked.err // the decoder may hide the error of its source
	}
	if corrupt := base64.CorruptInputError(0); errors.As(err, &corrupt) || errors.Is(err, io.ErrUnexpectedEOF) {
		return n, fmt.Errorf("the picture is not base64 near its byte %d", n)
	}
	return n, err
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

// unpadded removes the padding from the end of base64, and refuses it anywhere else.
type unpadded struct {
	r       io.Reader
	padding int
}

func (u *unpadded) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	kept := 0
	for _, c := range p[:n] {
		switch {
		case c == '=':
			u.padding++
		case c == '\n' || c == '\r':
		case u.padding > 0:
			return kept, base64.CorruptInputError(kept)
		default:
			p[kept] = c
			kept++
		}
	}
	if u.padding > 2 {
		return kept, base64.CorruptInputError(kept)
	}
	return kept, err
}

type pictureWriter struct{ w io.Writer }

func (p pictureWriter) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	if err != nil {
		err = &writeError{err}
	}
	return n, err
}

func (resp *imageResponse) parseError(p *parser) error {
	c, err := p.next()
	switch {
	case err != nil:
		return err
	case c == '"': // some relays return a string only
		resp.failed = true
		resp.apiError.Message, err = p.text(maxMessage)
		return err
	case c != '{':
		return p.skip()
	}
	resp.failed = true
	fields := map[string]*string{"code": &resp.apiError.Code, "type": &resp.apiError.Type, "message": &resp.apiError.Message}
	return p.object(func(key string) error {
		if field := fields[key]; field != nil {
			var err error
			*field, err = p.textOr(maxMessage)
			return err
		}
		return p.skip()
	})
}
