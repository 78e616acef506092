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

// maxPixels bounds what a picture may claim to be: a header can promise anything.
const maxPixels = 1 << 28

// identify decodes a picture's head and finds its end. It returns an error for what is not PNG (RFC
// 2083), JPEG (ITU-T T.81) or WebP (RFC 9649), or is cut off.
func identify(r io.ReaderAt, size int64) (kind, error) {
	head := make([]byte, min(size, 12))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return kind{}, err
	}
	var k kind
	var decode func(io.Reader) (image.Config, error)
	var whole func(io.ReaderAt, int64) bool
	switch {
	case bytes.HasPrefix(head, []byte("\x89PNG\r\n\x1a\n")):
		k.format, decode, whole = "png", png.DecodeConfig, wholePNG
	case bytes.HasPrefix(head, []byte("\xff\xd8\xff")):
		k.format, decode, whole = "jpeg", jpeg.DecodeConfig, wholeJPEG
	case len(head) == 12 && bytes.HasPrefix(head, []byte("RIFF")) && string(head[8:]) == "WEBP":
		k.format, decode, whole = "webp", webp.DecodeConfig, wholeWebP
	default:
		return kind{}, errors.New("neither PNG, JPEG nor WebP")
	}
	config, err := decode(io.NewSectionReader(r, 0, size))
	if err != nil {
		return kind{}, fmt.Errorf("a broken %s: %w", k.format, err)
	}
	if config.Width < 1 || config.Height < 1 || int64(config.Width)*int64(config.Height) > maxPixels {
		return kind{}, fmt.Errorf("a %s of %d x %d pixels", k.format, config.Width, config.Height)
	}
	if !whole(r, size) {
		return kind{}, fmt.Errorf("a %s that is cut off", k.format)
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

// wholePNG looks for the last chunk; encoders may put a few bytes behind it.
func wholePNG(r io.ReaderAt, size int64) bool {
	return bytes.Contains(tail(r, size, 64), []byte("\x00\x00\x00\x00IEND\xaeB`\x82"))
}

// wholeJPEG looks for the end marker, likewise.
func wholeJPEG(r io.ReaderAt, size int64) bool {
	return bytes.Contains(tail(r, size, 64), []byte("\xff\xd9"))
}

func wholeWebP(r io.ReaderAt, size int64) bool {
	var length [4]byte
	if _, err := r.ReadAt(length[:], 4); err != nil {
		return false
	}
	return int64(binary.LittleEndian.Uint32(length[:]))+8 <= size
}
