package picture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"io"

	"golang.org/x/image/webp"
)

type kind struct {
	format        string
	width, height int
}

// maxPixels bounds the size in a picture's header, which may be forged.
const maxPixels = 1 << 28

// contentError means that a file is not a complete picture. Other errors mean that it could not be read.
type contentError struct{ error }

// identify decodes a picture's header and checks that its end is there. It returns a *contentError for what is not a complete PNG
// (RFC 2083), JPEG (ITU-T T.81) or WebP (RFC 9649).
func identify(r io.ReaderAt, size int64) (kind, error) {
	recorder := &errRecorder{r: r}
	k, err := decode(recorder, size)
	switch {
	case recorder.err != nil:
		return kind{}, recorder.err
	case err != nil:
		return kind{}, &contentError{err}
	}
	return k, nil
}

// errRecorder keeps the first error of reading: a decoder may return another one for it.
type errRecorder struct {
	r   io.ReaderAt
	err error
}

func (e *errRecorder) ReadAt(p []byte, off int64) (int, error) {
	n, err := e.r.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) && e.err == nil {
		e.err = err
	}
	return n, err
}

func decode(r io.ReaderAt, size int64) (kind, error) {
	header := make([]byte, min(size, 12))
	if _, err := r.ReadAt(header, 0); err != nil && !errors.Is(err, io.EOF) {
		return kind{}, err
	}
	var k kind
	var decodeConfig func(io.Reader) (image.Config, error)
	var isComplete func(io.ReaderAt, int64) bool
	switch {
	case bytes.HasPrefix(header, []byte("\x89PNG\r\n\x1a\n")):
		k.format, decodeConfig, isComplete = "png", png.DecodeConfig, isCompletePNG
	case bytes.HasPrefix(header, []byte("\xff\xd8\xff")):
		k.format, decodeConfig, isComplete = "jpeg", jpeg.DecodeConfig, isCompleteJPEG
	case len(header) == 12 && bytes.HasPrefix(header, []byte("RIFF")) && string(header[8:]) == "WEBP":
		k.format, decodeConfig, isComplete = "webp", webp.DecodeConfig, isCompleteWebP
	default:
		return kind{}, errors.New("neither PNG, JPEG nor WebP")
	}
	config, err := decodeConfig(io.NewSectionReader(r, 0, size))
	if err != nil {
		return kind{}, fmt.Errorf("an invalid %s: %w", k.format, err)
	}
	if config.Width < 1 || config.Height < 1 || int64(config.Width)*int64(config.Height) > maxPixels {
		return kind{}, fmt.Errorf("a %s of %d x %d pixels", k.format, config.Width, config.Height)
	}
	if !isComplete(r, size) {
		return kind{}, fmt.Errorf("an incomplete %s", k.format)
	}
	k.width, k.height = config.Width, config.Height
	return k, nil
}

// tail returns the last n bytes.
func tail(r io.ReaderAt, size, n int64) []byte {
	n = min(n, size)
	b := make([]byte, n)
	got, err := r.ReadAt(b, size-n)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	return b[:got]
}

// isCompletePNG looks for the last chunk. Some encoders append a few bytes.
func isCompletePNG(r io.ReaderAt, size int64) bool {
	return bytes.Contains(tail(r, size, 64), []byte("\x00\x00\x00\x00IEND\xaeB`\x82"))
}

// isCompleteJPEG looks for the end marker, which a few bytes may follow, too.
func isCompleteJPEG(r io.ReaderAt, size int64) bool {
	return bytes.Contains(tail(r, size, 64), []byte("\xff\xd9"))
}

func isCompleteWebP(r io.ReaderAt, size int64) bool {
	var length [4]byte
	if _, err := r.ReadAt(length[:], 4); err != nil {
		return false
	}
	return int64(binary.LittleEndian.Uint32(length[:]))+8 <= size
}
