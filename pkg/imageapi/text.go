package imageapi

import (
	"bytes"
	"errors"
	"io"
	"net/url"
	"path"
	"strings"
)

// textScanner finds the picture in a text that arrives in pieces, such as the content of a chat: a data: URL or base64 anywhere, an image or a link
// to a picture in Markdown or HTML, a JSON object with a URL, or a URL that is the whole text but for lines of progress. It also reads the lines of
// progress.
type textScanner struct {
	pending  []byte        // not examined yet, after what is kept of the text before
	examined int           // of pending: its addresses are known up to there
	begun    bool          // a URL has begun in pending whose end has not come
	start    int           // of that URL
	total    int           // bytes of text so far, without the pictures
	base64   *base64Writer // a picture is being decoded
	skip     bool          // base64 that is not needed is being skipped
	lengths  base64Lines   // of the base64
	said     []byte        // the text without pictures, at most its last maxText bytes
	lines    progressReader
}

const (
	maxDataHeader = 128
	keptContext   = 16 << 10 // bytes before a URL that tell what it is: the alternative text of an image may be the prompt
	maxText       = 32 << 10
)

var (
	// addressStarts begin an address, in lower case. The others are the base64 of a picture's first bytes.
	addressStarts = []string{"data:image/", "https://", "http://"}
	base64Starts  = []string{"iVBORw0KGgoAAAANSUhEUg", "/9j/4AAQSkZJRg"}
	addressEnd    = " \t\r\n\"'<>[]{}`|\\，。）】、；！？》」"
)

// longestStart is longer than any of the starts.
const longestStart = 32

// addressStart returns where the first address, or base64 of a picture, begins in a text, or -1.
func addressStart(text []byte) int {
	for i, c := range text {
		starts := addressStarts
		switch c {
		case 'd', 'D', 'h', 'H':
		case 'i', '/':
			starts = base64Starts
		default:
			continue
		}
		for _, start := range starts {
			if rest := text[i:]; len(rest) >= len(start) && (bytes.HasPrefix(rest, []byte(start)) || c != 'i' && c != '/' && strings.EqualFold(string(rest[:len(start)]), start)) {
				return i
			}
		}
	}
	return -1
}

