package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"imagetasks/pkg/suggest"
)

// Parse reads the part [bridge] of a file; other parts are left to others. Its errors name the line. It does not check the description against a database:
// see Validate.
func Parse(text []byte) (Description, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	var all map[string]any
	if _, err := toml.Decode(string(text), &all); err != nil {
		return Description{}, syntaxError(err)
	}
	part, ok := all["bridge"]
	if !ok {
		return Description{}, ErrNoBridge
	}
	check := &shapeCheck{lines: keyLines(text)}
	check.value("bridge", part, reflect.TypeFor[Description]())
	if len(check.faults) > 0 {
		slices.SortStableFunc(check.faults, func(a, b lineError) int { return a.line - b.line })
		var faults []error
		for _, f := range check.faults {
			faults = append(faults, f)
		}
		return Description{}, errors.Join(faults...)
	}
	checked, err := toml.Marshal(part) // with codes as words
	if err != nil {
		return Description{}, fmt.Errorf("read the part [bridge]: %w", err)
	}
	var d Description
	if err := toml.Unmarshal(checked, &d); err != nil {
		return Description{}, fmt.Errorf("read the part [bridge]: %w", err)
	}
	return d, nil
}

func syntaxError(err error) error {
	if parse, ok := errors.AsType[toml.ParseError](err); ok {
		return lineError{parse.Position.Line, parse.Message}
	}
	return err
}

// lineError is an error in a line of a file.
type lineError struct {
	line int
	text string
}

func (e lineError) Error() string {
	if e.line == 0 {
		return e.text
	}
	return fmt.Sprintf("line %d: %s", e.line, e.text)
}

// Keys returns the description as it stands in a file.
func (d Description) Keys() (map[string]any, error) {
	text, err := toml.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("write the description: %w", err)
	}
	var out map[string]any
	err = toml.Unmarshal(text, &out)
	return out, err
}

// LineOf returns the number of the line of a key of the part [bridge], such as status.pending, or of the nearest one above it; 0 if there is none.
func LineOf(text []byte, key string) int { return nearestLine(keyLines(text), "bridge."+key) }

func nearestLine(lines map[string]int, path string) int {
	for {
		if line := lines[path]; line > 0 {
			return line
		}
		i := strings.LastIndex(path, ".")
		if i < 0 {
			return 0
		}
		path = path[:i]
	}
}

// shapeCheck compares what a file holds with what a type can hold. The decoder of TOML would name neither the key nor the line.
type shapeCheck struct {
	lines  map[string]int
	faults []lineError
}

func (c *shapeCheck) fault(path, text string, args ...any) {
	c.faults = append(c.faults, lineError{nearestLine(c.lines, path), fmt.Sprintf(text, args...)})
}

func (c *shapeCheck) value(path string, value any, want reflect.Type) {
	name := strings.TrimPrefix(path, "bridge.")
	wrong := func(expected string) {
		c.fault(path, "%s must be %s", name, expected)
	}
	if want == reflect.TypeFor[Table]() {
		text, ok := value.(string)
		if !ok {
			wrong("a text such as \"public.tasks\"")
			return
		}
		if err := new(Table).UnmarshalText([]byte(text)); err != nil {
			c.fault(path, "%s: %v", name, err)
		}
		return
	}
	switch want.Kind() {
	case reflect.Pointer:
		c.value(path, value, want.Elem())
	case reflect.Struct:
		table, ok := value.(map[string]any)
		if !ok {
			wrong("a table, such as [" + path + "]")
			return
		}
		known := map[string]reflect.Type{}
		for i := range want.NumField() {
			key, _, _ := strings.Cut(want.Field(i).Tag.Get("toml"), ",")
			known[key] = want.Field(i).Type
		}
		for _, key := range slices.Sorted(maps.Keys(table)) {
			field, ok := known[key]
			if !ok {
				c.fault(path+"."+key, "[%s] has no key %s%s", path, key, suggest.DidYouMean(key, slices.Sorted(maps.Keys(known))))
				continue
			}
			c.value(path+"."+key, table[key], field)
		}
	case reflect.Map:
		table, ok := value.(map[string]any)
		if !ok {
			wrong("a table, such as [" + path + "]")
			return
		}
		for _, key := range slices.Sorted(maps.Keys(table)) {
			table[key] = asWord(table[key], want.Elem())
			c.value(path+"."+key, table[key], want.Elem())
		}
	case reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			wrong("a list, such as [\"a\", \"b\"]")
			return
		}
		for i := range list {
			list[i] = asWord(list[i], want.Elem())
			c.value(path, list[i], want.Elem())
		}
	case reflect.String:
		if _, ok := value.(string); !ok {
			wrong("a text in quotation marks")
		}
	case reflect.Int, reflect.Int64:
		_, whole := value.(int64)
		_, fraction := value.(float64)
		switch {
		case fraction && strings.HasPrefix(name, "credits.cost"):
			wrong("a whole number; a fraction of a credit can come from a column of the task's row only: write cost_column")
		case !whole:
			wrong("a whole number")
		}
	}
}

// asWord returns a whole number or a boolean among words as the word that it is: pending = [0].
func asWord(value any, want reflect.Type) any {
	switch value.(type) {
	case int64, bool:
		if want.Kind() == reflect.String {
			return fmt.Sprint(value)
		}
	}
	return value
}
