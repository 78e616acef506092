package imageapi_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// signature is what must not appear in an error.
const signature = "s3cr3t-signature"

// inputsClient returns a client whose inputs may be on the loopback interface.
func inputsClient(t *testing.T, api *simapi.Server, conf imageapi.Config, proxyConf proxy.Config) *imageapi.Client {
	t.Helper()
	tr, err := proxy.New(proxyConf)
	require.NoError(t, err)
	t.Cleanup(tr.CloseIdleConnections)
	conf.BaseURL, conf.Key, conf.Model, conf.Transport, conf.MaxBytes = api.URL(), key, "gpt-image-2", tr, 1<<20
	conf.AllowPrivateInputs = true
	c, err := imageapi.New(conf)
	require.NoError(t, err)
	return c
}

// startHost starts a web server with pictures.
func startHost(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL
}

func editing(inputs ...imageapi.Input) imageapi.Request {
	return imageapi.Request{Prompt: "with a hat", Inputs: inputs}
}

func dataURL(content []byte) string {
	return "data:image/png;base64," + base64.StdEncoding.EncodeToString(content)
}

func TestGenerate_Inputs(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := client(t, api.URL(), key, proxy.Config{})
	before, photo, mask := simapi.Draw("before"), jpegOf(t, 8, 8), simapi.Draw("mask")
	r := editing(imageapi.Input{Content: before}, imageapi.Input{URL: dataURL(before)}, imageapi.Input{Content: photo})
	r.Mask = &imageapi.Input{Content: mask}
	_, err := c.Generate(t.Context(), r, io.Discard)
	require.NoError(t, err)
	calls := api.Calls()
	require.Len(t, calls, 1)
	assert.Equal(t, "/v1/images/edits", calls[0].Path)
	assert.Equal(t, "with a hat", calls[0].Prompt)
	assert.Equal(t, []simapi.Picture{{Format: "png", Content: before}, {Format: "png", Content: before}, {Format: "jpeg", Content: photo}}, calls[0].Inputs)
	assert.Equal(t, &simapi.Picture{Format: "png", Content: mask}, calls[0].Mask)
}

func TestGenerate_InputByURL(t *testing.T) {
	authority, err := simapi.NewAuthority()
	require.NoError(t, err)
	for name, conf := range map[string]simapi.Config{"http": {}, "https": {TLS: authority}} {
		t.Run(name, func(t *testing.T) {
			api, host := startAPI(t, conf), startAPI(t, conf)
			p, err := simproxy.Start(simproxy.Config{User: "u", Password: "p"})
			require.NoError(t, err)
			defer p.Close()
			c := inputsClient(t, api, imageapi.Config{}, proxy.Config{Env: proxy.Env{OpenAI: []string{p.URL()}}, RootCAs: authority.Pool})
			// The host refuses a request with a key.
			address := strings.TrimSuffix(host.URL(), "/v1") + "/pictures/" + base64.URLEncoding.EncodeToString([]byte("before"))
			r := editing(imageapi.Input{URL: address + "?sig=" + signature})
			r.Mask = &imageapi.Input{URL: address}
			_, err = c.Generate(t.Context(), r, io.Discard)
			require.NoError(t, err)
			calls := api.Calls()
			require.Len(t, calls, 1)
			assert.Equal(t, simapi.Draw("before"), calls[0].Input)
			assert.Equal(t, simapi.Draw("before"), calls[0].Mask.Content)
			u, err := url.Parse(host.URL())
			require.NoError(t, err)
			assert.Contains(t, p.Targets(), u.Host, "fetched through the proxy")
		})
	}
}

