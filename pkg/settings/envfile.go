package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/joho/godotenv"
)

// maxEnvFile bounds an env file, in bytes: more is a wrong path, not a long list of settings.
const maxEnvFile = 64 << 10

// ReadEnvFile reads NAME=value lines, as in https://github.com/motdotla/dotenv: quotes, comments and
// `export ` as a shell has them. A file that doesn't exist is returned as an fs.ErrNotExist. The
// errors name the line and never quote it, for it may hold a secret.
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

// ParseEnv parses the text of an env file.
func ParseEnv(text []byte) (map[string]string, error) {
	if len(text) > maxEnvFile {
		return nil, fmt.Errorf("larger than %d bytes", maxEnvFile)
	}
	if bytes.IndexByte(text, 0) >= 0 {
		return nil, errors.New("not a text file")
	}
	values, err := godotenv.UnmarshalBytes(text)
	if err != nil {
		return nil, fmt.Errorf("line %d is not NAME=value", faultyLine(text))
	}
	return values, nil
}

// faultyLine returns the line after the longest run of whole lines that parses.
func faultyLine(text []byte) int {
	lines := bytes.SplitAfter(text, []byte("\n"))
	if len(lines) > 2000 {
		return 1
	}
	end, good := 0, 0
	for i, line := range lines {
		end += len(line)
		if _, err := godotenv.UnmarshalBytes(text[:end]); err == nil {
			good = i + 1
		}
	}
	return min(good+1, len(lines))
}

// IsMissing reports whether err says that the env file isn't there.
func IsMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
