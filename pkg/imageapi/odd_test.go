package imageapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/task"
)

// dripBody delivers so many bytes a second.
type dripBody struct {
	ctx        context.Context //nolint:containedctx // of the request
	rate, left int
}

func (s *dripBody) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	select {
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	case <-time.After(time.Second):
	}
	n := copy(p, bytes.Repeat([]byte{1}, min(s.rate, s.left)))
	s.left -= n
	return n, nil
}

func (s *dripBody) Close() error { return nil }

// A picture of 4 MB on a line of 20 KB/s arrives, in 200 s. A host that delivers next to nothing ends after two minutes.
func TestDownload_SlowLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rate := 0
		c, err := New(Config{BaseURL: "https://api.example.com/v1", Key: sampleKey, MaxBytes: 8 << 20,
			Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: &dripBody{r.Context(), rate, 4 << 20}, Request: r}, nil
			})})
		require.NoError(t, err)
		rate = 20 << 10
		require.NoError(t, c.Download(t.Context(), "https://cdn.example.com/a.png", 1, &bytes.Buffer{}))

		began := time.Now()
		rate = 10
		var failed *task.Error
		require.ErrorAs(t, c.Download(t.Context(), "https://cdn.example.com/a.png", 1, &bytes.Buffer{}), &failed)
		assert.Equal(t, task.CodeDownload, failed.Code)
		assert.Contains(t, failed.Message, "it did not arrive within 2m0s")
		assert.InDelta(t, 120, time.Since(began).Seconds(), 2)
	})
}

type resettable struct{ bytes.Buffer }

func (r *resettable) Reset() error { r.Buffer.Reset(); return nil }

// What was paid for is read from answers that are odd.
func TestGenerate_ReadsOddAnswers(t *testing.T) {
	picture := "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + strings.Repeat("x", 100)
	inBase64 := base64.StdEncoding.EncodeToString([]byte(picture))
	chat := func(content string) string {
		return `{"choices":[{"message":{"content":` + mustJSON(t, content) + `}}]}`
	}
	for body, url := range map[string]string{ // "": the picture itself
		`{"data":[{"url":"https://h.example/a.png","b64_json":"` + inBase64 + `"}]}`:                        "",
		`{"data":[{"url":"https://h.example/a.png"},{"b64_json":"` + inBase64 + `"}]}`:                      "",
		`{"data":[{"url":"https://h.example/a.png","image":"data:image/png;base64,` + inBase64 + `"}]}`:     "",
		`{"data":[{"url":"https://h.example/a.png","b64_json":"` + inBase64[:60]:                            "https://h.example/a.png",
		`{"data":[{"url":"https://h.example/a.png","b64_json":"` + inBase64[:80] + `!!` + inBase64 + `"}]}`: "https://h.example/a.png",
		`{"data":[{"url":"https://h.example/a.png","b64_json":"notapicturenotapicture"}]}`:                  "https://h.example/a.png",
		`{"data":[{"b64_json":"None","url":"https://h.example/a.png"}]}`:                                    "https://h.example/a.png",
		`{"data":[{"b64_json":"","url":"https://h.example/a.png"}]}`:                                        "https://h.example/a.png",
		`{"data":[{"b64_json":null,"url":null},{"url":"https://h.example/a.png"}]}`:                         "https://h.example/a.png",
		chat("![image](https://h.example/a_(1).png)"):                                                       "https://h.example/a_(1).png",
		chat(`![image](https://h.example/f(x)/a?sig=(q) "title")`):                                          "https://h.example/f(x)/a?sig=(q)",
		chat("(see ![image](https://h.example/a?b=1))"):                                                     "https://h.example/a?b=1",
		chat("![a](<https://h.example/a b.png>)"):                                                           "https://h.example/a b.png",
		chat(`<img src="https://h.example/a?x=1&amp;y=2">`):                                                 "https://h.example/a?x=1&y=2",
		chat("![a](https://h.example/a?x=1&amp;y=2)"):                                                       "https://h.example/a?x=1&y=2",
		chat("Here it is: https://h.example/a.png."):                                                        "https://h.example/a.png",
		chat("**https://h.example/a.png**"):                                                                 "https://h.example/a.png",
		chat("图片：https://h.example/a.png；请下载"):                                                              "https://h.example/a.png",
	} {
		var w resettable
		c := sampleClient(t, sample{200, http.Header{"Content-Type": {"application/json"}}, body}.response)
		result, err := c.Generate(t.Context(), Request{Prompt: "x"}, &w)
		require.NoError(t, err, body)
		assert.Equal(t, url, result.URL, body)
		if url == "" {
			assert.Equal(t, picture, w.String(), body)
		} else {
			assert.Empty(t, w.String(), body)
		}
	}
}

// A proxy on this host, or in its network, resolves names that only exist there.
func TestDownload_RefusesNamesOfPrivateNetworks(t *testing.T) {
	sent := 0
	c := sampleClient(t, func() *http.Response { sent++; return sample{200, nil, "\x89PNG\r\n\x1a\n"}.response() })
	for _, host := range []string{"ip6-localhost", "localhost6", "localhost6.localdomain6", "redis", "router.", "nas.lan", "router.home.arpa", "[fec0::1]",
		"0x7f.1", "2130706433", "localhost.", "127.0.0.1.", "[::ffff:127.0.0.1]", "[fe80::1%25eth0]", "１２７.0.0.1", "127。0。0。1", "user@127.0.0.1", "a.internal"} {
		var failed *task.Error
		require.ErrorAs(t, c.Download(t.Context(), "https://"+host+"/a.png", 1, &bytes.Buffer{}), &failed, host)
		assert.Equal(t, task.CodePictureLost, failed.Code, host)
	}
	assert.Zero(t, sent)
	require.NoError(t, c.Download(t.Context(), "https://cdn.example.com/a.png", 1, &bytes.Buffer{}))
}