func TestGenerate_InputRedirects(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := inputsClient(t, api, imageapi.Config{}, proxy.Config{})
	content := simapi.Draw("before")
	var mu sync.Mutex
	var referrers []string
	host := startHost(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		referrers = append(referrers, r.Header.Get("Referer")+r.Header.Get("Authorization"))
		mu.Unlock()
		left, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		if left > 0 {
			http.Redirect(w, r, strconv.Itoa(left-1)+"?sig="+signature, http.StatusFound)
			return
		}
		_, _ = w.Write(content)
	})
	_, err := c.Generate(t.Context(), editing(imageapi.Input{URL: host + "/3?sig=" + signature}), io.Discard)
	require.NoError(t, err)
	assert.Equal(t, content, api.Calls()[0].Input)
	assert.Equal(t, []string{"", "", "", ""}, referrers, "a signed URL is not passed on, nor the key")

	_, err = c.Generate(t.Context(), editing(imageapi.Input{URL: host + "/4"}), io.Discard)
	assert.EqualError(t, err, "input picture 1 is redirected more than 3 times")
	for location, want := range map[string]string{
		"ftp://x.example/" + signature:   "input picture 1 has a URL that is not allowed: its scheme must be http, https or data",
		"http://u:" + signature + "@x/":  "input picture 1 has a URL that is not allowed: it contains a login",
		"http://%zz/" + signature:        "input picture 1 is redirected by HOST to a URL that can't be parsed",
		"/" + strings.Repeat("x", 9<<10): "input picture 1 is redirected by HOST to a URL of more than 8192 bytes",
	} {
		wrong := startHost(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", location)
			w.WriteHeader(http.StatusTemporaryRedirect)
		})
		_, err := c.Generate(t.Context(), editing(imageapi.Input{URL: wrong}), io.Discard)
		assert.EqualError(t, err, strings.ReplaceAll(want, "HOST", strings.TrimPrefix(wrong, "http://")))
		assert.Equal(t, task.Fail, task.AsError(err).Disposition)
	}
	assert.Len(t, api.Calls(), 1)
}

// The mask is for the first picture, and a photo may be stored turned by 90 degrees. Models that are not known may take anything.
func TestGenerate_MaskSizes(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := client(t, api.URL(), key, proxy.Config{})
	mask := &imageapi.Input{Content: pngOf(t, 8, 4)}
	for _, test := range []struct {
		model  string
		inputs []imageapi.Input
	}{
		{"gpt-image-2", []imageapi.Input{{Content: pngOf(t, 8, 4)}, {Content: pngOf(t, 16, 16)}}},
		{"gpt-image-1.5", []imageapi.Input{{Content: jpegOf(t, 8, 4)}}},
		{"flux", []imageapi.Input{{Content: pngOf(t, 16, 16)}}},
	} {
		r := editing(test.inputs...)
		r.Model, r.Mask = test.model, mask
		_, err := c.Generate(t.Context(), r, io.Discard)
		assert.NoError(t, err, test.model)
	}
	assert.Len(t, api.Calls(), 3)
	turned := editing(imageapi.Input{Content: jpegOf(t, 4, 8)})
	turned.Mask = mask
	_, err := c.Generate(t.Context(), turned, io.Discard)
	assert.NotEqual(t, task.CodeBadInput, task.AsError(err).Code, "the API decides")
	assert.Len(t, api.Calls(), 4)
}

