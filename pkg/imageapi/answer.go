package imageapi

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
)

// answer is what an Images API answer holds besides the picture.
type answer struct {
	images  int
	wrote   bool   // a picture in base64 went to the writer
	url     string // where the picture is, where it isn't in the answer
	problem apiProblem
	failed  bool // there is an error object
}

// apiProblem is the API's error object
// (https://platform.openai.com/docs/guides/error-codes).
type apiProblem struct {
	Code, Type, Message string
}

const (
	maxURL     = 8 << 10
	maxMessage = 1 << 10
)

// errPicture wraps failures that the picture's writer, not the answer, is to blame for.
type errPicture struct{ err error }

func (e *errPicture) Error() string { return e.err.Error() }
func (e *errPicture) Unwrap() error { return e.err }

// readAnswer reads an answer of the Images API to its end and writes the first picture to w.
func readAnswer(r io.Reader, w io.Writer) (answer, error) {
	var a answer
	p := newParser(r)
	err := p.object(func(key string) error {
		switch key {
		case "data":
			return a.readData(p, w)
		case "error":
			return a.readProblem(p)
		}
		return p.skip()
	})
	if err != nil {
		return a, err
	}
	// The rest must be white space; reading it also lets the connection be used again.
	if _, err := p.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		if err == nil {
			err = fmt.Errorf("%w: more than one document", errSyntax)
		}
		return a, err
	}
	return a, nil
}

func (a *answer) readData(p *parser, w io.Writer) error {
	if c, err := p.next(); err != nil || c != '[' {
		return orElse(err, p.skip)
	}
	return p.array(func(i int) error {
		a.images++
		if c, err := p.next(); err != nil || c != '{' || i > 0 {
			return orElse(err, p.skip)
		}
		return p.object(func(key string) error {
			switch {
			case key == "b64_json" && !a.wrote:
				return a.readPicture(p, w)
			case key == "url":
				var err error
				a.url, err = p.textOr(maxURL)
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

func (a *answer) readPicture(p *parser, w io.Writer) error {
	if c, err := p.next(); err != nil || c != '"' {
		return orElse(err, p.skip)
	}
	s, err := p.string()
	if err != nil {
		return err
	}
	n, err := decodeBase64(w, s)
	a.wrote = n > 0
	return err
}

// decodeBase64 streams standard base64, with or without its padding, from r to w.
func decodeBase64(w io.Writer, r io.Reader) (int64, error) {
	marked := &errReader{r: r}
	n, err := io.Copy(pictureWriter{w}, base64.NewDecoder(base64.RawStdEncoding, &unpadded{r: marked}))
	if marked.err != nil {
		return n, marked.err // the stream broke, whatever the decoder made of that
	}
	if corrupt := base64.CorruptInputError(0); errors.As(err, &corrupt) || errors.Is(err, io.ErrUnexpectedEOF) {
		return n, fmt.Errorf("the picture is not base64 near its byte %d", n)
	}
	return n, err
}

// errReader remembers how its source failed.
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

// unpadded takes the padding off the end of base64, and refuses it anywhere else.
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
		err = &errPicture{err}
	}
	return n, err
}

func (a *answer) readProblem(p *parser) error {
	c, err := p.next()
	switch {
	case err != nil:
		return err
	case c == '"': // some relays say no more
		a.failed = true
		a.problem.Message, err = p.text(maxMessage)
		return err
	case c != '{':
		return p.skip()
	}
	a.failed = true
	fields := map[string]*string{"code": &a.problem.Code, "type": &a.problem.Type, "message": &a.problem.Message}
	return p.object(func(key string) error {
		if field := fields[key]; field != nil {
			var err error
			*field, err = p.textOr(maxMessage)
			return err
		}
		return p.skip()
	})
}

// readProblem returns the error object of a body of status 400 and above, and false where there is none.
func readProblem(body io.Reader) (apiProblem, bool) {
	a, err := readAnswer(body, io.Discard)
	return a.problem, err == nil && a.failed
}

// inputBytes decodes an input picture: base64, or a data: URL with base64 in it (RFC 2397).
func inputBytes(text string) ([]byte, error) {
	if rest, ok := strings.CutPrefix(text, "data:"); ok {
		_, encoded, found := strings.Cut(rest, ";base64,")
		if !found {
			return nil, errors.New("a data: URL without base64")
		}
		text = encoded
	}
	text = strings.TrimSpace(text)
	b := bytes.NewBuffer(make([]byte, 0, base64.RawStdEncoding.DecodedLen(len(text))+bytes.MinRead))
	if _, err := decodeBase64(b, strings.NewReader(text)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
