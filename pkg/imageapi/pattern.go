package imageapi

import (
	"regexp"
	"sync"
)

// pattern is a regular expression that is compiled when it is used first: a program that runs once a minute needs few of them.
type pattern func() *regexp.Regexp

func newPattern(text string) pattern {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}
