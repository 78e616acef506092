package imageapi

import (
	"html"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	// leastQuote is how much of a private text has to be quoted to be recognized: letters and digits, where one of a script with many
	// characters counts as wideLetter. What is less is shown, since it may be words that the API uses itself.
	leastQuote = 16
	wideLetter = 3
	// gramLength is how many letters have to be equal before more is compared.
	gramLength = 5
	// maxPlaces bounds the places of one gram in a private text that are compared.
	maxPlaces = 16
)

type gram [gramLength]rune

// letter is a letter or a digit of a text, in the form in which it is compared.
type letter struct {
	r          rune
	start, end int // of what it is written as, in bytes
}

func (l letter) weight() int {
	if l.r >= 0x2e80 {
		return wideLetter
	}
	return 1
}

// quotes finds quotations of a private text.
type quotes struct {
	letters []letter
	places  map[gram][]int
	whole   int // weight of the text
}

func newQuotes(private string) *quotes {
	q := &quotes{letters: letters(private), places: map[gram][]int{}}
	for i := range q.letters {
		q.whole += q.letters[i].weight()
		if g, ok := gramAt(q.letters, i); ok && len(q.places[g]) < maxPlaces {
			q.places[g] = append(q.places[g], i)
		}
	}
	return q
}

func gramAt(text []letter, i int) (g gram, ok bool) {
	if i+gramLength > len(text) {
		return g, false
	}
	for k := range g {
		g[k] = text[i+k].r
	}
	return g, true
}

// hide replaces the quotations in a text.
func (q *quotes) hide(text string) string {
	if len(q.places) == 0 {
		return text
	}
	var b strings.Builder
	in := letters(text)
	done := 0
	for i := 0; i < len(in); {
		n := q.longest(in, i)
		if n == 0 {
			i++
			continue
		}
		b.WriteString(text[done:in[i].start])
		b.WriteString(promptMask)
		done = in[i+n-1].end
		i += n
	}
	b.WriteString(text[done:])
	return b.String()
}

// longest returns the length of the quotation that begins at a letter, or 0.
func (q *quotes) longest(in []letter, at int) int {
	g, ok := gramAt(in, at)
	if !ok {
		return 0
	}
	longest := 0
	for _, place := range q.places[g] {
		n, weight := 0, 0
		for at+n < len(in) && place+n < len(q.letters) && in[at+n].r == q.letters[place+n].r {
			weight += in[at+n].weight()
			n++
		}
		// A short text has to be quoted whole, and not as a part of longer words.
		if weight >= leastQuote || weight == q.whole && isApart(in, at, at+n) {
			longest = max(longest, n)
		}
	}
	return longest
}

// isApart reports whether no letter touches those from start to end, or they are of a script that does not separate words.
func isApart(in []letter, start, end int) bool {
	before := start == 0 || in[start-1].end < in[start].start || in[start].weight() > 1
	after := end == len(in) || in[end].start > in[end-1].end || in[end-1].weight() > 1
	return before && after
}

// letters returns the letters and digits of a text without what differs between ways to write it: cases, accents, full-width forms, white space
// and punctuation, and the escapes of JSON (also repeated), HTML and URLs.
func letters(text string) []letter {
	var all []letter
	add := func(r rune, start, end int) {
		if r < utf8.RuneSelf {
			if r = unicode.ToLower(r); unicode.IsLetter(r) || unicode.IsDigit(r) {
				all = append(all, letter{r, start, end})
			}
			return
		}
		for _, part := range norm.NFKD.String(string(r)) {
			if part = unicode.ToLower(part); part != utf8.RuneError && (unicode.IsLetter(part) || unicode.IsNumber(part)) {
				all = append(all, letter{part, start, end})
			}
		}
	}
	for i := 0; i < len(text); {
		r, size := unescaped(text[i:])
		add(r, i, i+size)
		i += size
	}
	return all
}

// unescaped returns the first character of a text, which is not empty, and the length of what it is written as.
func unescaped(text string) (rune, int) {
	switch text[0] {
	case '\\':
		return unescapedJSON(text)
	case '%':
		return unescapedURL(text)
	case '&':
		const longestEntity = 12
		if end := strings.IndexByte(text[:min(len(text), longestEntity)], ';'); end > 0 {
			if plain := html.UnescapeString(text[:end+1]); plain != text[:end+1] {
				r, _ := utf8.DecodeRuneInString(plain)
				return r, end + 1
			}
		}
	}
	return utf8.DecodeRuneInString(text)
}

func unescapedJSON(text string) (rune, int) {
	n := len(text) - len(strings.TrimLeft(text, `\`))
	if n == len(text) {
		return ' ', n
	}
	switch text[n] {
	case 'n', 't', 'r', 'b', 'f':
		return ' ', n + 1
	case 'x': // of Go and Python; the bytes of longer characters are written one by one, as in URLs
		return unescapedBytes(text, text[:n+1])
	case 'U':
		if r, ok := hexNumber(text[n+1:], 8); ok {
			return rune(r), n + 9
		}
	case 'u':
		r, ok := hexNumber(text[n+1:], 4)
		if !ok {
			break
		}
		size := n + 5
		if utf16.IsSurrogate(rune(r)) {
			rest := strings.TrimLeft(text[size:], `\`)
			if low, ok := hexNumber(strings.TrimPrefix(rest, "u"), 4); ok && strings.HasPrefix(rest, "u") {
				return utf16.DecodeRune(rune(r), rune(low)), len(text) - len(rest) + 5
			}
		}
		return rune(r), size
	}
	return ' ', n // the escaped character is the next one
}

func unescapedURL(text string) (rune, int) { return unescapedBytes(text, "%") }

// unescapedBytes reads a character whose bytes are written in hexadecimal digits, each with a prefix.
func unescapedBytes(text, prefix string) (rune, int) {
	var bytes []byte
	size := 0
	for len(bytes) < utf8.UTFMax && strings.HasPrefix(text[size:], prefix) {
		n, ok := hexNumber(text[size+len(prefix):], 2)
		if !ok {
			break
		}
		bytes = append(bytes, byte(n))
		size += len(prefix) + 2
		if utf8.FullRune(bytes) {
			break
		}
	}
	if len(bytes) == 0 {
		return ' ', len(prefix)
	}
	r, _ := utf8.DecodeRune(bytes)
	return r, size
}

// hexNumber reads a number of hexadecimal digits at the beginning of a text.
func hexNumber(text string, digits int) (uint64, bool) {
	if len(text) < digits {
		return 0, false
	}
	n, err := strconv.ParseUint(text[:digits], 16, 32)
	return n, err == nil
}
