package simapi_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
)

func post(t *testing.T, s *simapi.Server, body string) (status int, text string) {
	t.Helper()
	response, err := http.Post(s.URL()+"/images/generations", "application/json", strings.NewReader(body))
	require.NoError(t, err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(content)
}

func TestIncompleteRequests_RefusedAndCountedApart(t *testing.T) {
	s, err := simapi.Start(simapi.Config{})
	require.NoError(t, err)
	defer s.Close()
	status, text := post(t, s, `{"model":"gpt-image-2","n":"none"}`)
	assert.Equal(t, 400, status)
	assert.Contains(t, text, "missing_required_parameter")
	assert.Equal(t, 1, s.Incomplete())
	assert.Zero(t, s.Paid())
	status, _ = post(t, s, `{"model":"gpt-image-2","prompt":"x"}`)
	assert.Equal(t, 200, status)
	assert.Equal(t, 1, s.Incomplete())
	assert.Equal(t, 1, s.Paid())
}

func TestRefusals_OfModelsAndTheList(t *testing.T) {
	s, err := simapi.Start(simapi.Config{})
	require.NoError(t, err)
	defer s.Close()
	s.RefuseModel("a", simapi.Failure("not verified"))
	lax := simapi.Failure("no channel zh")
	lax.CompleteOnly = true
	s.RefuseModel("b", lax)
	for body, want := range map[string]int{
		`{"model":"a","prompt":"x"}`: 403, `{"model":"a"}`: 403, `{"model":"b","prompt":"x"}`: 503, `{"model":"b"}`: 400, `{"model":"c","prompt":"x"}`: 200,
	} {
		status, _ := post(t, s, body)
		assert.Equal(t, want, status, body)
	}
	s.RefuseList(&simapi.Refusal{Status: 403})
	response, err := http.Get(s.URL() + "/models")
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	assert.Equal(t, 403, response.StatusCode)
	s.RefuseModel("a", nil)
	status, _ := post(t, s, `{"model":"a","prompt":"x"}`)
	assert.Equal(t, 200, status)

	s.SetBehaviour("cloudflare 524")
	status, text := post(t, s, `{"prompt":"x"}`)
	assert.Equal(t, 524, status)
	assert.Contains(t, text, "cloudflare")
	status, _ = post(t, s, `{"prompt":"[400] x"}`)
	assert.Equal(t, 400, status, "a prompt's own behaviour counts")
}
