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
func readAnswer(response *http.Response, body io.Reader, limit int64, w io.Writer, head io.Writer, s source) (answer, error) {
	content, err := decompressed(body, response.Header, limit)
	if err != nil {
		return answer{}, err
	}
	if head != nil {
		content = io.TeeReader(content, head)
	}
	s.body, s.media = content, mediaType(response.Header)
	if response.Request != nil {
		s.base = response.Request.URL
	}
	return parseAnswer(s, w)
}

// headWriter keeps the beginning of what is written to it.
type headWriter struct {
	limit int
	text  []byte
}

// Write implements io.Writer; it returns no error.
func (h *headWriter) Write(p []byte) (int, error) {
	h.text = append(h.text, p[:min(len(p), h.limit-len(h.text))]...)
	return len(p), nil
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
