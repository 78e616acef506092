package pgdial

import (
	"os"
	"strconv"
	"strings"

	"imagetasks/pkg/pgurl"
)

// password returns the password for a host: the configured one, or else that of the password file. As with libpq, a file
// that others may read is not used.
func password(conf pgurl.Config, h pgurl.Host) string {
	if conf.Password != "" || conf.Passfile == "" {
		return conf.Password
	}
	info, err := os.Stat(conf.Passfile)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return ""
	}
	text, err := os.ReadFile(conf.Passfile)
	if err != nil {
		return ""
	}
	host := h.Name
	switch {
	case host == "" && h.Addr.IsValid():
		host = h.Addr.String()
	case host == "", host == "/var/run/postgresql", host == "/run/postgresql", host == "/tmp":
		host = "localhost" // the usual directory of the socket
	}
	want := []string{host, strconv.Itoa(int(h.Port)), conf.Database, conf.User}
next:
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		fields := passfileFields(line)
		if len(fields) < 5 {
			continue
		}
		for i, w := range want {
			if fields[i] != "*" && fields[i] != w {
				continue next
			}
		}
		return fields[4]
	}
	return ""
}

// passfileFields splits a line at its colons; a backslash quotes the next character.
func passfileFields(line string) []string {
	var fields []string
	var b strings.Builder
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && i+1 < len(line):
			i++
			b.WriteByte(line[i])
		case c == ':' && len(fields) < 5:
			fields = append(fields, b.String())
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	return append(fields, b.String())
}