// Each of these is refused before anything is sent.
func TestGenerate_BadInput(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := client(t, api.URL(), key, proxy.Config{})
	good := imageapi.Input{Content: simapi.Draw("before")}
	square, wide := pngOf(t, 8, 8), pngOf(t, 8, 4)
	for _, test := range []struct {
		model  string
		inputs []imageapi.Input
		mask   *imageapi.Input
		want   string
	}{
		{"", []imageapi.Input{good, {}}, nil, "input picture 2 must have either content or a URL"},
		{"", []imageapi.Input{{Content: good.Content, URL: "https://x.example/"}}, nil, "input picture 1 must have either content or a URL"},
		{"", []imageapi.Input{good, {Content: []byte("hello")}}, nil, "input picture 2 is not a PNG, JPEG or WebP"},
		{"", []imageapi.Input{good, {URL: dataURL([]byte("GIF89a"))}}, nil, "input picture 2 is not a PNG, JPEG or WebP"},
		{"", []imageapi.Input{{URL: "data:image/png," + signature}}, nil, "input picture 1 is a data: URL that can't be decoded: the data: URL has no base64"},
		{"", []imageapi.Input{{URL: "data:image/png;base64,%%%"}}, nil, "input picture 1 is a data: URL that can't be decoded: the picture is not base64"},
		{"", []imageapi.Input{good}, &imageapi.Input{Content: []byte("hello")}, "the mask is not a PNG, JPEG or WebP"},
		{"", []imageapi.Input{good}, &imageapi.Input{Content: jpegOf(t, 8, 8)}, "the mask is a JPEG, which has no transparency; gpt-image-2 takes a PNG"},
		{"", []imageapi.Input{{Content: pngOf(t, 8, 4)}, {Content: square}}, &imageapi.Input{Content: square},
			"the mask has 8x8 pixels and input picture 1 8x4; gpt-image-2 takes the same"},
		{"gpt-image-1", []imageapi.Input{{Content: jpegOf(t, 8, 4)}}, &imageapi.Input{Content: square},
			"the mask has 8x8 pixels and input picture 1 8x4; gpt-image-1 takes the same"},
		{"dall-e-2", []imageapi.Input{{Content: jpegOf(t, 8, 8)}}, nil, "input picture 1 is not a valid PNG; dall-e-2 takes no other format"},
		{"dall-e-2", []imageapi.Input{{Content: square[:20]}}, nil, "input picture 1 is not a valid PNG; dall-e-2 takes no other format"},
		{"dall-e-2", []imageapi.Input{{Content: wide}}, nil, "input picture 1 has 8x4 pixels; dall-e-2 takes a square"},
		{"dall-e-2", []imageapi.Input{{Content: append(bytes.Clone(square), make([]byte, 4<<20)...)}}, nil, "input picture 1 has 419"},
		{"dall-e-2", []imageapi.Input{{Content: square}}, &imageapi.Input{Content: pngOf(t, 4, 4)},
			"the mask has 4x4 pixels and the picture 8x8; dall-e-2 takes the same"},
		{"", []imageapi.Input{{URL: "ftp://x.example/" + signature}}, nil, "input picture 1 has a URL that is not allowed: its scheme must be"},
		{"", []imageapi.Input{{URL: "file:///etc/" + signature}}, nil, "input picture 1 has a URL that is not allowed: its scheme must be"},
		{"", []imageapi.Input{{URL: "x.png"}}, nil, "input picture 1 has a URL that is not allowed: its scheme must be"},
		{"", []imageapi.Input{{URL: "https://u:" + signature + "@x.example/"}}, nil, "input picture 1 has a URL that is not allowed: it contains a login"},
		{"", []imageapi.Input{{URL: "https:///x"}}, nil, "input picture 1 has a URL that is not allowed: it has no host"},
		{"", []imageapi.Input{{URL: "https://x.example/%zz" + signature}}, nil, "input picture 1 has a URL that can't be parsed"},
		{"", []imageapi.Input{{URL: "https://x.example/" + strings.Repeat("x", 9<<10)}}, nil, "input picture 1 has a URL of more than 8192 bytes"},
	} {
		r := editing(test.inputs...)
		r.Model, r.Mask = test.model, test.mask
		_, err := c.Generate(t.Context(), r, io.Discard)
		var got *task.Error
		if assert.ErrorAs(t, err, &got, test.want) {
			assert.Contains(t, err.Error(), test.want)
			assert.Equal(t, task.CodeBadInput, got.Code, "%v", err)
			assert.Equal(t, task.Fail, got.Disposition, "%v", err)
			assert.True(t, got.NotSent)
			assert.NotContains(t, err.Error(), signature)
		}
	}
	assert.Empty(t, api.Calls(), "a bad input costs nothing")
}

