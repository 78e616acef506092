package imageapi

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"
)

// The parser reads one JSON document (RFC 8259) from a stream and returns strings as readers, so that a picture of many
// megabytes is not held in memory. encoding/json holds every string whole. A fuzz test checks that both accept the same
// documents.

var errSyntax = errors.New("not valid JSON")

const (
	maxDepth = 64
	maxKey   = 256 // longer keys are unknown ones
)

type parser struct {
	r     *bufio.Reader
	depth int
}

func newParser(r io.Reader) *parser { return &parser{r: bufio.NewReaderSize(r, 16<<10)} }

// next returns the next byte that isn't white space, without consuming it.
func (p *parser) next() (byte, error) {
	for {
		c, err := p.r.ReadByte()
		if err != nil {
			return 0, unexpectedEOF(err)
		}
		switch c {
		case ' ', '\t', '\n', '\r':
			continue
		}
		return c, p.r.UnreadByte()
	}
}

// unexpectedEOF turns io.EOF into io.ErrUnexpectedEOF: within a document the end of the input is an error.
func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (p *parser) expect(want byte) error {
	c, err := p.next()
	if err != nil {
		return err
	}
	if c != want {
		return errSyntax
	}
	_, err = p.r.ReadByte()
	return err
}

func (p *parser) enter(open byte) error {
	if p.depth++; p.depth > maxDepth {
		return fmt.Errorf("%w: nested deeper than %d", errSyntax, maxDepth)
	}
	return p.expect(open)
}

// object calls each with every key, in order; each must read the value.
func (p *parser) object(each func(key string) error) error {
	return p.list('{', '}', func() error {
		key, err := p.text(maxKey)
		if err != nil {
			return err
		}
		if err := p.expect(':'); err != nil {
			return err
		}
		return each(key)
	})
}

// array calls each for every element, with its index; each must read it.
func (p *parser) array(each func(i int) error) error {
	i := -1
	return p.list('[', ']', func() error { i++; return each(i) })
}

func (p *parser) list(open, end byte, each func() error) error {
	if err := p.enter(open); err != nil {
		return err
	}
	defer func() { p.depth-- }()
	c, err := p.next()
	if err != nil {
		return err
	}
	if c == end {
		return p.expect(end)
	}
	for {
		if err := each(); err != nil {
			return err
		}
		c, err := p.next()
		if err != nil {
			return err
		}
		if c == end {
			return p.expect(end)
		}
		if err := p.expect(','); err != nil {
			return err
		}
	}
}

// skip reads and discards a value.
func (p *parser) skip() error {
	c, err := p.next()
	if err != nil {
		return err
	}
	switch {
	case c == '{':
		return p.object(func(string) error { return p.skip() })
	case c == '[':
		return p.array(func(int) error { return p.skip() })
	case c == '"':
		s, err := p.string()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, s)
		return err
	case c == '-' || (c >= '0' && c <= '9'):
		return p.number()
	}
	for _, word := range []string{"true", "false", "null"} {
		if c == word[0] {
			return p.word(word)
		}
	}
	return errSyntax
}

func (p *parser) word(word string) error {
	for i := range len(word) {
		c, err := p.r.ReadByte()
		if err != nil {
			return unexpectedEOF(err)
		}
		if c != word[i] {
			return errSyntax
		}
	}
	return nil
}

// digits reads one digit or more.
func (p *parser) digits() error {
	for n := 0; ; n++ {
		c, err := p.r.ReadByte()
		if err == nil && c >= '0' && c <= '9' {
			continue
		}
		if err == nil {
			err = p.r.UnreadByte()
		} else if errors.Is(err, io.EOF) && n > 0 {
			err = nil
		}
		if err == nil && n == 0 {
			return errSyntax
		}
		return unexpectedEOF(err)
	}
}

// optional consumes the next byte if it is one of set.
func (p *parser) optional(set string) (bool, error) {
	c, err := p.r.ReadByte()
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for i := range len(set) {
		if c == set[i] {
			return true, nil
		}
	}
	return false, p.r.UnreadByte()
}

