package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/joho/godotenv"

	"imagetasks/pkg/pattern"
)

// maxEnvFile is the largest env file that is read, in bytes: a larger one is a wrong path, not a long list of settings.
const maxEnvFile = 64 << 10

// ReadEnvFile reads NAME=value lines, as in https://github.com/motdotla/dotenv: quotes, values of several lines, comments
// and `export ` as a shell has them. A file that does not exist is an fs.ErrNotExist. The errors give the line's number and
// never quote it, because it may hold a secret.
func ReadEnvFile(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxEnvFile+1))
	if err != nil {
		return nil, fmt.Errorf("env file: %w", err)
	}
	values, err := ParseEnv(text)
	if err != nil {
		return nil, fmt.Errorf("env file %s: %w", path, err)
	}
	return values, nil
}

// ParseEnv parses the text of an env file. A byte order mark at its beginning is ignored.
func ParseEnv(text []byte) (map[string]string, error) {
	if len(text) > maxEnvFile {
		return nil, fmt.Errorf("larger than %d bytes", maxEnvFile)
	}
	if bytes.IndexByte(text, 0) >= 0 {
		return nil, errors.New("not a text file")
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	if err := checkEnv(text); err != nil {
		return nil, err
	}
	values, err := godotenv.UnmarshalBytes(text)
	if err != nil {
		return nil, errors.New("can't be parsed") // the library's error quotes the line
	}
	return values, nil
}

var envName = pattern.New(`^(?:export[ \t]+)?[A-Za-z_][A-Za-z0-9_.]*[ \t]*=`)

// exportOnly is an export without a name, which the parser takes for an empty one.
var exportOnly = pattern.New(`^export[ \t]+=`)

// checkEnv refuses what the parser would accept and read in a way nobody meant: it takes a colon for an equals sign, and
// spaces for a part of the name, so that `OPENAI_PROXY http://host` would set another variable.
func checkEnv(text []byte) error {
	line := 1
	for len(text) > 0 {
		end := bytes.IndexAny(text, "\n\r")
		if end < 0 {
			end = len(text)
		}
		statement := bytes.TrimSpace(text[:end])
		if len(statement) > 0 && statement[0] != '#' {
			start := bytes.IndexByte(text, statement[0])
			name := envName().Find(statement)
			if name == nil || exportOnly().Match(name) {
				return fmt.Errorf("line %d is not NAME=value", line)
			}
			value := bytes.TrimLeft(text[start+len(name):end], " \t\v\f\u0085\u00a0")
			if len(value) > 0 && (value[0] == '"' || value[0] == '\'') {
				from := end - len(value)
				length := quotedLength(text[from:])
				if length < 0 {
					return fmt.Errorf("line %d has a quote that is not closed", line)
				}
				line += bytes.Count(text[from:from+length], []byte("\n"))
				text = text[from+length:]
				if end = bytes.IndexAny(text, "\n\r"); end < 0 {
					end = len(text)
				}
				if rest := bytes.TrimSpace(text[:end]); len(rest) > 0 && rest[0] != '#' {
					return fmt.Errorf("line %d has text after the closing quote", line)
				}
			}
		}
		if end < len(text) {
			if text[end] == '\n' {
				line++
			}
			end++
		}
		text = text[end:]
	}
	return nil
}

// quotedLength returns the length of the quoted value that text begins with, quotes included; -1 where it is not closed.
func quotedLength(text []byte) int {
	for i := 1; i < len(text); i++ {
		if text[i] == text[0] && text[i-1] != '\\' {
			return i + 1
		}
	}
	return -1
}

// IsMissing reports whether err means that the env file does not exist.
func IsMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