func TestGenerate_PrivateInputHost(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	p, err := simproxy.Start(simproxy.Config{})
	require.NoError(t, err)
	defer p.Close()
	c := client(t, api.URL(), key, proxy.Config{Env: proxy.Env{OpenAI: []string{p.URL()}}})
	for _, host := range []string{
		"127.0.0.1", "127.9.9.9:8080", "[::1]", "[::]", "0.0.0.0", "localhost", "LOCALHOST.", "x.localhost:80", "printer.local",
		"metadata.google.internal", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "198.18.0.1", "224.0.0.1",
		"255.255.255.255", "[fe80::1]", "[fe80::1%25eth0]", "[fc00::1]", "[fd00::1]", "[ff02::1]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]",
		"[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "2130706433", "127.1", "0177.0.0.1", "0x7f000001", "0x7f.1", "1.2.3.4.5",
	} {
		_, err := c.Generate(t.Context(), editing(imageapi.Input{URL: "http://" + host + "/x.png"}), io.Discard)
		assert.EqualError(t, err, "input picture 1 has a URL that is not allowed: its host is not on the public Internet", host)
	}
	_, err = c.Generate(t.Context(), editing(imageapi.Input{URL: "http://ｌocalhost/"}), io.Discard)
	assert.EqualError(t, err, "input picture 1 has a URL that is not allowed: its host must be in ASCII")
	assert.Empty(t, p.Targets())

	// Nothing of this kind: the proxy is asked for it.
	for _, host := range []string{"8.8.8.8", "[2606:4700::1111]", "1.1.1.1.example", "localhost.example", "x-10.example"} {
		p.SetMode(simproxy.Refuse)
		_, err := c.Generate(t.Context(), editing(imageapi.Input{URL: "https://" + host + "/x.png"}), io.Discard)
		require.Error(t, err)
		assert.NotContains(t, err.Error(), "not allowed", host)
	}
	assert.Len(t, p.Targets(), 5)
	assert.Empty(t, api.Calls())
}