// textValue reads a string as a piece of the text.
func (f *finder) textValue(p *parser) error {
	s, err := p.string()
	if err != nil {
		return err
	}
	var piece [4 << 10]byte
	for {
		n, err := s.Read(piece[:])
		if n > 0 {
			if err := f.scanner.add(f, piece[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if f.streaming {
		return nil // the next event goes on
	}
	return f.scanner.end(f)
}

// add adds a piece of the text.
func (t *textScanner) add(f *finder, piece []byte) error {
	f.inChat++
	defer func() { f.inChat-- }()
	for len(piece) > 0 {
		if t.base64 != nil || t.skip {
			n, err := t.decode(f, piece)
			if err != nil {
				return err
			}
			piece = piece[n:]
			continue
		}
		t.said = append(t.said, piece...)
		t.total += len(piece)
		t.pending = append(t.pending, piece...)
		rest, err := t.search(f, false)
		if err != nil {
			return err
		}
		if f.streaming {
			t.lines.add(&f.progress, piece)
		}
		if extra := len(t.said) - maxText; extra > maxText {
			t.said = append(t.said[:0], t.said[extra:]...)
		}
		piece = rest
	}
	return nil
}

// end ends the text.
func (t *textScanner) end(f *finder) error {
	f.inChat++
	defer func() { f.inChat-- }()
	if t.base64 != nil || t.skip {
		if err := t.finish(f); err != nil {
			return err
		}
	}
	rest, err := t.search(f, true)
	if err == nil && len(rest) > 0 {
		if _, err = t.decode(f, rest); err == nil {
			err = t.finish(f)
		}
	}
	said := string(t.said)
	*t = textScanner{}
	if said != "" && err == nil {
		err = f.textEnded(said)
	}
	return err
}

// search looks for addresses in what is pending. At a data: URL it returns the base64 that follows. last: the text ends here.
func (t *textScanner) search(f *finder, last bool) (rest []byte, err error) {
	from := t.examined
	for {
		start, begun := t.start, t.begun
		t.start, t.begun = 0, false
		if !begun {
			at := addressStart(t.pending[from:])
			if at < 0 {
				t.examined = max(t.examined, len(t.pending)-longestStart)
				t.keep(len(t.pending) - keptContext)
				return nil, nil
			}
			start = from + at
		}
		if c := t.pending[start]; c == 'i' || c == '/' {
			return t.beginBase64(f, start), nil
		}
		if t.pending[start] == 'd' || t.pending[start] == 'D' {
			comma := bytes.IndexByte(t.pending[start:], ',')
			switch {
			case comma < 0 && len(t.pending)-start < maxDataHeader && !last:
				t.keep(start - keptContext)
				return nil, nil
			case comma < 0 || comma > maxDataHeader || !bytes.Contains(bytes.ToLower(t.pending[start:start+comma]), []byte(";base64")):
				from = start + len("data:")
				continue
			}
			return t.beginBase64(f, start+comma+1), nil
		}
		size := addressSize(t.pending, start)
		if size < 0 {
			size = len(t.pending) - start
			if !last && size <= maxURL {
				t.start, t.begun = start-t.keep(start-keptContext), true
				return nil, nil
			}
		}
		if err := t.address(f, start, size, last); err != nil {
			return nil, err
		}
		from = start + size
		t.examined = from
	}
}

// beginBase64 begins to decode, or skip, the base64 from there on, and returns it.
func (t *textScanner) beginBase64(f *finder, from int) []byte {
	rest := bytes.Clone(t.pending[from:])
	t.pending, t.examined, t.lengths = nil, 0, base64Lines{}
	if w, ok := f.target(); ok {
		t.base64 = &base64Writer{w: w}
	} else {
		t.skip = true
	}
	t.said = t.said[:max(len(t.said)-len(rest), 0)]
	return rest
}

// address takes a URL if it is that of a picture.
func (t *textScanner) address(f *finder, start, size int, last bool) error {
	address := string(t.pending[start : start+size])
	isAll := last && strings.TrimSpace(string(t.pending)) == address && t.total == len(t.pending)
	isImage := isImageBefore(t.pending[max(start-keptContext, 0):start])
	if !isAll && !isImage {
		address = strings.TrimRight(address, ".,;:!?*_~") // of the sentence, or emphasis
	}
	r := rankLink
	switch {
	case isImage:
		r = rankImage
	case isAll:
		r = rankAddress
	}
	if !isAll && !isImage && !hasPictureName(address) {
		return nil
	}
	return f.setURL(strings.ReplaceAll(address, "&amp;", "&"), r)
}

// isImageBefore reports whether a text before a URL makes it an image in Markdown or HTML.
func isImageBefore(text []byte) bool {
	if alt, ok := bytes.CutSuffix(bytes.TrimRight(text, " \t<"), []byte("](")); ok {
		open := openBracket(alt)
		return open > 0 && alt[open-1] == '!'
	}
	tag := bytes.TrimRight(text, `"' `)
	if !strings.EqualFold(string(tag[max(len(tag)-4, 0):]), "src=") {
		return false
	}
	tag = bytes.ToLower(tag)
	return bytes.LastIndex(tag, []byte("<img")) > bytes.LastIndexByte(tag, '>')
}

// openBracket returns where the bracket is opened that is closed after a text, or -1. Within it there may be others: a link may be that of an image.
func openBracket(text []byte) int {
	inner := 0
	for i := len(text) - 1; i >= 0; i-- {
		switch {
		case text[i] == ']':
			inner++
		case text[i] == '[' && inner == 0:
			return i
		case text[i] == '[':
			inner--
		}
	}
	return -1
}

// addressSize returns the length of the address that begins at start, or -1 if it may go on. Parentheses belong to it in pairs, and after <
// everything up to >, as in Markdown.
func addressSize(text []byte, start int) int {
	address := text[start:]
	if start > 0 && text[start-1] == '<' {
		return bytes.IndexAny(address, ">\r\n")
	}
	open := 0
	for i, r := range string(address) {
		switch {
		case r == '(':
			open++
		case r == ')' && open == 0, strings.ContainsRune(addressEnd, r):
			return i
		case r == ')':
			open--
		}
	}
	return -1
}

// keep forgets the first n bytes of what is pending, and returns how many it forgot: few ones stay, because forgetting moves the others.
func (t *textScanner) keep(n int) int {
	if n < keptContext {
		return 0
	}
	t.pending = append(t.pending[:0], t.pending[n:]...)
	t.examined = max(t.examined-n, 0)
	return n
}

// hasPictureName reports whether a URL ends with the name of a picture.
func hasPictureName(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	switch strings.ToLower(path.Ext(u.Path)) {
	case ".png", ".jpg", ".jpeg", ".webp":
		return true
	}
	return false
}

// decode takes the base64 at the beginning of a piece and returns its length.
func (t *textScanner) decode(f *finder, piece []byte) (int, error) {
	n := 0
	for n < len(piece) && isBase64(piece[n]) && t.lengths.add(piece[n]) {
		n++
	}
	if t.base64 != nil {
		_, err := t.base64.Write(piece[:n])
		if t.base64.w == f.w {
			f.begun = t.base64.written > 0
		}
		if errors.Is(err, errNotBase64) {
			return n, t.failed(f, err)
		}
		if err != nil {
			return n, err
		}
	}
	if n < len(piece) {
		return n, t.finish(f)
	}
	return n, nil
}

// base64Lines tells where base64 ends before more characters of base64, such as those of words.
type base64Lines struct {
	first, length int // of the first line, and of this one
	padded        bool
}

// longestLine is the length of the lines of base64 that has lines (RFC 2045).
const longestLine = 76

// add adds a character, and reports whether it belongs to the base64: nothing follows its padding, or a line that is shorter than the first.
func (l *base64Lines) add(c byte) bool {
	switch {
	case c == '=':
		l.padded = true
	case l.padded:
		return false
	case c == '\n' && l.first == 0:
		l.first = l.length
		l.length = 0
		return l.first <= longestLine
	case c == '\n':
		whole := l.length == l.first
		l.length = 0
		return whole
	case c != '\r':
		l.length++
	}
	return true
}

func isBase64(c byte) bool {
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || strings.IndexByte("+/-_=\r\n", c) >= 0
}

// finish ends the base64.
func (t *textScanner) finish(f *finder) error {
	b := t.base64
	t.base64, t.skip = nil, false
	if b == nil {
		return nil
	}
	err := b.Close()
	switch {
	case b.written == 0 && errors.Is(err, errNotBase64):
		return nil // it is no picture
	case b.w != f.w:
		return f.useNext(err)
	}
	f.begun, f.wrote = b.written > 0, b.written > 0 && err == nil
	if !f.wrote {
		return err
	}
	f.rank = rankImage
	return f.wrotePicture()
}

// failed ends base64 that is corrupt. Beside a picture that was found before it is skipped.
func (t *textScanner) failed(f *finder, err error) error {
	b := t.base64
	t.base64, t.skip = nil, true
	if b.w == f.w {
		return err
	}
	return f.useNext(err)
}
