package bridge

import (
	"fmt"
	"strings"
)

// IsZero reports whether no table is named.
func (t Table) IsZero() bool { return t.Name == "" }

// String returns "schema.table", each part quoted where SQL needs it.
func (t Table) String() string { return quoteName(t.Schema) + "." + quoteName(t.Name) }

// MarshalText implements encoding.TextMarshaler.
func (t Table) MarshalText() ([]byte, error) {
	if t.IsZero() {
		return []byte{}, nil // nil is no text for the encoder of TOML
	}
	return []byte(t.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler: "schema.table", each part as it is or quoted as in SQL.
func (t *Table) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*t = Table{}
		return nil
	}
	var parts []string
	rest := string(text)
	for {
		part, tail, err := cutName(rest)
		if err != nil {
			return fmt.Errorf("the table %q: %w", text, err)
		}
		parts = append(parts, part)
		if tail == "" {
			break
		}
		rest = tail[1:]
	}
	if len(parts) != 2 {
		return fmt.Errorf("the table %q must have the form schema.table, for example public.tasks", text)
	}
	t.Schema, t.Name = parts[0], parts[1]
	return nil
}

// cutName splits the first name, quoted or not, from what follows it, which is empty or begins with a point.
func cutName(text string) (name, tail string, err error) {
	if !strings.HasPrefix(text, `"`) {
		name, _, _ = strings.Cut(text, ".")
		if name == "" || strings.Contains(name, `"`) {
			return "", "", fmt.Errorf("a name is empty or not quoted correctly")
		}
		return name, text[len(name):], nil
	}
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] != '"':
		case i+1 < len(text) && text[i+1] == '"':
			i++
		case i == 1, i+1 < len(text) && text[i+1] != '.', strings.HasSuffix(text[i+1:], ".") && len(text[i+1:]) == 1:
			return "", "", fmt.Errorf("a name is empty or not quoted correctly")
		default:
			return strings.ReplaceAll(text[1:i], `""`, `"`), text[i+1:], nil
		}
	}
	return "", "", fmt.Errorf("a quotation mark is not closed")
}

func quoteName(name string) string {
	plain := name != ""
	for i, r := range name {
		if r != '_' && (r < 'a' || r > 'z') && (i == 0 || r < '0' || r > '9') {
			plain = false
		}
	}
	if plain {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}