// The first redirect leads to an address that the first URL could not have had.
func TestGenerate_InputRedirectToPrivateHost(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	requested := 0
	transport := roundTripper(func(r *http.Request) (*http.Response, error) {
		requested++
		return &http.Response{StatusCode: http.StatusFound, Header: http.Header{"Location": {"http://169.254.169.254/latest"}}, Body: http.NoBody, Request: r}, nil
	})
	c, err := imageapi.New(imageapi.Config{BaseURL: api.URL(), Key: key, Transport: transport, MaxBytes: 1 << 20})
	require.NoError(t, err)
	_, err = c.Generate(t.Context(), editing(imageapi.Input{URL: "https://pictures.example/x.png"}), io.Discard)
	assert.EqualError(t, err, "input picture 1 has a URL that is not allowed: its host is not on the public Internet")
	assert.Equal(t, 1, requested)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestGenerate_InputUnavailable(t *testing.T) {
	respond := func(status int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if len(header) == 2 {
				w.Header().Set(header[0], header[1])
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, signature)
		}
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		code    task.Code
		do      task.Disposition
		want    string // after "input picture 2"; HOST is the host
	}{
		"404":          {respond(404), task.CodeInputUnavailable, task.Fail, "could not be fetched: HOST responded 404"},
		"403":          {respond(403), task.CodeInputUnavailable, task.Fail, "could not be fetched: HOST responded 403"},
		"401":          {respond(401), task.CodeInputUnavailable, task.Fail, "could not be fetched: HOST responded 401"},
		"204":          {respond(204), task.CodeInputUnavailable, task.Fail, "could not be fetched: HOST responded 204"},
		"302 nowhere":  {respond(302), task.CodeInputUnavailable, task.Fail, "could not be fetched: HOST responded 302"},
		"429":          {respond(429, "Retry-After", "7"), task.CodeInputUnavailable, task.Retry, "could not be fetched: HOST responded 429"},
		"408":          {respond(408), task.CodeInputUnavailable, task.Retry, "could not be fetched: HOST responded 408"},
		"500":          {respond(500), task.CodeInputUnavailable, task.Retry, "could not be fetched: HOST responded 500"},
		"503":          {respond(503), task.CodeInputUnavailable, task.Retry, "could not be fetched: HOST responded 503"},
		"not HTTP":     {nil, task.CodeInputUnavailable, task.Retry, "could not be fetched"},
		"a web page":   {respond(200), task.CodeBadInput, task.Fail, "is not a PNG, JPEG or WebP"},
		"empty":        {func(http.ResponseWriter, *http.Request) {}, task.CodeBadInput, task.Fail, "is not a PNG, JPEG or WebP"},
		"too large":    {respond(200, "Content-Length", "1001"), task.CodeInputTooLarge, task.Fail, "has more than 1000 bytes"},
		"endless":      {func(w http.ResponseWriter, _ *http.Request) { writeEndless(w) }, task.CodeInputTooLarge, task.Fail, "has more than 1000 bytes"},
		"broken":       {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, task.CodeInputUnavailable, task.Retry, "could not be fetched from HOST: the connection broke"},
		"cut off":      {func(w http.ResponseWriter, _ *http.Request) { writePart(w) }, task.CodeInputUnavailable, task.Retry, "could not be fetched from HOST: the connection broke"},
		"no response":  {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, task.CodeInputUnavailable, task.Retry, "could not be fetched from HOST: it did not arrive in time"},
		"never whole":  {func(w http.ResponseWriter, r *http.Request) { writeBegin(w); <-r.Context().Done() }, task.CodeInputUnavailable, task.Retry, "could not be fetched from HOST: it did not arrive in time"},
		"long refusal": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404); writeEndless(w) }, task.CodeInputUnavailable, task.Fail, "could not be fetched: HOST responded 404"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := startAPI(t, simapi.Config{})
			timeout := time.Minute
			if strings.HasPrefix(name, "n") {
				timeout = 50 * time.Millisecond
			}
			c := inputsClient(t, api, imageapi.Config{MaxInputBytes: 1000, InputTimeout: timeout}, proxy.Config{})
			host := closed.URL
			if test.handler != nil {
				host = startHost(t, test.handler)
			}
			_, err := c.Generate(t.Context(), editing(imageapi.Input{Content: pngOf(t, 1, 1)}, imageapi.Input{URL: host + "/x.png?sig=" + signature}), io.Discard)
			var got *task.Error
			require.ErrorAs(t, err, &got)
			assert.Equal(t, test.code, got.Code, "%v", err)
			assert.Equal(t, test.do, got.Disposition, "%v", err)
			assert.True(t, got.NotSent)
			assert.Contains(t, err.Error(), "input picture 2 "+strings.ReplaceAll(test.want, "HOST", strings.TrimPrefix(host, "http://")))
			assert.NotContains(t, err.Error(), signature)
			assert.NotContains(t, err.Error(), "x.png")
			if name == "429" {
				assert.Equal(t, 7*time.Second, got.RetryAfter)
			}
			assert.Empty(t, api.Calls(), "nothing is paid")
		})
	}
}

