package imageapi

import (
	"io"
	"net/http"
	"time"
)

// maxHead bounds what is kept of a response that can't be used, in bytes.
const maxHead = 64 << 10

// readAnswer reads a body of a response, at most limit bytes before and after its decompression. head gets its beginning, decompressed; optional.
// s has what else is known of the answer. The others are as in parseAnswer.
func readAnswer(response *http.Response, body io.Reader, limit int64, w io.Writer, head *headWriter, s source) (answer, error) {
	content, err := decompressed(body, response.Header, limit)
	if err != nil {
		return answer{}, err
	}
	if head != nil {
		content = io.TeeReader(content, head)
	}
	s.body, s.media, s.head = content, mediaType(response.Header), head
	if response.Request != nil {
		s.base = response.Request.URL
	}
	return parseAnswer(s, w)
}

// headWriter keeps the beginning of what is written to it.
type headWriter struct {
	limit int
	text  []byte
	// picture reports that what is written now is a picture's, of which little is kept: hundreds of answers may be read at the same time.
	picture bool
}

// maxPictureHead bounds what is kept of a response once a picture has begun in it, in bytes.
const maxPictureHead = 8 << 10

// Write implements io.Writer; it returns no error.
func (h *headWriter) Write(p []byte) (int, error) {
	kept := p[:min(len(p), max(h.limit-len(h.text), 0))]
	if h.picture {
		kept = kept[:min(len(kept), max(maxPictureHead-len(h.text), 0))]
	}
	if len(kept) < len(p) {
		h.limit = 0 // nothing that follows a gap
	}
	if h.text == nil {
		h.text = make([]byte, 0, len(kept))
	}
	h.text = append(h.text, kept...)
	return len(p), nil
}

// during calls read while what is written is a picture's.
func (h *headWriter) during(read func() error) error {
	if h == nil {
		return read()
	}
	h.picture = true
	defer func() { h.picture = false }()
	return read()
}

// How long is waited for the rest of a response whose picture is complete. Reading it lets the connection be used again, and is worth nothing else.
const (
	restIdle = 2 * time.Second // without a byte
	maxRest  = 10 * time.Second
	// A chat may show a draft and go on with the picture.
	draftIdle = time.Minute
)

// restReader ends a request when the rest of its response does not come. It is not safe for concurrent use.
type restReader struct {
	r     io.Reader
	stop  func() // safe for concurrent use
	timer *time.Timer
	until time.Time // when last
	last  bool
}

// begin is called when there is a picture. last: only the rest is to come.
func (r *restReader) begin(last bool) {
	if r.last {
		return
	}
	r.end()
	r.last = last
	r.until = time.Now().Add(maxRest)
	r.timer = time.AfterFunc(r.idle(), r.stop)
}

// idle returns how long is waited for a byte.
func (r *restReader) idle() time.Duration {
	if r.last {
		return restIdle
	}
	return draftIdle
}

func (r *restReader) end() {
	if r.timer != nil {
		r.timer.Stop()
	}
}

// Read implements io.Reader.
func (r *restReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if r.timer != nil && n > 0 && (!r.last || time.Now().Before(r.until)) {
		r.timer.Reset(r.idle())
	}
	return n, err
}
