package imageapi

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"strings"
)

// event is an event of a stream.
type event struct {
	kind eventKind
	// held is a picture of an event that has not said yet whether its picture is a partial one.
	held bytes.Buffer
}

type eventKind int

const (
	eventUnknown eventKind = iota
	eventPartial           // its picture is not the finished one
	eventFinal
)

// classify sets the kind by the name or the type of an event.
func (e *event) classify(name string) {
	switch {
	case strings.Contains(name, "partial_image"):
		e.kind = eventPartial
	case e.kind == eventUnknown && (strings.Contains(name, "completed") || strings.Contains(name, "succeeded") || strings.HasSuffix(name, ".done")):
		e.kind = eventFinal
	}
}

// holds reports whether a picture that is read now has to be held in memory until its event ends. Partial images are fields of the event itself.
func (f *finder) holds(depth int) bool {
	return f.streaming && f.event.kind == eventUnknown && depth <= 1
}

// events reads an event stream until its end, or [DONE]. An event that is not valid JSON is left out.
func (f *finder) events(r *bufio.Reader) error {
	f.streaming = true
	s := &eventReader{r: r}
	data := bufio.NewReaderSize(s, 16<<10)
	var first error // of an event
	done := false
	for !done {
		more, err := s.next()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		data.Reset(s)
		done, err = f.eventData(s, data)
		invalid := errors.Is(err, errSyntax) || errors.Is(err, io.ErrUnexpectedEOF) && s.err == nil
		switch {
		case invalid && (!f.begun || f.wrote):
			first = cmp.Or(first, err)
		case err != nil:
			return err
		}
	}
	if first == nil && !done && !f.finished && !f.final && !f.found() && !f.failed && !failure().MatchString(strings.ToLower(hide(f.scanner.endedLines(), f.sent))) {
		return io.ErrUnexpectedEOF // it was cut off
	}
	f.finished = true
	if err := f.scanner.end(f); err != nil {
		return err
	}
	if f.failed {
		return nil
	}
	return first
}

// eventData reads the data of an event: one JSON document or more, or text that is left out. done: it is the end of the stream.
func (f *finder) eventData(s *eventReader, data *bufio.Reader) (done bool, err error) {
	for {
		c, err := skipSpace(data)
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		head, err := data.Peek(6)
		if ignoreEOF(err) != nil {
			return false, err
		}
		switch {
		case string(head) == "[DONE]":
			return true, nil
		case c != '{' && c != '[': // not JSON
			text, err := io.ReadAll(io.LimitReader(data, maxMessage))
			if s.name == "error" && !f.failed {
				f.failed, f.apiError = true, apiError{Message: strings.TrimSpace(string(text))}
			}
			if err == nil {
				_, err = io.Copy(io.Discard, data)
			}
			return false, err
		}
		f.event, f.problem, f.refused = event{}, apiError{}, false
		f.event.classify(s.name)
		if s.name == "error" {
			f.problem.Type = "error"
		}
		if err := f.value(&parser{r: data}, roleAny); err != nil {
			return false, err
		}
		if err := f.endEvent(); err != nil {
			return false, err
		}
	}
}

// endEvent takes the picture that was held, unless it is a partial one.
func (f *finder) endEvent() error {
	if held := &f.event.held; held.Len() > 0 && f.event.kind != eventPartial && !f.found() && !f.begun {
		f.begun = true
		if _, err := io.Copy(pictureWriter{f.w}, held); err != nil {
			return err
		}
		f.wrote = true
		f.hasPicture()
	}
	if f.event.kind == eventPartial {
		f.partials++
		f.progress.set(f.partials*100/(max(f.partial, f.partials)+1), generating)
	}
	f.final = f.final || f.event.kind == eventFinal && !f.chat
	f.event.held = bytes.Buffer{}
	f.conclude()
	return nil
}

// eventReader reads the data of one event after the other. Read returns io.EOF at an event's end.
type eventReader struct {
	r       *bufio.Reader
	name    string // of the event, as far as it was read
	inData  bool   // within a line of data
	hasData bool   // the event has a line of data
	ended   bool   // the event's empty line was read
	err     error  // of the source
}

const maxEventName = 128

// next finds the next event with data, and reports whether there is one.
func (s *eventReader) next() (bool, error) {
	if s.hasData { // the rest of the event
		if _, err := io.Copy(io.Discard, s); err != nil {
			return false, err
		}
	}
	s.name, s.hasData, s.ended = "", false, false
	for !s.inData {
		if _, err := s.line(); err != nil {
			return false, ignoreEOF(err)
		}
	}
	return true, nil
}

// line reads the beginning of a line up to its data, or the whole line. empty: it is empty, which ends an event.
func (s *eventReader) line() (empty bool, err error) {
	c, err := s.r.ReadByte()
	if err != nil {
		return false, err
	}
	switch c {
	case '\n':
		return true, nil
	case '\r':
		return false, nil // the rest is "\n"
	case '{': // JSON without the name of a field
		s.inData, s.hasData = true, true
		return false, s.r.UnreadByte()
	}
	if err := s.r.UnreadByte(); err != nil {
		return false, err
	}
	field, err := s.field()
	switch {
	case err != nil:
		return false, err
	case field == "data":
		s.inData, s.hasData = true, true
		return false, nil
	}
	var value []byte
	for {
		c, err := s.r.ReadByte()
		if err != nil {
			return false, err
		}
		if c == '\n' {
			break
		}
		if len(value) < maxEventName {
			value = append(value, c)
		}
	}
	if field == "event" {
		s.name = strings.TrimSpace(string(value))
	}
	return false, nil
}

// field reads the name of a line's field and its colon. A line without a colon, or with a long name, has the name "".
func (s *eventReader) field() (string, error) {
	var name []byte
	for len(name) < 16 {
		c, err := s.r.ReadByte()
		if err != nil {
			return "", err
		}
		switch c {
		case ':':
			return string(name), nil
		case '\n':
			return "", s.r.UnreadByte()
		}
		name = append(name, c)
	}
	return "", nil
}

// Read implements io.Reader.
func (s *eventReader) Read(p []byte) (int, error) {
	for !s.inData {
		if s.ended {
			return 0, io.EOF
		}
		empty, err := s.line()
		if err != nil {
			s.err = err
			return 0, err
		}
		s.ended = empty
	}
	return s.data(p)
}

// data reads from a line of data, with the line feed at its end.
func (s *eventReader) data(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if _, err := s.r.Peek(1); err != nil {
		s.err, s.inData = err, false
		return 0, err
	}
	ready, _ := s.r.Peek(min(s.r.Buffered(), len(p)))
	if i := bytes.IndexByte(ready, '\n'); i >= 0 {
		ready = ready[:i+1]
		s.inData = false
	}
	n := copy(p, ready)
	_, _ = s.r.Discard(n)
	return n, nil
}
