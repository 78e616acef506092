package store_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"imagetasks/internal/appshapes"
	"imagetasks/pkg/bridge"
)

var shapeRows = appshapes.Rows{Users: 10, History: 200, Pending: 20, Processing: 5, Balance: 1000}

// propose installs an application and returns what adopt would propose, as the application's owner.
func propose(t *testing.T, shape appshapes.Shape) (bridge.Catalog, bridge.Proposal) {
	t.Helper()
	b := open(t, server.Empty(t))
	require.NoError(t, shape.Install(b.ctx, b.url))
	if len(shape.Fixed) > 0 {
		require.NoError(t, shape.Seed(b.ctx, b.url, shapeRows))
	}
	c, err := b.as(appshapes.Owner).Catalog(b.ctx)
	require.NoError(t, err)
	return c, bridge.Propose(c, bridge.Settings{})
}

func TestExplore(t *testing.T) {
	for _, shape := range append(appshapes.All(), appshapes.WithoutTasks()...) {
		_, p := propose(t, shape)
		text, _ := json.MarshalIndent(p, "", " ")
		t.Logf("%s\n%s", shape.Name, text)
	}
}
