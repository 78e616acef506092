package imageapi

import (
	"crypto/sha256"
	"hash"
	"io"
)

// inputSums are the SHA-256 sums of the input pictures in a request. A chat may repeat them, and none of them is its picture.
type inputSums map[[sha256.Size]byte]bool

// sums returns the sums of the input pictures in a request.
func sums(pictures []chatPicture) inputSums {
	all := inputSums{}
	for _, p := range pictures {
		if p.url == "" {
			all[sha256.Sum256(p.content)] = true
		}
	}
	return all
}

// summingWriter sums what is written.
type summingWriter struct {
	w     io.Writer
	reset Resetter // the same
	sum   hash.Hash
}

// Write implements io.Writer.
func (s *summingWriter) Write(p []byte) (int, error) {
	s.sum.Write(p)
	return s.w.Write(p)
}

// Reset implements Resetter.
func (s *summingWriter) Reset() error {
	s.sum.Reset()
	return s.reset.Reset()
}

// wrotePicture is called when a picture was written whole. If it is an input picture that a chat repeats, it is discarded.
func (f *finder) wrotePicture() error {
	if f.echo != nil && f.isChat() && f.inputs[[sha256.Size]byte(f.echo.sum.Sum(nil))] {
		if err := f.echo.Reset(); err != nil {
			return &writeError{err}
		}
		f.begun, f.wrote, f.rank = false, false, 0
		return nil
	}
	f.hasPicture()
	return nil
}
