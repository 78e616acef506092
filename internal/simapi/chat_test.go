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

func TestChats_PaidAndIncomplete(t *testing.T) {
	s, err := simapi.Start(simapi.Config{})
	require.NoError(t, err)
	defer s.Close()
	ask := func(body string) (int, string) {
		response, err := http.Post(s.URL()+"/chat/completions", "application/json", strings.NewReader(body))
		require.NoError(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, string(text)
	}
	for _, body := range []string{`{"model":"m","messages":"none"}`, `{"model":"m"}`, `{"messages":[]}`, `{"messages":[{"role":"user","content":""}]}`} {
		status, _ := ask(body)
		assert.Equal(t, 400, status, body)
	}
	assert.Equal(t, []int{4, 0}, []int{s.Incomplete(), s.Paid()})

	status, text := ask(`{"model":"m","messages":[{"role":"system","content":"draw"},{"role":"user","content":"{\"prompt\":\"a cat\",\"ratio\":\"3:4\"}"}]}`)
	assert.Equal(t, 200, status)
	assert.Contains(t, text, "![gen_1]("+strings.TrimSuffix(s.URL(), "/v1")+"/pictures/")
	status, text = ask(`{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":[{"type":"text","text":"a dog"},` +
		`{"type":"image_url","image_url":{"url":"https://x.example/1.png"}}]}]}`)
	assert.Equal(t, 200, status)
	assert.True(t, strings.HasSuffix(text, "data: [DONE]\n\n"))
	assert.Contains(t, text, `"usage":{"prompt_tokens":11`)
	calls := s.Calls()
	require.Len(t, calls, 2)
	assert.Equal(t, []string{"a cat", "draw", `{"prompt":"a cat","ratio":"3:4"}`}, []string{calls[0].Prompt, calls[0].System, calls[0].Text})
	assert.Equal(t, []string{"https://x.example/1.png"}, calls[1].InputURLs)
}