func writeEndless(w http.ResponseWriter) {
	for chunk := make([]byte, 1<<10); ; {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func writeBegin(w http.ResponseWriter) {
	w.Header().Set("Content-Length", "900")
	_, _ = io.WriteString(w, "\x89PNG")
	_ = http.NewResponseController(w).Flush()
}

func writePart(w http.ResponseWriter) {
	writeBegin(w)
	panic(http.ErrAbortHandler)
}

func TestGenerate_InputSizes(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	content := simapi.Draw("before")
	size := len(content)
	host := startHost(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) })
	byURL, inline, data := imageapi.Input{URL: host}, imageapi.Input{Content: content}, imageapi.Input{URL: dataURL(content)}
	limited := func(limit int) *imageapi.Client {
		return inputsClient(t, api, imageapi.Config{MaxInputBytes: int64(limit)}, proxy.Config{})
	}
	for _, in := range []imageapi.Input{byURL, inline, data} {
		_, err := limited(size).Generate(t.Context(), editing(in, in), io.Discard)
		require.NoError(t, err)
		_, err = limited(size-1).Generate(t.Context(), editing(in), io.Discard)
		require.Error(t, err)
		assert.Equal(t, task.CodeInputTooLarge, task.AsError(err).Code)
		assert.EqualError(t, err, "input picture 1 has more than "+strconv.Itoa(size-1)+" bytes")
		r := editing(in, in)
		r.Mask = &in
		_, err = limited(size).Generate(t.Context(), r, io.Discard)
		assert.EqualError(t, err, "the input pictures have together more than "+strconv.Itoa(2*size)+" bytes; the mask exceeds that")
		assert.Equal(t, task.CodeInputTooLarge, task.AsError(err).Code)
	}
	assert.Len(t, api.Calls(), 3)
}

// A proxy that can't be used affects every task; a host that can't be reached through it only this one.
func TestGenerate_InputThroughBrokenProxy(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	down, err := simproxy.Start(simproxy.Config{User: "u", Password: "hunter2"})
	require.NoError(t, err)
	require.NoError(t, down.Close())
	login, err := simproxy.Start(simproxy.Config{User: "u", Password: "hunter2"})
	require.NoError(t, err)
	defer login.Close()
	works, err := simproxy.Start(simproxy.Config{})
	require.NoError(t, err)
	defer works.Close()
	for name, test := range map[string]struct {
		proxy string
		code  task.Code
		do    task.Disposition
	}{
		"down":        {down.URL(), task.CodeProxyRefused, task.Pause},
		"wrong login": {"http://u:wrong-password@" + login.Addr(), task.CodeProxyLoginRefused, task.Pause},
		"host down":   {works.URL(), task.CodeInputUnavailable, task.Retry},
	} {
		c := inputsClient(t, api, imageapi.Config{}, proxy.Config{Env: proxy.Env{OpenAI: []string{test.proxy}}})
		_, err := c.Generate(t.Context(), editing(imageapi.Input{URL: "https://127.0.0.1:1/x.png?sig=" + signature}), io.Discard)
		var got *task.Error
		require.ErrorAs(t, err, &got, name)
		assert.Equal(t, test.code, got.Code, "%s: %v", name, err)
		assert.Equal(t, test.do, got.Disposition, "%s: %v", name, err)
		assert.True(t, got.NotSent)
		for _, secret := range []string{signature, "hunter2", "wrong-password"} {
			assert.NotContains(t, err.Error(), secret)
		}
	}
	assert.Empty(t, api.Calls())
}

func TestGenerate_CanceledWhileFetching(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := inputsClient(t, api, imageapi.Config{}, proxy.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	host := startHost(t, func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
	_, err := c.Generate(ctx, editing(imageapi.Input{URL: host}), io.Discard)
	assert.Equal(t, task.CodeShutdown, task.AsError(err).Code)
	assert.Equal(t, task.Release, task.AsError(err).Disposition)
	assert.True(t, task.AsError(err).NotSent)

	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	slow := startHost(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_, err = c.Generate(ctx, editing(imageapi.Input{URL: slow}), io.Discard)
	assert.Equal(t, task.CodeTimeout, task.AsError(err).Code)
	assert.Equal(t, task.Retry, task.AsError(err).Disposition)
	assert.Empty(t, api.Calls())
}

// A picture of 20 MB must not be held once more for the form.
func TestGenerate_InputIsNotCopied(t *testing.T) {
	host := startHost(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"data":[{"b64_json":"aGVsbG8="}]}`)
	})
	c := client(t, host+"/v1", key, proxy.Config{})
	in := imageapi.Input{Content: append(pngOf(t, 1, 1), make([]byte, 20<<20)...)}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := c.Generate(t.Context(), editing(in), io.Discard)
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(len(in.Content)/2))
}
