package overview_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/store"
)

// bridgeReader is a bridge with one problem.
type bridgeReader struct {
	state       store.BridgeState
	err, second error
}

func (r bridgeReader) Bridge(context.Context) (store.BridgeState, error) { return r.state, r.err }
func (r bridgeReader) BridgeProblems(context.Context, int) ([]store.BridgeProblem, error) {
	return []store.BridgeProblem{{Part: "refund", Key: "job-7", Reason: "the user has no balance", Since: now}}, r.second
}

func TestReadBridge(t *testing.T) {
	b, err := overview.ReadBridge(t.Context(), bridgeReader{})
	require.NoError(t, err)
	assert.Nil(t, b, "there is none")
	away := errors.New("away")
	for _, r := range []bridgeReader{{err: away}, {state: store.BridgeState{Exists: true}, second: away}} {
		_, err = overview.ReadBridge(t.Context(), r)
		assert.ErrorIs(t, err, away)
	}
	b, err = overview.ReadBridge(t.Context(), bridgeReader{state: store.BridgeState{Exists: true, Active: true, Inbox: 1, InboxAge: time.Second,
		Owed: 2, OwedAge: time.Minute, Failing: 1, Failures: 3}})
	require.NoError(t, err)
	assert.Equal(t, 60.0, b.OwedSeconds)
	found := overview.Assess(with(running(), func(s *overview.Snapshot) { s.Bridge = b }))
	require.Equal(t, []finding.Code{finding.BridgeFailing}, codes(found))
	text := found[0].Text(lang.EN)
	assert.Contains(t, text, "4 things fail in the bridge")
	assert.Contains(t, text, "refund job-7")
	assert.Contains(t, text, "the user has no balance")
	assert.Equal(t, finding.Command{Program: "task-processor", Args: []string{"adopt", "--check"}}, found[0].Next())
}
