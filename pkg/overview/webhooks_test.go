package overview_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/store"
)

func TestAssess_Webhooks(t *testing.T) {
	now := time.Now()
	findings := overview.Assess(overview.Snapshot{Now: now, Webhooks: &overview.Webhooks{Waiting: 3, Failing: 3, Undelivered: 2, Receivers: []store.FailingReceiver{
		{Host: "", Events: 2, Since: now.Add(-time.Hour), Reason: "connection refused"},
		{Host: "hooks.example", Events: 1, Since: now.Add(-time.Minute), Reason: "the receiver responded 502"},
	}}})
	var codes []finding.Code
	for _, f := range findings {
		codes = append(codes, f.Code)
	}
	assert.Equal(t, []finding.Code{finding.WebhooksUndelivered, finding.WebhookFailing}, codes, "one receiver has failed for a minute only")
	assert.Equal(t, 2, findings[0].Count)
	assert.Equal(t, "COMPLETION_WEBHOOK_URL", findings[1].Subject)
	assert.Equal(t, "connection refused", findings[1].Reason)

	assert.Empty(t, overview.Assess(overview.Snapshot{Now: now, Webhooks: &overview.Webhooks{Waiting: 5, Held: 1}}))
}
