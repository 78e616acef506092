package store_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
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

// What a proposal has of an application's own description, and what it asks.
func TestPropose_Shapes(t *testing.T) {
	t.Parallel()
	questions := map[string][]string{
		"supabase":   {"credits.charged:", "credits.cost:"},
		"profiles":   nil,
		"doodles":    {"credits.cost:"},
		"betterauth": {"credits.cost:"},
		"quoted":     nil,
		"booleans":   nil,
		"lots":       {"credits.refund and credits.charge:"},
		"frozen":     {"status:", "status:", "only:", "credits.refund and credits.charge:"},
	}
	for _, shape := range appshapes.All() {
		t.Run(shape.Name, func(t *testing.T) {
			t.Parallel()
			c, p := propose(t, shape)
			want, got := shape.Description, p.Description
			var asked []string
			for _, q := range got.Questions {
				topic, _, _ := strings.Cut(q, " ")
				if strings.HasPrefix(q, "credits.refund and credits.charge:") {
					topic = "credits.refund and credits.charge:"
				}
				asked = append(asked, topic)
			}
			assert.Equal(t, questions[shape.Name], asked, got.Questions)
			for what, pair := range map[string][2]any{
				"tasks": {want.Tasks, got.Tasks}, "key": {want.Key, got.Key}, "user": {want.User, got.User}, "prompt": {want.Prompt, got.Prompt},
				"result": {want.Result, got.Result}, "array": {want.ResultForm == "array", got.ResultForm == "array"}, "text": {want.ResultForm == "text", got.ResultForm == "text"}, "inputs": {want.Inputs, got.Inputs}, "error": {want.Error, got.Error}, "only": {want.Only, got.Only},
				"progress": {want.Progress, got.Progress}, "created": {want.Created, got.Created}, "updated": {want.Updated, got.Updated},
				"completed": {want.Completed, got.Completed}, "started": {want.Started, got.Started}, "style": {want.Style, got.Style}, "ratio": {want.Ratio, got.Ratio},
				"status column": {want.Status.Column, got.Status.Column}, "pending": {want.Status.Pending, got.Status.Pending},
				"completed word": {want.Status.Completed, got.Status.Completed}, "failed word": {want.Status.Failed, got.Status.Failed},
				"failed column": {want.Status.FailedColumn, got.Status.FailedColumn}, "processing column": {want.Status.ProcessingColumn, got.Status.ProcessingColumn},
				"balances": {want.Credits.Table, got.Credits.Table}, "balance": {want.Credits.Column, got.Credits.Column}, "balance key": {want.Credits.Key, got.Credits.Key},
				"decimals": {want.Credits.Decimals, got.Credits.Decimals}, "refunded column": {want.Credits.RefundedColumn, got.Credits.RefundedColumn},
				"refund log": {want.Credits.RefundLog, got.Credits.RefundLog}, "log": {want.Log, got.Log},
			} {
				if shape.Name == "quoted" && what == "error" {
					continue // "Why" gives no hint
				}
				assert.Equal(t, pair[0], pair[1], what)
			}
			if want.History != nil {
				assert.Equal(t, want.History.Table, got.History.Table)
				assert.Equal(t, "{url}", got.History.Columns["image_url"])
			} else {
				assert.Nil(t, got.History)
			}
			for _, problem := range bridge.Validate(got, c) {
				if problem.Key != "questions" && (shape.Name != "doodles" || problem.Key != "prompt") {
					assert.Fail(t, "a proposal has a problem", problem.Error())
				}
			}
			for _, problem := range bridge.Validate(want, c) {
				if shape.Name != "doodles" || problem.Key != "prompt" {
					assert.Fail(t, "the description of the application has a problem", problem.Error())
				}
			}
			read, err := bridge.Parse(p.File())
			require.NoError(t, err, string(p.File()))
			assert.Equal(t, got, read, "the file says what was proposed")
			assert.NotEmpty(t, p.Notes)
		})
	}
}

func TestPropose_WithoutTasks(t *testing.T) {
	t.Parallel()
	for _, shape := range appshapes.WithoutTasks() {
		t.Run(shape.Name, func(t *testing.T) {
			t.Parallel()
			c, p := propose(t, shape)
			require.Len(t, p.Description.Questions, 1)
			assert.Contains(t, p.Description.Questions[0], "no table of this database looks like one of image tasks")
			p.Description.Questions = nil
			assert.Equal(t, bridge.Description{}, p.Description, "nothing is proposed")
			assert.Empty(t, p.Lines)
			assert.NotEmpty(t, bridge.Validate(p.Description, c))
		})
	}
}
