package overview

import (
	"context"
	"time"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/store"
)

// Bridge is the state of the bridge to an application's tables, as documents show it.
type Bridge struct {
	Active       bool      `json:"active"`
	AppliedAt    time.Time `json:"applied_at"`
	CheckedAt    time.Time `json:"checked_at,omitzero"` // both sides were compared last
	Inbox        int       `json:"inbox"`               // changes of the application that were not read yet
	InboxSeconds float64   `json:"inbox_oldest_seconds"`
	Owed         int       `json:"outbox"`                // tasks whose end is still to be written to the application's tables
	OwedSeconds  float64   `json:"outbox_oldest_seconds"` // of those that do not fail
	Failing      int       `json:"outbox_failing"`        // of Owed
	Failures     int       `json:"failures"`              // rows that can't be taken over, and others
	LostUpdates  int       `json:"lost_updates"`          // suspected, within a week

	Problems []store.BridgeProblem `json:"problems"` // the oldest of Failing and Failures
}

// BridgeReader is what the state of the bridge is read from.
type BridgeReader interface {
	Bridge(ctx context.Context) (store.BridgeState, error)
	BridgeProblems(ctx context.Context, limit int) ([]store.BridgeProblem, error)
}

// bridgeProblems is how many problems ReadBridge returns.
const bridgeProblems = 20

// ReadBridge returns the state of the bridge, nil if there is none.
func ReadBridge(ctx context.Context, st BridgeReader) (*Bridge, error) {
	b, err := st.Bridge(ctx)
	if err != nil || !b.Exists {
		return nil, err
	}
	problems, err := st.BridgeProblems(ctx, bridgeProblems)
	if err != nil {
		return nil, err
	}
	return &Bridge{Active: b.Active, AppliedAt: b.AppliedAt, CheckedAt: b.CheckedAt, Inbox: b.Inbox, InboxSeconds: b.InboxAge.Seconds(),
		Owed: b.Owed, OwedSeconds: b.OwedAge.Seconds(), Failing: b.Failing, Failures: b.Failures, LostUpdates: b.LostUpdates,
		Problems: append([]store.BridgeProblem{}, problems...)}, nil
}

// bridgeGrace is how long something may wait in the bridge before that is reported.
const bridgeGrace = time.Minute

// bridge reports what is wrong with the bridge.
func (s Snapshot) bridge() []finding.Finding {
	b := s.Bridge
	if b == nil {
		return nil
	}
	var out []finding.Finding
	if n := b.Failing + b.Failures; n > 0 && b.Active {
		f := finding.Finding{Code: finding.BridgeFailing, Count: n}
		if len(b.Problems) > 0 {
			oldest := b.Problems[0]
			f.Subject, f.Since, f.Reason = oldest.Part, oldest.Since, oldest.Reason
			if oldest.Key != "" {
				f.Subject += " " + oldest.Key
			}
		}
		out = append(out, f)
	}
	if waits := max(b.InboxSeconds, b.OwedSeconds); waits > bridgeGrace.Seconds() && b.Active {
		out = append(out, finding.Finding{Code: finding.BridgeBehind, Count: b.Inbox, Total: b.Owed, Seconds: waits})
	}
	if b.LostUpdates > 0 {
		out = append(out, finding.Finding{Code: finding.LostUpdates, Count: b.LostUpdates})
	}
	return out
}
