package app

import (
	"bytes"
	"io"
)

// withoutContent is a writer for the standard logger. net/http quotes there what a server sends beyond the end of its response, which may be
// the URL of a picture or a prompt.
type withoutContent struct{ w io.Writer }

// Write implements io.Writer.
func (w withoutContent) Write(line []byte) (int, error) {
	shown := line
	if before, _, found := bytes.Cut(line, []byte(" starting with ")); found {
		shown = append(bytes.Clone(before), '\n')
	}
	if _, err := w.w.Write(shown); err != nil {
		return 0, err
	}
	return len(line), nil
}
