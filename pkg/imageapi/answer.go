package imageapi

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// bodyForm is what the body of a response is, by its first bytes.
type bodyForm int

const (
	formEmpty bodyForm = iota
	formJSON
	formEvents  // an event stream (https://html.spec.whatwg.org/multipage/server-sent-events.html)
	formPicture // the bytes of a picture
	formPage    // HTML or XML
	formText    // anything else
)

// answer is what was found in the body of a response.
type answer struct {
	form     bodyForm
	begun    bool   // a picture, or the beginning of one, was written
	wrote    bool   // it was written whole
	url      string // of the picture, if the response does not contain it
	badURL   bool   // there is a URL of the picture that can't be used
	apiError apiError
	failed   bool   // the API says that it failed
	said     string // a text in place of a picture: the beginning of a document, the end of a chat without its progress
	chat     bool   // it is a chat's
	text     string // all that a chat says, without pictures, at most the last maxText bytes
	ids      answerIDs
	usage    json.RawMessage // see Result.Usage
	rank     rank            // of what was found in a chat
}

// found reports whether there is a picture, or the URL of one.
func (a *answer) found() bool { return a.wrote || a.url != "" }

const (
	maxURL     = 8 << 10
	maxMessage = 16 << 10
	maxSaid    = 1 << 10
	maxCode    = 200
)

// errTrailing means that something follows the document.
var errTrailing = fmt.Errorf("%w: more than one document", errSyntax)

// source is a response's body with what is needed to read it.
type source struct {
	body  io.Reader // decompressed and bounded
	media string    // its media type, in lower case
	base  *url.URL  // for relative URLs; optional
	// onFound is called when there is a picture, or the URL of one. last: no other follows that would count. Optional.
	onFound  func(last bool)
	progress reporter
	partial  int      // pictures that are expected before the finished one
	sent     []string // texts of the request: an address in them is not that of the picture
	inputs   inputSums
	head     *headWriter // gets what is read; optional
}

// readBuffer is the size of the buffer of each answer that is read.
const readBuffer = 8 << 10

// parseAnswer reads a response's body to its end and writes its picture to w: the first of an Images API, and the last of a chat, which may show
// drafts before. If w is nil, pictures are left out. With an error it returns what was read until then: a picture that is complete counts even if
// the rest is missing.
func parseAnswer(s source, w io.Writer) (answer, error) {
	f := &finder{w: w, source: s}
	if reset, ok := w.(Resetter); ok && len(s.inputs) > 0 {
		f.echo = &summingWriter{w: w, reset: reset, sum: sha256.New()}
		f.w = f.echo
	}
	r := bufio.NewReaderSize(s.body, readBuffer)
	err := f.read(r)
	f.textCut()
	return f.answer, err
}

func (f *finder) read(r *bufio.Reader) error {
	if head, _ := r.Peek(3); bytes.Equal(head, []byte("\ufeff")) {
		_, _ = r.Discard(3)
	}
	first, err := skipSpace(r)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	head, err := r.Peek(16)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case isPicture(head), strings.HasPrefix(f.media, "image/") && first != '{' && first != '[' && first != '<':
		f.form = formPicture
		return f.picture(r)
	case isEventStream(head), f.media == "text/event-stream" && first != '<' && first != '[':
		f.form = formEvents
		return f.events(r)
	case first == '{' || first == '[' || first == '"':
		f.form = formJSON
		return f.document(&parser{r: r})
	case first == '<':
		f.form = formPage
	default:
		f.form = formText
	}
	text, err := io.ReadAll(io.LimitReader(r, maxSaid))
	f.said = string(text)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	return err
}

// skipSpace reads white space, which keeps connections open, and returns the first byte after it, without reading it.
func skipSpace(r *bufio.Reader) (byte, error) {
	for {
		c, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		switch c {
		case ' ', '\t', '\n', '\r':
			continue
		}
		return c, r.UnreadByte()
	}
}

// isPicture reports whether a text begins as a PNG, JPEG or WebP.
func isPicture(head []byte) bool {
	return bytes.HasPrefix(head, []byte("\x89PNG")) || bytes.HasPrefix(head, []byte("\xff\xd8\xff")) ||
		(bytes.HasPrefix(head, []byte("RIFF")) && len(head) >= 12 && string(head[8:12]) == "WEBP")
}

// isPictureBase64 reports whether a text begins as base64 of what isPicture takes.
func isPictureBase64(head []byte) bool {
	return bytes.HasPrefix(head, []byte("iVBORw0KGgo")) || bytes.HasPrefix(head, []byte("/9j/")) || bytes.HasPrefix(head, []byte("UklGR"))
}

func isEventStream(head []byte) bool {
	for _, field := range []string{"data:", "event:", "retry:", "id:", ":"} {
		if bytes.HasPrefix(head, []byte(field)) {
			return true
		}
	}
	return false
}

// picture copies a picture that is the body.
func (f *finder) picture(r io.Reader) error {
	if f.w == nil {
		_, err := io.Copy(io.Discard, r)
		return err
	}
	f.begun = true
	return f.head.during(func() error {
		n, err := io.Copy(pictureWriter{f.w}, r)
		f.wrote = f.wrote || err == nil && n > 0
		return err
	})
}

type pictureWriter struct{ w io.Writer }

func (p pictureWriter) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	if err != nil {
		err = &writeError{err}
	}
	return n, err
}

