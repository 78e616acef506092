package imageapi

import (
	"bufio"
	"cmp"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// encodingFault is an error of compressed content.
type encodingFault struct{ err error }

func (e *encodingFault) Error() string { return "the response can't be decompressed: " + e.err.Error() }
func (e *encodingFault) Unwrap() error { return e.err }

// minBuffer is the least that a bufio.Reader takes; packedBuffer is for what is decompressed, which is read byte by byte.
const minBuffer, packedBuffer = 16, 16 << 10

// maxLayers is how often a body may be compressed.
const maxLayers = 2

// decompressed returns the body of a response without its compression. The header is not believed where the body says otherwise: relays
// compress without a header, and leave the header without compressing. At most limit bytes are read from r, and limit bytes returned; beyond
// there is errTooLong.
func decompressed(r io.Reader, h http.Header, limit int64) (io.Reader, error) {
	named := strings.ToLower(strings.Join(h.Values("Content-Encoding"), ","))
	bounded := &maxReader{r: r, left: limit}
	out := io.Reader(bounded)
	for range maxLayers {
		// A body that is not compressed passes through without being copied.
		buffered := bufio.NewReaderSize(out, minBuffer)
		out = struct{ io.Reader }{buffered} // its WriteTo would write minBuffer bytes at a time
		head, err := buffered.Peek(2)
		if len(head) < 2 {
			return out, ignoreEOF(err)
		}
		var unpacked io.Reader
		switch {
		case head[0] == 0x1f && head[1] == 0x8b:
			unpacked, err = gzip.NewReader(bufio.NewReaderSize(buffered, packedBuffer))
		case isZlib(head):
			unpacked, err = zlib.NewReader(bufio.NewReaderSize(buffered, packedBuffer))
		case strings.Contains(named, "deflate") && !isPlain(head[0]):
			unpacked = flate.NewReader(bufio.NewReaderSize(buffered, packedBuffer))
		case !isPlain(head[0]) && (strings.Contains(named, "br") || strings.Contains(named, "zstd")) || head[0] == 0x28 && head[1] == 0xb5:
			return out, &encodingFault{fmt.Errorf("it is compressed with %s, which was not asked for", cmp.Or(oneLine(named), "zstd"))}
		default:
			return out, nil
		}
		named = ""
		if err != nil {
			return out, encodingError(err)
		}
		out = &maxReader{r: &encodingReader{unpacked}, left: limit}
	}
	return out, nil
}

// isZlib reports whether a body begins as one of zlib (RFC 1950) that is no text.
func isZlib(head []byte) bool {
	return head[0] == 0x78 && (head[1] == 0x01 || head[1] == 0x5e || head[1] == 0x9c || head[1] == 0xda)
}

// isPlain reports whether a byte is the first one of a text or a picture.
func isPlain(c byte) bool {
	return strings.IndexByte("{[<\" \t\r\n:\xef\x89\xff", c) >= 0
}

type encodingReader struct{ r io.Reader }

func (e *encodingReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // io.Reader returns it as it is
		err = encodingError(err)
	}
	return n, err
}

// encodingError marks an error of the decompression. Those of its source, and an early end, stay recognizable.
func encodingError(err error) error {
	return &encodingFault{unexpectedEOF(err)}
}
