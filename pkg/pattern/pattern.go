// Package pattern holds regular expressions that are compiled when they are used first: a program that runs for some milliseconds needs few of them.
package pattern

import (
	"regexp"
	"sync"
)

// Pattern returns the regular expression. It is safe for concurrent use.
type Pattern func() *regexp.Regexp

// New returns the pattern of that text. Its first use panics if the text is invalid.
func New(text string) Pattern {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}