// document reads a JSON document that is the whole body.
func (f *finder) document(p *parser) error {
	if err := f.value(p, roleAny); err != nil {
		return err
	}
	if err := f.scanner.end(f); err != nil {
		return err
	}
	f.conclude()
	// The rest must be white space. Reading it also allows the connection to be reused.
	if _, err := p.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		if err == nil {
			err = errTrailing
		}
		return err
	}
	return nil
}

// finder finds the picture in an answer.
type finder struct {
	source
	w io.Writer // nil: pictures are left out
	answer
	problem   apiError // what roleProblem, roleCode and roleType say
	refused   bool     // success is false, or the status says that it failed
	scanner   textScanner
	finished  bool // a chat's stream says why it ends
	final     bool // an event says that it is the last one
	streaming bool // the document is an event of a stream
	event     event
	partials  int // partial images of a stream
	inChat    int // how many keys of chats the value that is read is below
	next      bytes.Buffer
	echo      *summingWriter // w; nil: there are no input pictures
	choice    string         // the index of the choice that counts in a stream
}

// rank is how clearly a picture in a chat is meant as the answer. A later one counts if its rank is not lower.
type rank int

const (
	rankAddress rank = iota + 1 // an address that is all there is
	rankLink                    // an address that ends with the name of a picture
	rankImage                   // a picture in Markdown, HTML, JSON, or itself
)

// value reads a value.
func (f *finder) value(p *parser, r role) error {
	c, err := p.next()
	if err != nil {
		return err
	}
	switch {
	case r == roleNone:
		return p.skip()
	case r == rolePartial:
		f.event.kind = eventPartial
		return p.skip()
	case r == roleError:
		return f.errorValue(p, c)
	case r == roleUsage:
		return f.usageValue(p, c)
	case r == roleChat:
		f.chat = true
		f.inChat++
		defer func() { f.inChat-- }()
		return f.value(p, roleContainer)
	case c == '{' && r == roleProblem:
		return f.errorObject(p, &f.problem)
	case c == '{':
		other := false // it is another choice
		return p.object(func(key string) error {
			if other {
				return p.skip()
			}
			if key == "index" && r == roleContainer && f.streaming && p.depth == choiceDepth && f.isChat() {
				var err error
				other, err = f.otherChoice(p)
				return err
			}
			if r := roleOf(key, p.depth); r != roleID {
				return f.value(p, r)
			}
			return f.idValue(p, key)
		})
	case c == '[':
		return p.array(func(int) error { return f.value(p, r) })
	case c == '"':
		return f.stringValue(p, r)
	}
	return f.scalar(p, c, r)
}

// choiceDepth is the depth of what a choice holds.
const choiceDepth = 3

// otherChoice reads the index of a choice in a stream. Only the first choice that is met counts: the pieces of several are mixed.
func (f *finder) otherChoice(p *parser) (bool, error) {
	c, err := p.next()
	if err != nil {
		return false, err
	}
	if c < '0' || c > '9' {
		return false, p.skip()
	}
	index, err := p.numberText()
	if f.choice == "" {
		f.choice = index
	}
	return index != f.choice, err
}

// scalar reads a number, true, false or null.
func (f *finder) scalar(p *parser, c byte, r role) error {
	if r == roleCode && c != 't' && c != 'f' && c != 'n' {
		number, err := p.numberText()
		if f.problem.Code == "" {
			f.problem.Code = number
		}
		return err
	}
	if r == roleSuccess && c == 'f' {
		f.refused = true
	}
	return p.skip()
}

func (f *finder) stringValue(p *parser, r role) error {
	var err error
	set := func(field *string, limit int) {
		var text string
		if text, err = p.text(limit); err == nil && *field == "" {
			*field = text
		}
	}
	switch r {
	case roleAny, roleURL, rolePicture:
		return f.pictureValue(p, r)
	case roleText:
		return f.textValue(p)
	case roleProblem, roleMessage:
		set(&f.problem.Message, maxMessage)
	case roleCode:
		set(&f.problem.Code, maxCode)
	case roleType:
		set(&f.problem.Type, maxCode)
		f.event.classify(f.problem.Type)
	case roleStatus, roleFinish:
		var status string
		set(&status, maxCode)
		f.status(status, r == roleFinish)
	default:
		return p.skip()
	}
	return err
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// readUntil reads a text up to a byte, which is left out, and at most limit bytes.
func readUntil(r *bufio.Reader, end byte, limit int) (string, error) {
	var text []byte
	for len(text) < limit {
		c, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		if c == end {
			return string(text), nil
		}
		text = append(text, c)
	}
	return "", nil
}

// mediaType returns the media type of a Content-Type, in lower case.
func mediaType(h http.Header) string {
	media, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.ToLower(strings.TrimSpace(media))
}

// numberText reads a number and returns it as it is written, at most its first 32 bytes.
func (p *parser) numberText() (string, error) {
	var text []byte
	for {
		c, err := p.r.ReadByte()
		switch {
		case errors.Is(err, io.EOF) && len(text) > 0:
			return string(text), nil
		case err != nil:
			return "", unexpectedEOF(err)
		case (c >= '0' && c <= '9') || slices.Contains([]byte("+-.eE"), c):
			if len(text) < 32 {
				text = append(text, c)
			}
		default:
			return string(text), p.r.UnreadByte()
		}
	}
}
