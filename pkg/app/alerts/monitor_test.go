package alerts

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/alert"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/monitor"
)

// A pass ends no problem that it could not have seen.
func TestView_Looked(t *testing.T) {
	t.Parallel()
	a := &Alerts{}
	all := a.view(monitor.Report{Running: 1, DisksRead: true}, nil)
	assert.Contains(t, all.Looked[alert.Host], finding.DiskNearlyFull)
	assert.Contains(t, all.Looked[alert.Host], finding.APIUnreachable)
	assert.Contains(t, all.Looked[alert.Installation], finding.APIUnreachable)
	assert.Contains(t, all.Looked[alert.Installation], finding.ModelsRefused)

	hangs := a.view(monitor.Report{Running: 1}, nil)
	assert.NotContains(t, hangs.Looked[alert.Host], finding.DiskNearlyFull, "a file system that does not respond")

	none := a.view(monitor.Report{DisksRead: true}, nil)
	for _, code := range []finding.Code{finding.ModelsRefused, finding.ProxyEjected, finding.EndpointFailing, finding.PicturesUnstorable, finding.PicturesNotFetched} {
		assert.NotContains(t, none.Looked[alert.Installation], code, "no processor runs that could see it")
	}
	assert.Contains(t, none.Looked[alert.Installation], finding.TasksStuck)

	for _, subject := range []string{"", "web-2"} {
		v := a.view(monitor.Report{Running: 1, DisksRead: true, Findings: []finding.Finding{{Code: finding.APIUnreachable, Subject: subject}}}, nil)
		assert.NotContains(t, v.Looked[alert.Host], finding.APIUnreachable, "the same problem, seen by another program")
		assert.NotContains(t, v.Looked[alert.Installation], finding.APIUnreachable)
	}
}
