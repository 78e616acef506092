package status

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// https://prometheus.io/docs/instrumenting/exposition_formats/
func TestMetrics_Text(t *testing.T) {
	m := metrics{}
	m.add(metric{"b_total", "Steps.", []string{"name", "step"}}, 7, "\"a\\\n\xff", "one")
	m.add(metric{"b_total", "Steps.", []string{"name", "step"}}, 1e9+0.5, "", "one")
	m.add(metric{"a_up", "1 while it is up.", nil}, 0.5)
	assert.Equal(t, `# HELP a_up 1 while it is up.
# TYPE a_up gauge
a_up 0.5
# HELP b_total Steps.
# TYPE b_total counter
b_total{name="",step="one"} 1.0000000005e+09
b_total{name="\"a\\\n?",step="one"} 7
`, string(m.text()))
}
