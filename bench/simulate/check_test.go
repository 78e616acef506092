package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/postgres"
)

// A load that was really worked has the throughput and the waiting times that are simulated for it, and not those of other queues.
func TestCheck_MeasuredAsSimulated(t *testing.T) {
	c := checked(4, builtIn.costs())
	worked, err := work(t.Context(), c, postgres.Config{})
	require.NoError(t, err)
	compared := compare(simulate(c).outcome(), worked)
	t.Logf("%+v", compared)
	assert.False(t, differs(compared), "%+v", compared)
	for name, change := range map[string]func(*config){
		"more slots":    func(c *config) { c.Concurrency *= 2 },
		"fewer slots":   func(c *config) { c.Concurrency /= 2 },
		"shorter tasks": func(c *config) { c.Seconds /= 2 },
		"fewer tasks":   func(c *config) { c.Tasks /= 2 },
	} {
		other := c
		change(&other)
		compared := compare(simulate(other).outcome(), worked)
		assert.True(t, differs(compared[1:]), "%s, the number of tasks aside: %+v", name, compared)
	}
}
