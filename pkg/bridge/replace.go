package bridge

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// ReplaceBridge returns a file with another part [bridge], which it appends where the file has none. Everything else stays as it is, byte for
// byte. A part that was edited by hand is replaced only with force; without, the error is ErrEdited.
func ReplaceBridge(file, part []byte, force bool) ([]byte, error) {
	var all map[string]any
	if _, err := toml.Decode(string(bytes.TrimPrefix(file, []byte("\ufeff"))), &all); err != nil {
		return nil, syntaxError(err)
	}
	if _, exists := all["bridge"]; !exists {
		before := file
		switch {
		case len(before) == 0:
		case !bytes.HasSuffix(before, []byte("\n")):
			before = slices.Concat(before, []byte("\n\n"))
		default:
			before = slices.Concat(before, []byte("\n"))
		}
		return slices.Concat(before, part), nil
	}
	spans, err := bridgeSpans(file)
	if err != nil {
		return nil, err
	}
	var old, out []byte
	at := 0
	for i, s := range spans {
		out = append(out, file[at:s.begin]...)
		if i == 0 {
			out = append(out, part...)
		}
		old = append(old, file[s.begin:s.end]...)
		at = s.end
	}
	out = append(out, file[at:]...)
	if !force && !isSealed(old) {
		return nil, ErrEdited
	}
	return out, nil
}

type span struct{ begin, end int }

// bridgeSpans returns where the tables of the part [bridge] stand. Comments and empty lines before the table that follows belong to that one.
func bridgeSpans(file []byte) ([]span, error) {
	var spans []span
	inside, end := false, 0
	for _, line := range scanLines(file) {
		switch {
		case line.header != nil:
			isBridge := line.header[0] == "bridge"
			if isBridge && !inside {
				spans = append(spans, span{begin: line.begin})
			}
			if !isBridge && inside {
				spans[len(spans)-1].end = end
			}
			inside = isBridge
		case line.key != nil && line.top && line.key[0] == "bridge":
			return nil, lineError{line.number, "the part [bridge] is written as a key of the file and not as a table, and can't be replaced; remove it first"}
		}
		if !line.blank {
			end = line.end
		}
	}
	if inside {
		spans[len(spans)-1].end = end
	}
	if len(spans) == 0 {
		return nil, errors.New("the part [bridge] can't be found; remove it first")
	}
	return spans, nil
}

// fileLine is a line of TOML that is not within a value.
type fileLine struct {
	number, begin, end int
	header             []string // of a table
	key                []string
	top                bool // before the first table
	blank              bool // empty or a comment
}

// scanLines finds the tables and keys of a TOML text that is known to be correct.
func scanLines(text []byte) []fileLine {
	var out []fileLine
	var quote string // of the text of several lines that is open
	depth, at, top := 0, 0, true
	for n, line := range slices.Collect(bytes.Lines(text)) {
		begin := at
		at += len(line)
		content := strings.TrimSpace(strings.TrimPrefix(string(line), "\ufeff"))
		if quote == "" && depth == 0 {
			l := fileLine{number: n + 1, begin: begin, end: at, top: top}
			switch {
			case content == "" || content[0] == '#':
				l.blank = true
			case content[0] == '[':
				l.header, _ = splitKey(strings.TrimLeft(content, "["))
				top, l.top = false, false
				out = append(out, l)
				continue
			default:
				l.key, _ = splitKey(content)
			}
			out = append(out, l)
		} else if len(out) > 0 {
			out[len(out)-1].end = at
		}
		quote, depth = scanValue(string(line), quote, depth)
	}
	return out
}

// scanValue returns which text of several lines and how many brackets are open at the end of a line.
func scanValue(line, quote string, depth int) (string, int) {
	for i := 0; i < len(line); i++ {
		rest := line[i:]
		switch {
		case quote != "":
			switch {
			case quote[0] == '"' && rest[0] == '\\':
				i++
			case strings.HasPrefix(rest, quote):
				i += len(quote) - 1
				if len(quote) == 3 {
					for i+1 < len(line) && line[i+1] == quote[0] { // the text ends in quotation marks
						i++
					}
				}
				quote = ""
			}
		case strings.HasPrefix(rest, `"""`) || strings.HasPrefix(rest, "'''"):
			quote = rest[:3]
			i += 2
		case rest[0] == '"' || rest[0] == '\'':
			quote = rest[:1]
		case rest[0] == '#':
			return quote, depth
		case rest[0] == '[' || rest[0] == '{':
			depth++
		case rest[0] == ']' || rest[0] == '}':
			depth--
		}
	}
	if len(quote) == 1 {
		quote = "" // it can't be open in a correct file
	}
	return quote, depth
}

// splitKey reads the dotted key at the beginning of a line.
func splitKey(text string) (key []string, rest string) {
	for {
		text = strings.TrimLeft(text, " \t")
		var part string
		switch {
		case strings.HasPrefix(text, `"`):
			end := 1
			for end < len(text) && text[end] != '"' {
				if text[end] == '\\' {
					end++
				}
				end++
			}
			end = min(end+1, len(text))
			if json.Unmarshal([]byte(text[:end]), &part) != nil {
				part = strings.Trim(text[:end], `"`)
			}
			text = text[end:]
		case strings.HasPrefix(text, "'"):
			part, text, _ = strings.Cut(text[1:], "'")
		default:
			end := strings.IndexAny(text, " \t.=]")
			if end < 0 {
				end = len(text)
			}
			part, text = text[:end], text[end:]
		}
		key = append(key, part)
		text = strings.TrimLeft(text, " \t")
		if !strings.HasPrefix(text, ".") {
			return key, text
		}
		text = text[1:]
	}
}

// keyLines returns the number of the line of each table and key, by its path. Keys within an inline table have that of the table.
func keyLines(text []byte) map[string]int {
	out := map[string]int{}
	var table []string
	for _, line := range scanLines(text) {
		path := table
		switch {
		case line.header != nil:
			table = line.header
			path = table
		case line.key != nil:
			path = append(slices.Clone(table), line.key...)
		default:
			continue
		}
		if name := strings.Join(path, "."); out[name] == 0 {
			out[name] = line.number
		}
	}
	return out
}
