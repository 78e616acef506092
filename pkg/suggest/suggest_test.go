package suggest_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/suggest"
)

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "ab", 2}, {"status", "status", 0}, {"stauts", "status", 1}, {"stauts", "start", 2}, {"statu", "status", 1},
		{"sttaus", "status", 1}, {"kitten", "sitting", 3}, {"ab", "ba", 1}, {"abc", "ca", 3},
	} {
		assert.Equal(t, c.want, suggest.EditDistance(c.a, c.b), "%s %s", c.a, c.b)
		assert.Equal(t, c.want, suggest.EditDistance(c.b, c.a), "%s %s", c.b, c.a)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"start", "stop", "status"}
	assert.Equal(t, "status", suggest.Nearest("stauts", known))
	assert.Empty(t, suggest.Nearest("dance", known))
}
