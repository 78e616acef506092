package pgurl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// systemConfDirs are where packages put pg_service.conf, if PGSYSCONFDIR is not set.
var systemConfDirs = []string{"/etc/postgresql-common", "/etc/sysconfig/pgsql"}

// addService adds what the service of a pg_service.conf sets and the URL does not.
func (v *values) addService(env func(string) (string, bool)) error {
	service := v.or("service", env)
	if service.text == "" {
		return nil
	}
	var files []string
	if file := v.or("servicefile", env).text; file != "" {
		files = append(files, file)
	} else if home := homeDir(env); home != "" {
		files = append(files, filepath.Join(home, ".pg_service.conf"))
	}
	if dir, _ := env("PGSYSCONFDIR"); dir != "" {
		files = append(files, filepath.Join(dir, "pg_service.conf"))
	} else {
		for _, dir := range systemConfDirs {
			files = append(files, filepath.Join(dir, "pg_service.conf"))
		}
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: read the service file: %w", service.source, err)
		}
		if found, err := v.readService(string(text), service.text); found || err != nil {
			if err != nil {
				return fmt.Errorf("%s: service file %s: %w", service.source, file, err)
			}
			return nil
		}
	}
	return fmt.Errorf("%s: no service file defines the service; looked in %s", service.source, strings.Join(files, ", "))
}

// or returns a keyword's value, or else that of its environment variable.
func (v *values) or(keyword string, env func(string) (string, bool)) value {
	if found, ok := v.get(keyword); ok {
		return found
	}
	text, _ := env(keywords[keyword])
	return value{text, keywords[keyword]}
}

func (v *values) readService(text, service string) (found bool, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			if found {
				return true, nil
			}
			found = line == "["+service+"]"
		case !found:
		case strings.HasPrefix(line, "ldap"):
			return true, errors.New("LDAP lookups are not supported")
		default:
			name, text, ok := strings.Cut(line, "=")
			name = strings.TrimSpace(name)
			if _, known := keywords[name]; !ok || !known || name == "service" {
				return true, fmt.Errorf("line %d is not a parameter", n)
			}
			if _, given := v.get(name); !given {
				v.keywords[name] = value{strings.TrimSpace(text), name + " in the service file"}
			}
		}
	}
	return found, nil
}

// homeDir returns the user's home directory, or "" if it is unknown.
func homeDir(env func(string) (string, bool)) string {
	home, _ := env("HOME")
	return home
}
