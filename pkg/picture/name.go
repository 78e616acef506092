package picture

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// formats are the formats of pictures, in the order in which Find looks for them.
var formats = []string{"png", "jpeg", "webp"}

func extension(format string) string {
	if format == "jpeg" {
		return ".jpg"
	}
	return "." + format
}

const (
	// maxName bounds the part of a file's name that comes from the task's id, in bytes. The whole name has at most 138: some file
	// systems allow 143.
	maxName = 100
	// macBytes is the size of the part that can't be guessed.
	macBytes  = 16
	macLength = 26 // in base32
	// hashMark begins the part that stands for an id that is too long for a name. h is no hexadecimal digit.
	hashMark = "_h"
)

// fileName returns the name of a run's picture: its task, the number of the run, and a part that only an installation that
// knows the secret can compute.
func (s *Store) fileName(taskID string, run int, format string) string {
	return fmt.Sprintf("%s-%d-%s%s", encodeID(taskID), run, s.mac(taskID, run), extension(format))
}

// macEncoding has lower-case letters only, because a file system may ignore case.
var macEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func (s *Store) mac(taskID string, run int) string {
	h := hmac.New(sha256.New, s.secret)
	// An id has no control characters.
	fmt.Fprintf(h, "picture\x00%s\x00%d", taskID, run)
	return macEncoding.EncodeToString(h.Sum(nil)[:macBytes])
}

// Entry is a file that has the name of a picture of this installation.
type Entry struct {
	Name   string // in the store's directory
	TaskID string // empty: it was too long for the name
	Run    int
}

// Stem returns the name without its extension: it is the same for each format of a run's picture.
func (e Entry) Stem() string { return strings.TrimSuffix(e.Name, filepath.Ext(e.Name)) }

// OtherFormats returns the names that the run's picture would have in the other formats.
func (e Entry) OtherFormats() []string {
	var names []string
	for _, format := range formats {
		if name := e.Stem() + extension(format); name != e.Name {
			names = append(names, name)
		}
	}
	return names
}

// parseName returns what a name stands for, and false if no picture of this installation has it. The name of a task whose id is
// too long is not verified.
func (s *Store) parseName(name string) (Entry, bool) {
	stem, ok := "", false
	for _, format := range formats {
		if stem, ok = strings.CutSuffix(name, extension(format)); ok {
			break
		}
	}
	rest, mac, found := cutLast(stem)
	encoded, number, foundRun := cutLast(rest)
	if !ok || !found || !foundRun || len(mac) != macLength {
		return Entry{}, false
	}
	run, err := strconv.Atoi(number)
	if err != nil || run < 1 || strconv.Itoa(run) != number {
		return Entry{}, false
	}
	if digits, ok := strings.CutPrefix(encoded, hashMark); ok {
		sum, err := hex.DecodeString(digits)
		return Entry{Name: name, Run: run}, err == nil && len(sum) == macBytes
	}
	id, ok := decodeID(encoded)
	if !ok || !hmac.Equal([]byte(s.mac(id, run)), []byte(mac)) {
		return Entry{}, false
	}
	return Entry{Name: name, TaskID: id, Run: run}, true
}

// cutLast cuts a text at its last hyphen.
func cutLast(text string) (before, after string, found bool) {
	i := strings.LastIndexByte(text, '-')
	if i < 0 {
		return "", "", false
	}
	return text[:i], text[i+1:], true
}

// encodeID returns the part of a name that stands for a task's id: the id itself, with every byte that is not safe in file names and
// URLs as _ and two hexadecimal digits. If that is too long, it is a hash.
func encodeID(id string) string {
	var b strings.Builder
	for i := range len(id) {
		if c := id[i]; isPlain(c) && (c != '-' || i > 0) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	if b.Len() > maxName {
		sum := sha256.Sum256([]byte(id))
		return hashMark + hex.EncodeToString(sum[:macBytes])
	}
	return b.String()
}

func isPlain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-'
}

// decodeID returns the id that encodeID encoded.
func decodeID(encoded string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(encoded); i++ {
		if encoded[i] != '_' {
			b.WriteByte(encoded[i])
			continue
		}
		if i+2 >= len(encoded) {
			return "", false
		}
		c, err := hex.DecodeString(encoded[i+1 : i+3])
		if err != nil {
			return "", false
		}
		b.WriteByte(c[0])
		i += 2
	}
	id := b.String()
	return id, id != "" && encodeID(id) == encoded
}
