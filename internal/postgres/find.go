package postgres

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// ErrNotInstalled means that no PostgreSQL server was found.
var ErrNotInstalled = errors.New("the PostgreSQL server is not installed; install it: sudo apt-get install postgresql (Debian, Ubuntu), " +
	"brew install postgresql@17 (macOS), sudo pkg install postgresql17-server (FreeBSD)")

// serverPatterns are the places where packages install the server outside PATH.
var serverPatterns = []string{
	"/usr/lib/postgresql/*/bin/postgres",          // Debian, Ubuntu
	"/opt/homebrew/opt/postgresql@*/bin/postgres", // Homebrew on Apple silicon
	"/usr/local/opt/postgresql@*/bin/postgres",    // Homebrew on Intel
	"/usr/local/bin/postgres",                     // FreeBSD
}

// Find returns the directory of the server's programs: those in PATH, or else the newest installed ones. It returns
// ErrNotInstalled if there are none.
func Find() (string, error) {
	if path, err := exec.LookPath("postgres"); err == nil {
		if _, err := exec.LookPath("initdb"); err == nil {
			return filepath.Dir(path), nil
		}
	}
	return newest(serverPatterns)
}

// newest returns the directory of the newest server that matches one of the patterns.
func newest(patterns []string) (string, error) {
	best := ""
	for _, pattern := range patterns {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		for _, path := range found {
			if dir := filepath.Dir(path); best == "" || version(dir) > version(best) {
				best = dir
			}
		}
	}
	if best == "" {
		return "", ErrNotInstalled
	}
	return best, nil
}

// version returns the version in a path like /usr/lib/postgresql/15/bin or /opt/homebrew/opt/postgresql@17/bin, or 0.
func version(bin string) float64 {
	name := filepath.Base(filepath.Dir(bin))
	v, err := strconv.ParseFloat(name[strings.LastIndex(name, "@")+1:], 64)
	if err != nil {
		return 0
	}
	return v
}
