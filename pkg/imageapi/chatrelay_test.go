package imageapi_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

func newClient(t *testing.T, conf imageapi.Config) *imageapi.Client {
	t.Helper()
	tr, err := proxy.New(proxy.Config{})
	require.NoError(t, err)
	t.Cleanup(tr.CloseIdleConnections)
	conf.Key, conf.Transport, conf.MaxBytes, conf.Download.HTTP = key, tr, 1<<20, true
	c, err := imageapi.New(conf)
	require.NoError(t, err)
	return c
}

// The chat endpoint of a relay over a real connection, streamed and not, with an input picture.
func TestGenerate_FromAChatRelay(t *testing.T) {
	for _, streamed := range []bool{true, false} {
		api := startAPI(t, simapi.Config{})
		c := newClient(t, imageapi.Config{BaseURL: api.URL(), Mode: imageapi.ModeChat, Stream: streamed, Model: "gpt-4o-image-vip"})
		require.NoError(t, c.Check(t.Context(), ""))
		assert.Equal(t, []int{1, 0}, []int{api.Incomplete(), api.Paid()})
		input := simapi.Draw("the input")
		for i, mark := range []string{"", "[several] ", "[bare url] ", "[data url] ", "[json] ", "[parts] ", "[older] ", "[english] ", "[cut after picture] "} {
			if mark == "[cut after picture] " && !streamed {
				continue // there the picture is cut off, too
			}
			prompt := mark + "a cat"
			stages := map[string]bool{}
			var b bytes.Buffer
			r := imageapi.Request{Prompt: prompt, Inputs: []imageapi.Input{{Content: input}}, Progress: func(_ int, stage string) { stages[stage] = true }}
			result, err := c.Generate(t.Context(), r, &b)
			require.NoError(t, err, mark)
			if mark == "[data url] " {
				assert.Equal(t, simapi.Draw(prompt), b.Bytes())
			} else {
				assert.Equal(t, api.PictureURL(prompt), result.URL, mark)
			}
			assert.Equal(t, i+1, api.Paid())
			assert.Equal(t, input, api.Calls()[i].Input)
			assert.Equal(t, streamed && mark != "[json] ", stages[imageapi.StageGenerating], mark)
			if mark != "[cut after picture] " {
				assert.JSONEq(t, `{"prompt_tokens":11,"completion_tokens":22,"total_tokens":33}`, string(result.Usage), mark)
			}
		}
	}
}

func TestGenerate_FailuresOfAChatRelay(t *testing.T) {
	for _, streamed := range []bool{true, false} {
		api := startAPI(t, simapi.Config{})
		c := newClient(t, imageapi.Config{BaseURL: api.URL(), Mode: imageapi.ModeChat, Stream: streamed, Model: "m"})
		for mark, want := range map[string]struct {
			code    task.Code
			do      task.Disposition
			unknown bool
		}{
			"cut":            {task.CodeCutOff, task.Release, true},
			"early":          {task.CodeCutOff, task.Release, true},
			"error event":    {task.CodeServer, task.Retry, false},
			"error text":     {task.CodeServer, task.Retry, false},
			"refusal":        {task.CodeModeration, task.Fail, false},
			"moderation":     {task.CodeModeration, task.Fail, false},
			"quota":          {task.CodeNoQuota, task.Pause, false},
			"user quota":     {task.CodeNoQuota, task.Pause, false},
			"no channel":     {task.CodeModelRefused, task.Pause, false},
			"break":          {task.CodeNetwork, task.Release, true},
			"404":            {task.CodeWrongAddress, task.Pause, false},
			"portal":         {task.CodeWebPage, task.Release, true},
			"cloudflare 524": {task.CodeTimeout, task.Release, true},
		} {
			_, err := c.Generate(t.Context(), imageapi.Request{Prompt: "[" + mark + "] a cat"}, &bytes.Buffer{})
			require.Error(t, err, mark)
			e := task.AsError(err)
			assert.Equal(t, []any{want.code, want.do, want.unknown}, []any{e.Code, e.Disposition, e.Unknown}, "%s, streamed %t: %v", mark, streamed, err)
			if streamed && (mark == "cut" || mark == "early") {
				assert.Regexp(t, `\(the API's ids: id chatcmpl-\d+, task task_\d+\)$`, e.Message)
				assert.NotEmpty(t, e.RequestID)
			}
		}
	}
}

// The stream of the Images API, for new pictures and for edits, with the parameters of the models that are checked.
func TestGenerate_StreamOfTheImagesAPI(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := newClient(t, imageapi.Config{BaseURL: api.URL(), Stream: true, PartialImages: 2, Model: "gpt-image-2"})
	for _, inputs := range [][]imageapi.Input{nil, {{Content: simapi.Draw("the input")}}} {
		var b bytes.Buffer
		var percents []int
		_, err := c.Generate(t.Context(), imageapi.Request{Prompt: "a cat", Inputs: inputs, Progress: func(percent int, _ string) { percents = append(percents, percent) }}, &b)
		require.NoError(t, err)
		assert.Equal(t, simapi.Draw("a cat"), b.Bytes())
		assert.Equal(t, []int{33, 66}, percents)
		for _, mark := range []string{"cut", "early"} {
			_, err = c.Generate(t.Context(), imageapi.Request{Prompt: "[" + mark + "] a cat", Inputs: inputs}, &b)
			assert.Equal(t, []any{task.CodeCutOff, true}, []any{task.AsError(err).Code, task.AsError(err).Unknown}, mark)
		}
	}
	for _, call := range api.Calls() {
		assert.Empty(t, call.Refused)
	}
}

// Progress is reported while the picture is being made.
func TestGenerate_ProgressBeforeThePicture(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := newClient(t, imageapi.Config{BaseURL: api.URL(), Mode: imageapi.ModeChat, Stream: true, Model: "m"})
	release := api.HoldChats()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := imageapi.Request{Prompt: "a cat", Progress: func(percent int, _ string) {
		if percent == 41 {
			release()
		}
	}}
	_, err := c.Generate(ctx, r, &bytes.Buffer{})
	require.NoError(t, err)
}
