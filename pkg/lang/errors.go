package lang

import (
	"fmt"
	"strings"
)

// textError is an error with a text in each language.
type textError struct {
	text Text
	args []any
	err  error
}

// Errorf returns an error with a text in each language, formatted as by fmt.Errorf: %w wraps.
func Errorf(text Text, args ...any) error {
	return &textError{text, args, fmt.Errorf(text.EN, args...)}
}

// Error returns the text in English.
func (e *textError) Error() string { return e.err.Error() }

// Unwrap returns what fmt.Errorf made of the English text, so that errors.Is and errors.As find what it wraps.
func (e *textError) Unwrap() error { return e.err }

// In returns the text in a language.
func (e *textError) In(l Lang) string {
	text := e.text
	text.EN, text.ZH = strings.ReplaceAll(text.EN, "%w", "%v"), strings.ReplaceAll(text.ZH, "%w", "%v")
	if l == EN || text.ZH == "" {
		return e.Error()
	}
	args := make([]any, len(e.args))
	for i, arg := range e.args {
		args[i] = arg
		if err, ok := arg.(error); ok {
			args[i] = ErrorIn(err, l)
		}
	}
	return text.In(l, args...)
}

// ErrorIn returns the text of an error in a language. Of an error that has no text in it, the parts that it wraps are in that language where they
// have one; the rest is in English.
func ErrorIn(err error, l Lang) string {
	if l == EN {
		return err.Error()
	}
	var parts []error
	switch e := err.(type) {
	case interface{ In(Lang) string }:
		return e.In(l)
	case interface{ Unwrap() []error }:
		parts = e.Unwrap()
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			parts = []error{inner}
		}
	}
	text := err.Error()
	for _, part := range parts {
		if inner := part.Error(); inner != "" {
			text = strings.Replace(text, inner, ErrorIn(part, l), 1)
		}
	}
	return text
}
