package status

import (
	"bytes"
	"net/http"
	"time"

	"imagetasks/pkg/dashboard"
)

const (
	// maxStreams bounds the streams of events that are open.
	maxStreams = 200
	// streamInterval is the least time between two events "overview", and staleAfter the most while only times in it change.
	streamInterval     = 2 * time.Second
	staleAfter         = 10 * time.Second
	heartbeatInterval  = 15 * time.Second
	streamWriteTimeout = 10 * time.Second
)

// stream is a stream of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) to one client.
type stream struct {
	*api
	w       http.ResponseWriter
	control *http.ResponseController

	version  uint64    // of the last overview that was sent
	overview time.Time // when it was sent; zero: none was
	minute   time.Time // the last of the series that the client has
	wrote    time.Time
}

// events sends an event "overview" with each document that differs, and an event "series" with the last minutes when there is a new one, until the client or
// the server ends, or the client may not read any more.
func (a *api) events(w http.ResponseWriter, r *http.Request) {
	select {
	case a.streams <- struct{}{}:
		defer func() { <-a.streams }()
	default:
		w.Header().Set("Retry-After", "30")
		refuse(w, r, refusal{http.StatusServiceUnavailable, "too_many_pages", textManyPages})
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx
	s := &stream{api: a, w: w, control: http.NewResponseController(w)}
	// The server's deadline for reading a request would end it.
	if s.control.SetReadDeadline(time.Time{}) != nil || s.write([]byte("retry: 3000\n\n")) != nil {
		return
	}
	tick := time.NewTicker(streamInterval)
	defer tick.Stop()
	for {
		now := a.dashboard.Snapshot(r.Context())
		if !mayRead(r.Context()) || s.send(now) != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// send sends what the client does not have yet.
func (s *stream) send(now *dashboard.Snapshot) error {
	var text bytes.Buffer
	if now != nil && (s.overview.IsZero() || s.version != now.Version || time.Since(s.overview) >= staleAfter) {
		writeEvent(&text, "overview", now.JSON)
		s.version, s.overview = now.Version, time.Now()
	}
	if now != nil && !now.LatestAt.Equal(s.minute) {
		if !s.minute.IsZero() && now.Latest != nil {
			writeEvent(&text, "series", now.Latest)
		}
		s.minute = now.LatestAt
	}
	if text.Len() == 0 && time.Since(s.wrote) >= s.heartbeat {
		text.WriteString(": alive\n\n")
	}
	if text.Len() == 0 {
		return nil
	}
	return s.write(text.Bytes())
}

// writeEvent writes an event whose data is JSON, which has no line breaks.
func writeEvent(to *bytes.Buffer, name string, data []byte) {
	to.WriteString("event: " + name + "\ndata: ")
	to.Write(data)
	to.WriteString("\n\n")
}

func (s *stream) write(text []byte) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(s.writeTimeout)); err != nil {
		return err
	}
	if _, err := s.w.Write(text); err != nil {
		return err
	}
	s.wrote = time.Now()
	return s.control.Flush()
}
