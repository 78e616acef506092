package imageapi

import (
	"bytes"
	"errors"
	"io"
	"net/url"
	"path"
	"regexp"
	"strings"
)

// textScanner finds a picture in a text that arrives in pieces, such as the content of a chat: a data: URL anywhere, an image or a link to a
// picture in Markdown or HTML, or a URL that is the whole text.
type textScanner struct {
	pending []byte        // not examined yet, after what is kept of the text before
	begun   bool          // a URL has begun in pending whose end has not come
	start   int           // of that URL
	total   int           // bytes of text so far, without the pictures
	base64  *base64Writer // a picture is being decoded
	skip    bool          // base64 that is not needed is being skipped
	said    []byte        // the beginning of the text
}

const (
	maxDataHeader = 128
	keptContext   = 256 // bytes before a URL that tell what it is
)

var (
	addressStart = regexp.MustCompile(`(?i)data:image/|https?://`)
	addressEnd   = " \t\r\n\"'<>[]{}`|\\，。）】、；！？》」"
)

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
			if err := f.text.add(f, piece[:n]); err != nil {
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
	return f.text.end(f)
}

// add adds a piece of the text.
func (t *textScanner) add(f *finder, piece []byte) error {
	for len(piece) > 0 {
		if t.base64 != nil || t.skip {
			n, err := t.decode(f, piece)
			if err != nil {
				return err
			}
			piece = piece[n:]
			continue
		}
		if free := maxSaid - len(t.said); free > 0 {
			t.said = append(t.said, piece[:min(free, len(piece))]...)
		}
		t.total += len(piece)
		t.pending = append(t.pending, piece...)
		rest, err := t.search(f, false)
		if err != nil {
			return err
		}
		piece = rest
	}
	return nil
}

// end ends the text.
func (t *textScanner) end(f *finder) error {
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
	if f.said == "" {
		f.said = strings.TrimSpace(string(t.said))
	}
	*t = textScanner{}
	return err
}

// search looks for addresses in what is pending. At a data: URL it returns the base64 that follows. last: the text ends here.
func (t *textScanner) search(f *finder, last bool) (rest []byte, err error) {
	from := 0
	for {
		start, begun := t.start, t.begun
		t.start, t.begun = 0, false
		if !begun {
			at := addressStart.FindIndex(t.pending[from:])
			if at == nil {
				t.keep(len(t.pending) - keptContext)
				return nil, nil
			}
			start = from + at[0]
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
				dropped := max(start-keptContext, 0)
				t.keep(dropped)
				t.start, t.begun = start-dropped, true
				return nil, nil
			}
		}
		t.address(f, start, size, last)
		from = start + size
	}
}

// beginBase64 begins to decode, or skip, the base64 from there on, and returns it.
func (t *textScanner) beginBase64(f *finder, from int) []byte {
	rest := bytes.Clone(t.pending[from:])
	t.pending = nil
	if f.found() || f.begun || f.w == nil {
		t.skip = true
	} else {
		t.base64 = &base64Writer{w: f.w}
	}
	if i := bytes.Index(t.said, []byte("data:image/")); i >= 0 {
		t.said = t.said[:i]
	}
	return rest
}

// address takes a URL if it is that of a picture.
func (t *textScanner) address(f *finder, start, size int, last bool) {
	address := string(t.pending[start : start+size])
	isAll := last && strings.TrimSpace(string(t.pending)) == address && t.total == len(t.pending)
	isImage := isImageBefore(t.pending[max(start-keptContext, 0):start])
	if !isAll && !isImage {
		address = strings.TrimRight(address, ".,;:!?*_~") // of the sentence, or emphasis
	}
	if isAll || isImage || hasPictureName(address) {
		f.setURL(strings.ReplaceAll(address, "&amp;", "&"))
	}
}

// isImageBefore reports whether a text before a URL makes it an image in Markdown or HTML.
func isImageBefore(text []byte) bool {
	if alt, ok := bytes.CutSuffix(bytes.TrimRight(text, " \t<"), []byte("](")); ok {
		open := bytes.LastIndexByte(alt, '[')
		return open > 0 && alt[open-1] == '!'
	}
	tag, ok := bytes.CutSuffix(bytes.ToLower(bytes.TrimRight(text, `"' `)), []byte("src="))
	return ok && bytes.LastIndex(tag, []byte("<img")) > bytes.LastIndexByte(tag, '>')
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

// keep forgets the first n bytes of what is pending.
func (t *textScanner) keep(n int) {
	if n > 0 {
		t.pending = append([]byte(nil), t.pending[n:]...)
	}
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
	for n < len(piece) && isBase64(piece[n]) {
		n++
	}
	if t.base64 != nil {
		_, err := t.base64.Write(piece[:n])
		f.begun = t.base64.written > 0
		if err != nil {
			return n, err
		}
	}
	if n < len(piece) {
		return n, t.finish(f)
	}
	return n, nil
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
	if b.written == 0 && errors.Is(err, errNotBase64) {
		return nil // it is no picture
	}
	f.begun, f.wrote = b.written > 0, b.written > 0 && err == nil
	if f.wrote {
		f.hasPicture()
	}
	return err
}
