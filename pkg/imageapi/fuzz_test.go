package imageapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/task"
)

// fuzzSamples are all samples of this package's tests, in a fixed order.
func fuzzSamples(t testing.TB) []sample {
	var all []sample
	for _, samples := range []map[string][]sample{answerSamples, pageSamples} {
		for _, name := range sortedKeys(samples) {
			all = append(all, samples[name]...)
		}
	}
	for _, samples := range []map[string]sample{withPicture(t), withURL} {
		for _, name := range sortedKeys(samples) {
			all = append(all, samples[name])
		}
	}
	for _, name := range sortedKeys(unusable) {
		all = append(all, unusable[name].sample)
	}
	for _, name := range sortedKeys(chats) {
		all = append(all, answersOf(chats[name])["streamed"], answersOf(chats[name])["whole"])
	}
	for i, s := range all {
		all[i].body = s.body[:min(len(s.body), 64<<10)]
	}
	return all
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// assemble makes a body of pieces of the samples: each four bytes of the recipe are a sample, where its piece begins, and how long it is.
func assemble(samples []sample, recipe []byte) string {
	var b strings.Builder
	for ; len(recipe) >= 4; recipe = recipe[4:] {
		body := samples[(int(recipe[0])|int(recipe[1])<<8)%len(samples)].body
		from := len(body) * int(recipe[2]) / 256
		b.WriteString(body[from : from+(len(body)-from)*int(recipe[3])/255])
	}
	return b.String()
}

// FuzzGenerate feeds truncated, reordered and mixed answers. Each must end as a picture, a URL or a named failure that does not contradict itself,
// within bounds of time and memory.
func FuzzGenerate(f *testing.F) {
	samples := fuzzSamples(f)
	for i, s := range samples {
		lo, hi := byte(i), byte(i>>8)
		media, packing := s.header.Get("Content-Type"), s.header.Get("Content-Encoding")
		f.Add(s.status, media, packing, []byte{lo, hi, 0, 255}, []byte(nil), byte(0))          // whole
		f.Add(s.status, media, packing, []byte{lo, hi, 0, 100}, []byte(nil), byte(i))          // cut
		f.Add(s.status, media, packing, []byte{lo, hi, 0, 255}, []byte(nil), byte(1))          // then the connection breaks
		f.Add(200, "", "", []byte{lo, hi, 128, 255, lo, hi, 0, 128}, []byte(nil), byte(0))     // its halves the other way round
		f.Add(s.status, media, packing, []byte{lo, hi, 0, 200}, []byte(nil), byte(4|i&3))      // cut, in chat mode
		f.Add(200, media, "", []byte{lo, hi, 0, 255, lo + 7, 0, 0, 255}, []byte(nil), byte(2)) // and another one
		f.Add(500, "text/html", packing, []byte{lo + 3, 0, 0, 60, lo, hi, 20, 255}, []byte("\n\n"), byte(3))
	}
	f.Fuzz(func(t *testing.T, status int, media, packing string, recipe, raw []byte, how byte) {
		if status < 200 || status > 999 || len(recipe) > 64 || len(raw) > 64<<10 {
			return
		}
		body := assemble(samples, recipe) + string(raw)
		c := sampleClient(t, func() *http.Response {
			r := sample{status, http.Header{"Content-Type": {media}, "Content-Encoding": {packing}}, body}.response()
			var content io.Reader = r.Body
			if how&1 != 0 {
				content = io.MultiReader(content, iotest.ErrReader(errors.New("connection reset")))
			}
			if how&2 != 0 {
				content = iotest.HalfReader(content)
			}
			r.Body = io.NopCloser(content)
			return r
		})
		c.conf.MaxBytes = 256 << 10
		if how&4 != 0 {
			var err error
			c.conf.Mode, c.conf.Stream = ModeChat, true
			c.template, err = newPromptTemplate("", "")
			require.NoError(t, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		n := &byteCounter{}
		result, err := c.Generate(ctx, Request{Prompt: "a private wish"}, n)
		runtime.ReadMemStats(&after)
		require.NoError(t, ctx.Err(), "it took too long")
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20), "memory")
		assert.LessOrEqual(t, int64(n.n), c.conf.MaxBytes*4/3+maxEnvelope)
		if err != nil {
			assertFailure(t, err)
			assert.Empty(t, result.URL, "a URL and an error")
		} else if result.URL != "" {
			u, err := url.Parse(result.URL)
			require.NoError(t, err)
			assert.True(t, (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && len(result.URL) <= maxURL, result.URL)
			assert.Zero(t, n.n, "a URL and a picture")
		} else {
			assert.Positive(t, n.n, "neither a picture nor a failure")
		}
		checked := c.Check(ctx, "")
		if e, ok := errors.AsType[*task.Error](checked); ok {
			assertFailure(t, e)
			assert.False(t, e.Unknown || e.Paid, "nothing was asked for: %v", e)
		} else if checked != nil {
			assert.ErrorIs(t, checked, task.ErrUncheckable)
		}
	})
}

func assertFailure(t *testing.T, err error) {
	t.Helper()
	e, ok := err.(*task.Error) //nolint:errorlint // the type is promised
	require.True(t, ok, "%v", err)
	assert.NotEmpty(t, e.Code)
	assert.NotEmpty(t, e.Message)
	assert.Less(t, len(e.Message), 2000)
	assert.NotContains(t, e.Message, "private wish")
	assert.NotContains(t, e.Message, sampleKey)
	assert.False(t, e.NotSent, "it was sent: %v", e)
	assert.False(t, e.Unknown && e.Paid, "what is paid for is not unknown: %v", e)
	assert.False(t, e.Paid && e.Disposition != task.Fail, "what is paid for is not sent again: %v", e)
	assert.False(t, e.Unknown && e.Disposition != task.Release && e.Disposition != task.Pause, "an unknown outcome uses no attempt: %v", e)
	assert.False(t, e.Disposition == task.Pause && e.Scope == task.ScopeTask, "one task stops no others: %v", e)
	assert.True(t, e.Scope >= task.ScopeTask && e.Scope <= task.ScopeAll)
	if u, ok := errors.AsType[*Unusable](err); ok {
		assert.LessOrEqual(t, len(u.Head), maxHead)
	}
}
