package app

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/simplifiedchinese"
)

// charset is the character set of a terminal.
type charset string

const (
	utf8Charset charset = "UTF-8"
	gbk         charset = "GBK"
	gb18030     charset = "GB18030"
	ascii       charset = "ASCII" // and every other one, of which only that part is used
)

// environmentCharset returns the character set that LC_ALL, LC_CTYPE or LANG names, in this order. Where none does, as under cron and in
// containers, it is UTF-8.
func environmentCharset(lookup func(string) (string, bool)) charset {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		locale, _ := lookup(name)
		if locale == "" {
			continue
		}
		locale, _, _ = strings.Cut(locale, "@")
		_, codeset, found := strings.Cut(locale, ".")
		switch strings.ToUpper(strings.NewReplacer("-", "", "_", "").Replace(codeset)) {
		case "UTF8":
			return utf8Charset
		case "GBK", "GB2312", "EUCCN", "CP936":
			return gbk
		case "GB18030":
			return gb18030
		}
		if found || locale == "C" || locale == "POSIX" {
			return ascii
		}
		return utf8Charset
	}
	return utf8Charset
}

// encoding returns the encoding of a character set; nil for UTF-8 and ASCII.
func (c charset) encoding() encoding.Encoding {
	switch c {
	case gbk:
		return simplifiedchinese.GBK
	case gb18030:
		return simplifiedchinese.GB18030
	}
	return nil
}

// decode returns a text in UTF-8; one that is UTF-8 already as it is.
func (c charset) decode(text string) string {
	if enc := c.encoding(); enc != nil && !utf8.ValidString(text) {
		if decoded, err := enc.NewDecoder().String(text); err == nil {
			return decoded
		}
	}
	return text
}

// encodedWriter writes text in another character set than UTF-8. It is safe for concurrent use.
type encodedWriter struct {
	w       io.Writer
	charset charset

	mu   sync.Mutex
	rest []byte // the beginning of a character
}

// encoded returns a writer of text in a character set.
func encoded(w io.Writer, c charset) io.Writer {
	if c == utf8Charset || w == nil {
		return w
	}
	return &encodedWriter{w: w, charset: c}
}

// Write writes a text, and keeps a character that is not whole for the next call.
func (e *encodedWriter) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	text := append(e.rest, p...)
	var out strings.Builder
	for len(text) > 0 && (utf8.FullRune(text)) {
		r, size := utf8.DecodeRune(text)
		out.WriteString(e.charset.encode(r))
		text = text[size:]
	}
	e.rest = append([]byte{}, text...)
	if _, err := io.WriteString(e.w, out.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// symbols are what the programs print besides text, for character sets that lack them.
var symbols = map[rune]string{'✓': "+", '✗': "x", '…': "...", '—': "-", '“': `"`, '”': `"`, '‘': "'", '’': "'", '×': "x", '≤': "<=", '≥': ">=", '→': "->"}

// encode returns a character; one that the character set lacks is written so that it can be recognised.
func (c charset) encode(r rune) string {
	if r < utf8.RuneSelf {
		return string(r)
	}
	if enc := c.encoding(); enc != nil {
		if text, err := enc.NewEncoder().String(string(r)); err == nil {
			return text
		}
	}
	if text, ok := symbols[r]; ok {
		return text
	}
	if r > 0xffff {
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}