func (p *parser) number() error {
	if _, err := p.optional("-"); err != nil {
		return err
	}
	zero, err := p.optional("0")
	if err == nil && !zero {
		err = p.digits()
	}
	if err != nil {
		return err
	}
	fraction, err := p.optional(".")
	if err == nil && fraction {
		err = p.digits()
	}
	if err != nil {
		return err
	}
	exponent, err := p.optional("eE")
	if err != nil || !exponent {
		return err
	}
	if _, err := p.optional("+-"); err != nil {
		return err
	}
	return p.digits()
}

// text returns a string value, cut off after limit bytes.
func (p *parser) text(limit int) (string, error) {
	s, err := p.string()
	if err != nil {
		return "", err
	}
	head, err := io.ReadAll(io.LimitReader(s, int64(limit)))
	if err == nil {
		_, err = io.Copy(io.Discard, s)
	}
	return string(head), err
}

// string returns a string value as a reader, which must be read to its end before anything else.
func (p *parser) string() (*stringReader, error) {
	if err := p.expect('"'); err != nil {
		return nil, err
	}
	return &stringReader{r: p.r}, nil
}

// stringReader unescapes a JSON string as it is read.
type stringReader struct {
	r     *bufio.Reader
	spare []byte // unescaped, not returned yet
	err   error
}

// Read implements io.Reader; io.EOF is the closing quote.
func (s *stringReader) Read(out []byte) (int, error) {
	n := 0
	for n < len(out) && s.err == nil {
		if len(s.spare) > 0 {
			moved := copy(out[n:], s.spare)
			s.spare = s.spare[moved:]
			n += moved
			continue
		}
		if plain := s.plain(out[n:]); plain > 0 {
			n += plain
			continue
		}
		s.err = s.special()
	}
	if n > 0 || len(out) == 0 {
		return n, nil
	}
	return 0, s.err
}

// plain copies bytes that need no unescaping from the buffer to out.
func (s *stringReader) plain(out []byte) int {
	ready, _ := s.r.Peek(min(max(s.r.Buffered(), 1), len(out)))
	n := 0
	for n < len(ready) && ready[n] != '"' && ready[n] != '\\' && ready[n] >= ' ' {
		n++
	}
	copy(out, ready[:n])
	_, _ = s.r.Discard(n)
	return n
}

func (s *stringReader) special() error {
	c, err := s.r.ReadByte()
	if err != nil {
		return unexpectedEOF(err)
	}
	switch {
	case c == '"':
		return io.EOF
	case c != '\\': // a control character
		return errSyntax
	}
	if c, err = s.r.ReadByte(); err != nil {
		return unexpectedEOF(err)
	}
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		return s.unicode()
	default:
		return errSyntax
	}
	s.spare = append(s.spare[:0], c)
	return nil
}

// unicode reads the rest of \uXXXX, and the second half of a surrogate pair.
func (s *stringReader) unicode() error {
	r, err := s.hex()
	if err != nil {
		return err
	}
	if utf16.IsSurrogate(r) {
		second, err := s.low()
		if err != nil {
			return err
		}
		r = utf16.DecodeRune(r, second)
	}
	s.spare = utf8.AppendRune(s.spare[:0], r)
	return nil
}

// low returns the second half of a surrogate pair. If another text follows, it returns 0 and consumes nothing.
func (s *stringReader) low() (rune, error) {
	ahead, err := s.r.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if len(ahead) < 6 || ahead[0] != '\\' || ahead[1] != 'u' {
		return 0, nil
	}
	r, err := hexRune(ahead[2:])
	if err != nil {
		return 0, err
	}
	if r < 0xdc00 || r > 0xdfff {
		return 0, nil
	}
	_, err = s.r.Discard(6)
	return r, err
}

func (s *stringReader) hex() (rune, error) {
	var digits [4]byte
	if _, err := io.ReadFull(s.r, digits[:]); err != nil {
		return 0, unexpectedEOF(err)
	}
	return hexRune(digits[:])
}

func hexRune(digits []byte) (rune, error) {
	var r rune
	for _, c := range digits {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, errSyntax
		}
		r = r<<4 | rune(c)
	}
	return r, nil
}
