package imageapi

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
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
}

// parseAnswer reads a response's body to its end and writes its picture to w: the first of an Images API, and the last of a chat, which may show
// drafts before. If w is nil, pictures are left out. With an error it returns what was read until then: a picture that is complete counts even if
// the rest is missing.
func parseAnswer(s source, w io.Writer) (answer, error) {
	f := &finder{w: w, source: s}
	if reset, ok := w.(Resetter); ok && len(s.inputs) > 0 {
		f.echo = &summingWriter{w: w, reset: reset, sum: sha256.New()}
		f.w = f.echo
	}
	r := bufio.NewReaderSize(s.body, 16<<10)
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
	n, err := io.Copy(pictureWriter{f.w}, r)
	if err == nil && n > 0 {
		f.wrote = true
	}
	return err
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

// role is what the value of a key means.
type role int

const (
	roleNone      role = iota
	roleAny            // a picture in any form, or what contains one
	roleURL            // the same; a path is taken as a URL
	rolePicture        // the same; any text is base64
	roleContainer      // contains pictures
	roleText           // text that may contain a picture, or what contains such text
	roleError          // the API's error
	roleProblem        // a text or an object about an error where there is no picture
	roleMessage        // the same if it is a text, else a message of a chat
	roleCode
	roleType
	roleSuccess
	roleStatus
	roleFinish  // why a chat ended
	rolePartial // its presence makes the picture of an event a partial one
	roleChat    // contains a chat's messages
	roleUsage
	roleID
)

// roles are those of the keys, wherever they are below the keys listed here. What has no role is not looked at: a prompt, a thumbnail, an input.
var roles = map[string]role{
	"b64_json": rolePicture, "b64": rolePicture, "base64": rolePicture, "image_base64": rolePicture, "image_b64": rolePicture,
	"b64_image": rolePicture, "imagebase64": rolePicture,
	"url": roleURL, "image_url": roleURL, "imageurl": roleURL, "output_url": roleURL, "image_urls": roleURL, "urls": roleURL,
	"data": roleAny, "image": roleAny, "images": roleAny, "output": roleAny, "outputs": roleAny, "result": roleAny, "results": roleAny,
	"choices": roleChat, "delta": roleText, "response": roleContainer, "item": roleContainer, "candidates": roleChat,
	"inlinedata": roleContainer, "inline_data": roleContainer, "artifacts": roleContainer,
	"content": roleText, "parts": roleText, "text": roleText, "refusal": roleText,
	"error": roleError, "errors": roleError,
	"usage": roleUsage, "usagemetadata": roleUsage,
}

// topRoles are those of keys of the whole document. They come before roles.
var topRoles = map[string]role{
	"message": roleMessage, "msg": roleProblem, "detail": roleProblem, "error_msg": roleProblem, "error_message": roleProblem,
	"errmsg": roleProblem, "err_msg": roleProblem, "reason": roleProblem,
	"code": roleCode, "error_code": roleCode, "errcode": roleCode, "statuscode": roleCode, "type": roleType, "success": roleSuccess, "ok": roleSuccess,
	"status": roleStatus, "partial_image_index": rolePartial,
	"id": roleID, "request_id": roleID, "requestid": roleID, "task_id": roleID, "taskid": roleID, "gen_id": roleID,
}

func roleOf(key string, depth int) role {
	key = strings.ToLower(key)
	if r, ok := topRoles[key]; ok && depth == 1 {
		return r
	}
	switch key {
	case "message": // of a chat
		return roleContainer
	case "finish_reason", "finishreason":
		return roleFinish
	}
	return roles[key]
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
	n, err := decodeBase64(w, text)
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
