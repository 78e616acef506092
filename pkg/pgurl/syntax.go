package pgurl

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"imagetasks/pkg/pattern"
)

// pair is a parameter as it is written.
type pair struct{ name, value string }

// trim removes white space and one pair of quotes around the text, and the command of a copied "psql 'postgres://...'".
func trim(raw string) string {
	text := strings.TrimSpace(raw)
	if rest, ok := strings.CutPrefix(text, "psql "); ok {
		text = strings.TrimSpace(rest)
	}
	if n := len(text); n >= 2 && (text[0] == '\'' || text[0] == '"') && text[n-1] == text[0] {
		text = strings.TrimSpace(text[1 : n-1])
	}
	return text
}

// schemes are the schemes of PostgreSQL's own URLs, and those that Django and PHP libraries use.
var schemes = []string{"postgres", "postgresql", "postgis", "pgsql", "psql"}

// cutScheme returns what follows the scheme of a URL, which may be one of JDBC (jdbc:postgresql) or SQLAlchemy (postgresql+asyncpg).
func cutScheme(text string) (rest string, ok bool) {
	scheme, rest, ok := strings.Cut(text, "://")
	if jdbc, name, found := strings.Cut(scheme, ":"); found && strings.EqualFold(jdbc, "jdbc") {
		scheme = name
	}
	scheme, driver, hasDriver := strings.Cut(scheme, "+")
	if hasDriver && !isName(driver) {
		return "", false
	}
	return rest, ok && slices.ContainsFunc(schemes, func(known string) bool { return strings.EqualFold(known, scheme) })
}

// isName reports whether a text consists of letters, digits, "_", "." and "-".
func isName(text string) bool {
	return text != "" && strings.IndexFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_.-", r)
	}) < 0
}

var otherKind = pattern.New(`^[A-Za-z][A-Za-z0-9+.-]*(:[A-Za-z][A-Za-z0-9+.-]*)?://`)

func split(text string) ([]pair, error) {
	if rest, ok := cutScheme(text); ok {
		return splitURL(rest)
	}
	if prefix := strings.ToLower(otherKind().FindString(text)); prefix != "" {
		if strings.HasPrefix(prefix, "prisma") {
			return nil, errors.New("the database URL is one of Prisma Accelerate, which only Prisma's own client can use; set the" +
				" direct URL of the database, which begins with postgres://")
		}
		return nil, errInvalid
	}
	return splitKeywords(text)
}

// splitURL reads what follows the scheme, with libpq's grammar: several hosts, IPv6 addresses in brackets, no fragment.
// Unlike libpq it takes the last "@" before the path as the end of the password.
func splitURL(text string) ([]pair, error) {
	var pairs []pair
	add := func(name, encoded string) error {
		value, err := unescape(encoded)
		if err != nil {
			return err
		}
		pairs = append(pairs, pair{name, value})
		return nil
	}
	authority := text
	if i := strings.IndexByte(text, '/'); i >= 0 {
		authority = text[:i]
	}
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user, password, hasPassword := strings.Cut(authority[:at], ":")
		if err := add("user", user); err != nil {
			return nil, err
		}
		if hasPassword {
			if err := add("password", password); err != nil {
				return nil, err
			}
		}
		text = text[at+1:]
	}
	hosts, rest := text, ""
	if i := strings.IndexAny(text, "/?"); i >= 0 {
		hosts, rest = text[:i], text[i:]
	}
	names, ports, err := splitHosts(hosts)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(add("host", names), add("port", ports)); err != nil {
		return nil, errInvalid
	}
	path, query, _ := strings.Cut(rest, "?")
	if err := add("dbname", strings.TrimPrefix(path, "/")); err != nil {
		return nil, err
	}
	for parameter := range strings.SplitSeq(query, "&") {
		if parameter == "" {
			continue
		}
		name, value, hasValue := strings.Cut(parameter, "=")
		name, err := unescape(name)
		if err != nil {
			return nil, err
		}
		if !hasValue && name == "ssl" { // JDBC
			value, hasValue = "true", true
		}
		if !hasValue && isKeyword(name) {
			return nil, fmt.Errorf("the parameter %s of the database URL has no value", printable(name))
		}
		if err := add(name, value); err != nil {
			return nil, err
		}
	}
	return pairs, nil
}

// splitHosts returns the hosts and the ports as lists of the same length, as the parameters host and port have them.
func splitHosts(text string) (hosts, ports string, err error) {
	var names, numbers []string
	for len(text) > 0 || len(names) == 0 {
		name := ""
		if strings.HasPrefix(text, "[") {
			end := strings.IndexByte(text, ']')
			if end < 0 {
				return "", "", errInvalid
			}
			name, text = text[1:end], text[end+1:]
			if text != "" && text[0] != ':' && text[0] != ',' {
				return "", "", errInvalid
			}
		} else {
			end := strings.IndexAny(text, ":,")
			if end < 0 {
				end = len(text)
			}
			name, text = text[:end], text[end:]
		}
		one, rest, more := strings.Cut(text, ",")
		names, numbers = append(names, name), append(numbers, strings.TrimPrefix(one, ":"))
		text = rest
		if more && rest == "" { // a list that ends with an empty item
			names, numbers = append(names, ""), append(numbers, "")
		}
	}
	ports = strings.Join(numbers, ",")
	if strings.Trim(ports, ",") == "" {
		ports = ""
	}
	return strings.Join(names, ","), ports, nil
}

// unescape replaces %XX. A "+" stays as it is, as with libpq.
func unescape(s string) (string, error) {
	out, err := url.PathUnescape(s)
	if err != nil || strings.ContainsRune(out, 0) {
		return "", errInvalid
	}
	return out, nil
}

// splitKeywords reads a key=value string with libpq's grammar.
func splitKeywords(text string) ([]pair, error) {
	var pairs []pair
	for {
		text = strings.TrimLeft(text, space)
		if text == "" {
			return pairs, nil
		}
		end := strings.IndexByte(text, '=')
		if end < 0 {
			return nil, errInvalid
		}
		name := strings.TrimRight(text[:end], space)
		if name == "" || strings.ContainsAny(name, space) {
			return nil, errInvalid
		}
		value, rest, err := keywordValue(strings.TrimLeft(text[end+1:], space))
		if err != nil {
			return nil, err
		}
		pairs, text = append(pairs, pair{name, value}), rest
	}
}

const space = " \t\r\n\v\f"

// keywordValue reads a value, which may be in single quotes, and in which a backslash quotes the next character.
func keywordValue(text string) (value, rest string, err error) {
	quoted := strings.HasPrefix(text, "'")
	if quoted {
		text = text[1:]
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\':
			if i++; i < len(text) {
				b.WriteByte(text[i])
			}
		case quoted && c == '\'':
			return b.String(), text[i+1:], nil
		case !quoted && strings.IndexByte(space, c) >= 0:
			return b.String(), text[i:], nil
		default:
			b.WriteByte(c)
		}
	}
	if quoted {
		return "", "", errors.New("the database URL is invalid: a quoted value does not end")
	}
	return b.String(), "", nil
}
