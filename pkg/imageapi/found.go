package imageapi

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// pictureValue reads a string that is a picture, its data: URL or its URL.
func (f *finder) pictureValue(p *parser, r role) error {
	s, err := p.string()
	if err != nil {
		return err
	}
	text := bufio.NewReaderSize(s, 4<<10)
	if err = f.pictureText(text, r, p.depth); err == nil {
		_, err = io.Copy(io.Discard, text)
	}
	return err
}

func (f *finder) pictureText(text *bufio.Reader, r role, depth int) error {
	if _, err := skipSpace(text); err != nil {
		return ignoreEOF(err)
	}
	head, err := text.Peek(16)
	if ignoreEOF(err) != nil {
		return err
	}
	lower := strings.ToLower(string(head))
	switch {
	case strings.HasPrefix(lower, dataPrefix):
		header, err := readUntil(text, ',', maxCode)
		if err != nil || !strings.Contains(strings.ToLower(header), ";base64") || f.url != "" && !strings.HasPrefix(lower, "data:image/") {
			return ignoreEOF(err)
		}
		if _, err := skipSpace(text); err != nil {
			return ignoreEOF(err)
		}
		return f.decode(text, depth)
	case strings.HasPrefix(lower, "https://"), strings.HasPrefix(lower, "http://"), strings.HasPrefix(lower, "//"),
		r == roleURL && strings.HasPrefix(lower, "/") && !isPictureBase64(head):
		address, err := io.ReadAll(io.LimitReader(text, maxURL+1))
		if err == nil {
			err = f.setURL(string(address), rankImage)
		}
		return err
	case lower == "none", lower == "null", lower == "undefined": // no picture, as some programs write it
	case r == rolePicture && f.url == "", isPictureBase64(head):
		return f.decode(text, depth)
	}
	return nil
}

// replaces reports whether a picture of that rank in a chat replaces the one that was found before.
func (f *finder) replaces(r rank) bool {
	if r < f.rank {
		return false
	}
	_, resets := f.w.(Resetter)
	return resets || !f.begun
}

// isChat reports whether what is read now is a part of a chat, whose last picture counts.
func (f *finder) isChat() bool { return f.inChat > 0 }

// setURL takes the URL of a picture, if it can be used, was not sent, and there is none yet that counts.
func (f *finder) setURL(text string, r rank) error {
	if f.event.kind == eventPartial || f.w == nil || f.found() && !(f.isChat() && f.replaces(r)) {
		return nil
	}
	text = strings.TrimSpace(text)
	if slices.ContainsFunc(f.sent, func(sent string) bool { return strings.Contains(sent, text) }) {
		return nil
	}
	u, err := url.Parse(text)
	if err == nil && !u.IsAbs() && f.base != nil {
		u = f.base.ResolveReference(u)
		text = u.String()
	}
	text = validURL(text)
	if err != nil || len(text) > maxURL || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil {
		f.badURL = true
		return nil
	}
	if f.wrote {
		if err := f.w.(Resetter).Reset(); err != nil { //nolint:forcetypeassert // see replaces
			return &writeError{err}
		}
		f.begun, f.wrote = false, false
	}
	f.url, f.rank = text, r
	f.hasPicture()
	return nil
}

// validURL escapes the bytes of a URL that are not UTF-8, as in one of a server with another encoding: it is kept as text.
func validURL(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c >= utf8.RuneSelf {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// hasPicture tells that there is a picture.
func (f *finder) hasPicture() {
	if f.onFound != nil {
		f.onFound(!f.streaming || f.finished || !f.isChat())
	}
}

// decode decodes a picture in base64 and writes it, if it is the one that counts. A picture is better than the URL of one, which may not deliver.
func (f *finder) decode(text io.Reader, depth int) error {
	w, ok := f.target()
	if !ok {
		return nil // the rest of the text is skipped
	}
	if f.holds(depth) && w == f.w {
		if f.event.held.Len() > 0 {
			return nil
		}
		w = &f.event.held
	}
	var n int64
	err := f.head.during(func() (err error) {
		n, err = decodeBase64(w, text)
		return err
	})
	if n == 0 && errors.Is(err, errNotBase64) {
		return nil // it is no picture
	}
	switch {
	case w == io.Writer(&f.next):
		return f.useNext(err)
	case w == f.w && n > 0:
		f.begun, f.wrote, f.rank = true, err == nil, rankImage
	}
	if !f.wrote || w != f.w {
		return err
	}
	return f.wrotePicture()
}

// target returns what a picture that begins now is written to. ok is false if it does not count. A second picture of a chat is held in memory until
// it is whole: until then the one before is the answer.
func (f *finder) target() (w io.Writer, ok bool) {
	_, resets := f.w.(Resetter)
	switch {
	case f.w == nil || f.event.kind == eventPartial:
		return nil, false
	case f.begun:
		f.next = bytes.Buffer{}
		return &f.next, resets && f.isChat()
	}
	return f.w, f.url == "" || resets
}

// isWhole reports whether a picture has its end.
func isWhole(content []byte) bool {
	tail := content[max(len(content)-64, 0):]
	switch {
	case !isPicture(content):
		return false
	case content[0] == 'R':
		return uint64(len(content)) >= uint64(binary.LittleEndian.Uint32(content[4:8]))+8
	case content[0] == 0xff:
		return bytes.Contains(tail, []byte{0xff, 0xd9})
	}
	return bytes.Contains(tail, []byte("IEND"))
}

// useNext replaces the picture that was written by the one that was held. failed is the error of reading it.
func (f *finder) useNext(failed error) error {
	next := f.next.Bytes()
	f.next = bytes.Buffer{}
	if failed == nil && f.wrote && !isWhole(next) || f.inputs[sha256.Sum256(next)] {
		return nil
	}
	if len(next) == 0 || failed != nil {
		if f.found() && errors.Is(failed, errNotBase64) {
			return nil
		}
		return failed
	}
	if err := f.w.(Resetter).Reset(); err != nil { //nolint:forcetypeassert // see target
		return &writeError{err}
	}
	f.begun, f.wrote, f.url, f.rank = true, false, "", rankImage
	if _, err := (pictureWriter{f.w}).Write(next); err != nil {
		return err
	}
	f.wrote = true
	f.hasPicture()
	return nil
}
