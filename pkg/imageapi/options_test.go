package imageapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

func compression(n int) *int { return &n }

func TestParseOptions_KnownNames(t *testing.T) {
	got, err := imageapi.ParseOptions([]byte(` {
		"quality": "high", "size": "1024x1024", "background": "opaque", "output_format": "webp", "output_compression": 0,
		"moderation": "low", "user": "u-1", "style": "ink", "aspect_ratio": "1:1", "input_fidelity": "high",
		"webhook_url": "https://hooks.example/a", "extra": {"seed": 7, "more": {"a": [1]}}} `))
	require.NoError(t, err)
	assert.Equal(t, imageapi.Options{Quality: "high", Size: "1024x1024", Background: "opaque", OutputFormat: "webp",
		OutputCompression: compression(0), Moderation: "low", User: "u-1", Style: "ink", AspectRatio: "1:1", InputFidelity: "high",
		Extra: map[string]json.RawMessage{"seed": []byte("7"), "more": []byte(`{"a": [1]}`)}}, got)
	for _, none := range []string{"", " ", "null", "{}", `{"quality": null, "output_compression": null, "extra": null}`} {
		got, err := imageapi.ParseOptions([]byte(none))
		require.NoError(t, err, none)
		assert.Equal(t, imageapi.Options{}, got, none)
	}
}

func TestParseOptions_NamesTheOption(t *testing.T) {
	long := strings.Repeat("x", 201)
	for raw, want := range map[string]string{
		`[]`:                               "the options are not a JSON object",
		`"x"`:                              "the options are not a JSON object",
		`{`:                                "the options are not a JSON object",
		`{"qualty": "high"}`:               `there is no option "qualty"; the options are aspect_ratio, background, complexity, extra,`,
		`{"Quality": "high"}`:              `there is no option "Quality"`,
		`{"` + long + `": 1}`:              `there is no option "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…"`,
		`{"qualty": null}`:                 `there is no option "qualty"`,
		`{"quality": 1}`:                   "option quality must be a string",
		`{"webhook_url": 1}`:               "option webhook_url must be a string",
		`{"user": ["a"]}`:                  "option user must be a string",
		`{"user": "` + long + `"}`:         "option user has 201 characters; at most 200 are allowed",
		`{"style": "` + long + `"}`:        "option style has 201 characters",
		`{"style": "\u0000"}`:              "option style is not valid text",
		`{"output_compression": "50"}`:     "option output_compression must be an integer from 0 to 100",
		`{"output_compression": 50.5}`:     "option output_compression must be an integer from 0 to 100",
		`{"output_compression": 101}`:      "option output_compression is 101; it must be an integer from 0 to 100",
		`{"output_compression": -1}`:       "option output_compression is -1;",
		`{"extra": []}`:                    "option extra must be an object",
		`{"extra": {"prompt": "x"}}`:       `option extra has the name "prompt", which is not allowed there`,
		`{"extra": {"Prompt": "x"}}`:       `option extra has the name "Prompt", which is not allowed there`,
		`{"extra": {"model": "x"}}`:        `option extra has the name "model"`,
		`{"extra": {"n": 10}}`:             `option extra has the name "n"`,
		`{"extra": {"image": 10}}`:         `option extra has the name "image"`,
		`{"extra": {"image[]": 10}}`:       `option extra has the name "image[]"`,
		`{"extra": {"mask": 10}}`:          `option extra has the name "mask"`,
		`{"extra": {"stream": true}}`:      `option extra has the name "stream"`,
		`{"extra": {"partial_images": 1}}`: `option extra has the name "partial_images"`,
		`{"extra": {"Complexity": "low"}}`: `option extra has the name "Complexity", which is an option of its own`,
		`{"n": 2}`:                         `there is no option "n"`,
		`{"stream": true}`:                 `there is no option "stream"`,
		`{"partial_images": 1}`:            `there is no option "partial_images"`,
		`{"aspect_ratio": 1.5}`:            "option aspect_ratio must be a string",
		`{"aspect_ratio": "16-9"}`:         `option aspect_ratio is "16-9"; it must be a ratio such as 16:9, 1.91:1 or 16x9, one of square,`,
		`{"extra": {"quality": "high"}}`:   `option extra has the name "quality", which is an option of its own`,
		`{"extra": {"a b": 1}}`:            `option extra has the name "a b"; a name must match`,
		`{"extra": {"": 1}}`:               `option extra has the name ""; a name must match`,
		`{"extra": {"a": "` + strings.Repeat("x", 9000) + `"}}`: "option extra is larger than 8192 bytes",
	} {
		_, err := imageapi.ParseOptions([]byte(raw))
		if assert.Error(t, err, raw) {
			assertBadOptions(t, err)
			assert.Contains(t, err.Error(), want)
			assert.Less(t, len(err.Error()), 300)
		}
	}
}

func assertBadOptions(t *testing.T, err error) {
	t.Helper()
	var got *task.Error
	if assert.ErrorAs(t, err, &got) {
		assert.Equal(t, task.CodeBadOptions, got.Code, "%v", err)
		assert.Equal(t, task.Fail, got.Disposition)
		assert.True(t, got.NotSent)
	}
}

var input = imageapi.Input{Content: simapi.Draw("before")}

func TestOptions_CheckNamesTheOption(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := client(t, api.URL(), key, proxy.Config{})
	for _, test := range []struct {
		model   string
		options imageapi.Options
		inputs  int
		mask    bool
		want    string
	}{
		{"gpt-image-1", imageapi.Options{Quality: "ultra"}, 0, false, `option quality is "ultra"; gpt-image-1 takes auto, low, medium or high`},
		{"gpt-image-1", imageapi.Options{Quality: "Low"}, 0, false, `option quality is "Low"; gpt-image-1 takes`},
		{"gpt-image-1", imageapi.Options{Quality: "hd"}, 0, false, `option quality is "hd"`},
		{"gpt-image-1", imageapi.Options{Size: "1792x1024"}, 0, false,
			`option size is "1792x1024"; gpt-image-1 takes auto, 1024x1024, 1536x1024 or 1024x1536`},
		{"gpt-image-1", imageapi.Options{AspectRatio: "2048x1152"}, 0, false, `option aspect_ratio is "2048x1152"; gpt-image-1 takes`},
		{"gpt-image-1", imageapi.Options{Background: "blue"}, 0, false, `option background is "blue"; gpt-image-1 takes auto, transparent or opaque`},
		{"gpt-image-1", imageapi.Options{Background: "transparent", OutputFormat: "jpeg"}, 0, false,
			`option background is "transparent", which needs the option output_format png or webp; it is "jpeg"`},
		{"gpt-image-1", imageapi.Options{OutputFormat: "gif"}, 0, false, `option output_format is "gif"; gpt-image-1 takes png, jpeg or webp`},
		{"gpt-image-1", imageapi.Options{OutputCompression: compression(50)}, 0, false,
			`option output_compression is 50, which needs the option output_format jpeg or webp`},
		{"gpt-image-1", imageapi.Options{OutputCompression: compression(0), OutputFormat: "png"}, 0, false, `option output_compression is 0, which`},
		{"gpt-image-1", imageapi.Options{OutputCompression: compression(200), OutputFormat: "webp"}, 0, false, `option output_compression is 200; it must`},
		{"gpt-image-1", imageapi.Options{Moderation: "high"}, 0, false, `option moderation is "high"; gpt-image-1 takes auto or low`},
		{"gpt-image-1", imageapi.Options{InputFidelity: "high"}, 0, false, `option input_fidelity is "high", which needs an input picture`},
		{"gpt-image-1", imageapi.Options{InputFidelity: "medium"}, 1, false, `option input_fidelity is "medium"; gpt-image-1 takes low or high`},
		{"gpt-image-1", imageapi.Options{}, 17, false, `the number of input pictures is 17; at most 16 are allowed`},
		{"gpt-image-1", imageapi.Options{}, 0, true, `there is a mask but no input picture`},
		{"gpt-image-1-mini", imageapi.Options{InputFidelity: "high"}, 1, false, `option input_fidelity is "high"; gpt-image-1-mini takes only low`},
		{"gpt-image-2", imageapi.Options{InputFidelity: "high"}, 1, false, `option input_fidelity is "high", but gpt-image-2 has no such option`},
		{"gpt-image-2", imageapi.Options{Quality: "xhigh"}, 0, false, `option quality is "xhigh"; gpt-image-2 takes`},
		{"gpt-image-2", imageapi.Options{Size: "1000x1000"}, 0, false, `option size is "1000x1000"; gpt-image-2 takes auto or WIDTHxHEIGHT`},
		{"gpt-image-2", imageapi.Options{Size: "4096x2048"}, 0, false, `option size is "4096x2048"`},
		{"gpt-image-2", imageapi.Options{Size: "3840x1024"}, 0, false, `option size is "3840x1024"`},
		{"gpt-image-2", imageapi.Options{Size: "3840x3840"}, 0, false, `option size is "3840x3840"`},
		{"gpt-image-2", imageapi.Options{Size: "large"}, 0, false, `option size is "large"`},
		{"gpt-image-2", imageapi.Options{Size: "800x800"}, 0, false, `option size is "800x800"; gpt-image-2 takes auto or WIDTHxHEIGHT with both ` +
			`divisible by 16, 655360 to 8294400 pixels, no edge longer than 3840 and an aspect ratio of at most 3:1`},
		{"gpt-image-2", imageapi.Options{AspectRatio: "1920x1080"}, 0, false, `option aspect_ratio is "1920x1080"; gpt-image-2 takes`},
		{"gpt-image-1", imageapi.Options{AspectRatio: "512x512"}, 0, false, `option aspect_ratio is "512x512"; gpt-image-1 takes auto, 1024x1024, 1536x1024`},
		{"gpt-image-2", imageapi.Options{Size: "1536x1024", AspectRatio: "16:9"}, 0, false, `option size is "1536x1024" and option aspect_ratio is "16:9"`},
		{"any", imageapi.Options{AspectRatio: "wide"}, 0, false, `option aspect_ratio is "wide"; it must be a ratio such as 16:9, 1.91:1 or 16x9, one of`},
		{"gpt-image-2", imageapi.Options{Complexity: "low"}, 0, false, `option complexity is "low", but gpt-image-2 has no such option`},
		{"gpt-image-2.6-flare", imageapi.Options{Complexity: "max"}, 0, false, `option complexity is "max"; gpt-image-2.6-flare takes low, medium or high`},
		{"gpt-image-2-2026-04-21", imageapi.Options{Quality: "hd"}, 0, false, `option quality is "hd"; gpt-image-2-2026-04-21 takes`},
		{"", imageapi.Options{Quality: "hd"}, 0, false, `option quality is "hd"; gpt-image-2 takes`},
		{"dall-e-3", imageapi.Options{Quality: "high"}, 0, false, `option quality is "high"; dall-e-3 takes auto, standard or hd`},
		{"dall-e-3", imageapi.Options{Size: "1536x1024"}, 0, false, `option size is "1536x1024"; dall-e-3 takes 1024x1024, 1792x1024 or 1024x1792`},
		{"dall-e-3", imageapi.Options{Background: "auto"}, 0, false, `option background is "auto", but dall-e-3 has no such option`},
		{"dall-e-3", imageapi.Options{OutputFormat: "png"}, 0, false, `option output_format is "png", but dall-e-3 has no such option`},
		{"dall-e-3", imageapi.Options{Moderation: "low"}, 0, false, `option moderation is "low", but dall-e-3 has no such option`},
		{"dall-e-3", imageapi.Options{OutputCompression: compression(100)}, 0, false, `option output_compression is 100, but dall-e-3 has no such option`},
		{"dall-e-3", imageapi.Options{}, 1, false, `the number of input pictures is 1; dall-e-3 takes none`},
		{"dall-e-2", imageapi.Options{Quality: "hd"}, 0, false, `option quality is "hd"; dall-e-2 takes auto or standard`},
		{"dall-e-2", imageapi.Options{Size: "1536x1024"}, 0, false, `option size is "1536x1024"; dall-e-2 takes 256x256, 512x512 or 1024x1024`},
		{"dall-e-2", imageapi.Options{}, 2, false, `the number of input pictures is 2; dall-e-2 takes at most 1`},
		{"any", imageapi.Options{User: strings.Repeat("猫", 201)}, 0, false, `option user has 201 characters`},
		{"any", imageapi.Options{Extra: map[string]json.RawMessage{"seed": []byte("{")}}, 0, false, `option extra has the name "seed", whose value is not JSON`},
		{"any", imageapi.Options{}, 17, false, `the number of input pictures is 17; at most 16 are allowed`},
		{"any", imageapi.Options{Size: "1024x1024", AspectRatio: "16:9"}, 0, false,
			`option size is "1024x1024" and option aspect_ratio is "16:9", which contradict each other; set one of them`},
		{"any", imageapi.Options{Size: "auto", AspectRatio: "16:9"}, 0, false, `option size is "auto" and option aspect_ratio is "16:9"`},
		{"any", imageapi.Options{Size: "1024x1536", AspectRatio: "landscape"}, 0, false, `option size is "1024x1536" and option aspect_ratio is`},
		{"any", imageapi.Options{Size: "1024x1536", AspectRatio: "square"}, 0, false, `option size is "1024x1536" and option aspect_ratio is`},
		{"any", imageapi.Options{Size: "1536x1024", AspectRatio: "portrait"}, 0, false, `option size is "1536x1024" and option aspect_ratio is`},
		{"any", imageapi.Options{Size: "1024x1024", AspectRatio: "512x512"}, 0, false, `option size is "1024x1024" and option aspect_ratio is`},
	} {
		r := imageapi.Request{Prompt: "a secret wish", Model: test.model, Options: test.options}
		for range test.inputs {
			r.Inputs = append(r.Inputs, input)
		}
		if test.mask {
			r.Mask = &input
		}
		_, err := c.Generate(t.Context(), r, io.Discard)
		if assert.Error(t, err, "%s %+v", test.model, test.options) {
			assertBadOptions(t, err)
			assert.Contains(t, err.Error(), test.want)
			assert.NotContains(t, err.Error(), r.Prompt)
		}
	}
	assert.Empty(t, api.Calls(), "nothing is sent")
}

func TestOptions_CheckAccepts(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := client(t, api.URL(), key, proxy.Config{})
	extra := map[string]json.RawMessage{"safety_identifier": []byte(`"u"`)}
	for _, test := range []struct {
		model   string
		options imageapi.Options
		inputs  int
		mask    bool
		want    map[string]string
	}{
		{"gpt-image-1", imageapi.Options{}, 0, false, map[string]string{}},
		{"gpt-image-1", imageapi.Options{Quality: "low", Size: "1536x1024", Background: "transparent", Moderation: "low", User: "u", Extra: extra}, 0, false,
			map[string]string{"quality": "low", "size": "1536x1024", "background": "transparent", "moderation": "low", "user": "u", "safety_identifier": "u"}},
		{"gpt-image-1", imageapi.Options{OutputFormat: "jpeg", OutputCompression: compression(0)}, 0, false,
			map[string]string{"output_format": "jpeg", "output_compression": "0"}},
		{"gpt-image-1", imageapi.Options{OutputCompression: compression(100)}, 0, false, map[string]string{"output_compression": "100"}},
		{"gpt-image-1", imageapi.Options{InputFidelity: "high", Background: "transparent", OutputFormat: "webp", Extra: extra}, 16, true,
			map[string]string{"input_fidelity": "high", "background": "transparent", "output_format": "webp", "safety_identifier": "u"}},
		{"gpt-image-1-mini", imageapi.Options{InputFidelity: "low", Quality: "medium"}, 2, false,
			map[string]string{"input_fidelity": "low", "quality": "medium"}},
		{"gpt-image-1.5-2025-12-16", imageapi.Options{InputFidelity: "high"}, 1, true, map[string]string{"input_fidelity": "high"}},
		{"chatgpt-image-latest", imageapi.Options{Size: "auto"}, 0, false, map[string]string{"size": "auto"}},
		{"gpt-image-2", imageapi.Options{Size: "1536x864", AspectRatio: "16:9"}, 0, false, map[string]string{"size": "1536x864"}},
		{"gpt-image-2", imageapi.Options{Size: "2160x3840", AspectRatio: "portrait"}, 1, false, map[string]string{"size": "2160x3840"}},
		{"gpt-image-1", imageapi.Options{Size: "1536x1024", AspectRatio: "16:9"}, 0, false, map[string]string{"size": "1536x1024"}},
		{"gpt-image-2", imageapi.Options{AspectRatio: "16:9"}, 0, false, map[string]string{"size": "1536x864"}},
		{"gpt-image-2.6-flare", imageapi.Options{Quality: "xhigh", Complexity: "low"}, 0, false, map[string]string{"quality": "xhigh", "complexity": "low"}},
		{"gpt-image-2.6-sunburst", imageapi.Options{Complexity: "high", AspectRatio: "9:16"}, 16, true,
			map[string]string{"complexity": "high", "size": "864x1536"}},
		{"gpt-image-2.5-flare-2026-09-08", imageapi.Options{Quality: "max"}, 0, false, map[string]string{"quality": "max"}},
		{"dall-e-3", imageapi.Options{Quality: "hd", Style: "natural", AspectRatio: "landscape"}, 0, false,
			map[string]string{"quality": "hd", "style": "natural", "size": "1792x1024", "response_format": "b64_json"}},
		{"dall-e-2", imageapi.Options{Size: "256x256", Quality: "standard", User: "u"}, 1, true,
			map[string]string{"size": "256x256", "quality": "standard", "user": "u", "response_format": "b64_json"}},
		{"flux-of-a-relay", imageapi.Options{Quality: "ultra", Size: "7x7", Background: "blue", OutputFormat: "tiff", OutputCompression: compression(1),
			Moderation: "none", InputFidelity: "9", Complexity: "none", AspectRatio: "auto", User: strings.Repeat("猫", 200)}, 0, false,
			map[string]string{"quality": "ultra", "size": "7x7", "background": "blue", "output_format": "tiff", "output_compression": "1",
				"moderation": "none", "input_fidelity": "9", "complexity": "none", "user": strings.Repeat("猫", 200)}},
		{"flux-of-a-relay", imageapi.Options{}, 16, true, map[string]string{}},
	} {
		r := imageapi.Request{Prompt: "x", Model: test.model, Options: test.options}
		for range test.inputs {
			r.Inputs = append(r.Inputs, input)
		}
		if test.mask {
			r.Mask = &input
		}
		_, err := c.Generate(t.Context(), r, io.Discard)
		require.NoError(t, err, "%s %+v", test.model, test.options)
		calls := api.Calls()
		got := calls[len(calls)-1]
		assert.Equal(t, test.want, got.Options, test.model)
		assert.Len(t, got.Inputs, test.inputs)
		assert.Equal(t, test.mask, got.Mask != nil)
		for _, p := range got.Inputs {
			assert.Equal(t, simapi.Picture{Format: "png", Content: input.Content}, p)
		}
	}
}

// The simulated API has a table of its own. The client must not refuse what the API takes, nor send what the API refuses.
func TestOptions_CheckAgreesWithAPI(t *testing.T) {
	tiny := imageapi.Input{Content: pngOf(t, 1, 1)}
	api := startAPI(t, simapi.Config{Picture: func(string) []byte { return tiny.Content }})
	c := client(t, api.URL(), key, proxy.Config{})
	values := map[string][]string{
		"complexity":         {"low", "medium", "high", "auto"},
		"background":         {"auto", "transparent", "opaque", "x"},
		"input_fidelity":     {"low", "high", "x"},
		"moderation":         {"auto", "low", "x"},
		"output_compression": {"0", "99", "100"},
		"output_format":      {"png", "jpeg", "webp", "gif", "svg", "x"},
		"quality":            {"auto", "low", "medium", "high", "xhigh", "max", "standard", "hd", "x"},
		"size": {"auto", "256x256", "512x512", "1024x1024", "1536x1024", "1024x1536", "1792x1024", "1024x1792", "1536x864", "1920x1080",
			"1024x640", "1024x624", "2880x2880", "2896x2896", "3840x2160", "2160x3840", "3840x3840", "3840x1024", "x"},
		"user": {"u"},
	}
	pairs := []map[string]string{
		{"background": "transparent", "output_format": "jpeg"}, {"background": "transparent", "output_format": "webp"},
		{"output_format": "jpeg", "output_compression": "1"}, {"output_format": "webp", "output_compression": "1"},
		{"output_format": "png", "output_compression": "1"}, {"output_format": "png", "output_compression": "100"},
	}
	for name, list := range values {
		for _, value := range list {
			pairs = append(pairs, map[string]string{name: value})
		}
	}
	for _, model := range []string{"gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5", "chatgpt-image-latest", "gpt-image-2", "gpt-image-2.5-sunburst",
		"gpt-image-2.5-flare", "gpt-image-2.6-sunburst", "gpt-image-2.6-flare", "dall-e-3", "dall-e-2"} {
		for _, inputs := range []int{0, 1, 2} {
			for _, set := range pairs {
				object := map[string]any{}
				for name, value := range set {
					object[name] = value
					if name == "output_compression" {
						object[name] = json.Number(value)
					}
				}
				raw, err := json.Marshal(object)
				require.NoError(t, err)
				options, err := imageapi.ParseOptions(raw)
				require.NoError(t, err)
				r := imageapi.Request{Prompt: "x", Model: model, Options: options}
				for range inputs {
					r.Inputs = append(r.Inputs, tiny)
				}
				label := fmt.Sprintf("%s %v with %d pictures", model, set, inputs)
				if options.Check(model, inputs, false) == nil {
					_, err := c.Generate(t.Context(), r, io.Discard)
					assert.NoError(t, err, label)
				} else {
					assert.Equal(t, http.StatusBadRequest, postRaw(t, api.URL(), model, inputs, set), label)
				}
			}
		}
	}
}

// postRaw sends a request without the client and returns the status of the response.
func postRaw(t *testing.T, baseURL, model string, inputs int, set map[string]string) int {
	t.Helper()
	var body bytes.Buffer
	path, contentType := "/images/generations", "application/json"
	if inputs == 0 {
		object := map[string]any{"prompt": "x", "model": model}
		for name, value := range set {
			object[name] = value
		}
		require.NoError(t, json.NewEncoder(&body).Encode(object))
	} else {
		w := multipart.NewWriter(&body)
		for range inputs {
			part, err := w.CreatePart(map[string][]string{"Content-Type": {"image/png"}, "Content-Disposition": {`form-data; name="image[]"; filename="x.png"`}})
			require.NoError(t, err)
			_, err = part.Write(pngOf(t, 1, 1))
			require.NoError(t, err)
		}
		for name, value := range set {
			require.NoError(t, w.WriteField(name, value))
		}
		require.NoError(t, w.WriteField("prompt", "x"))
		require.NoError(t, w.WriteField("model", model))
		require.NoError(t, w.Close())
		path, contentType = "/images/edits", w.FormDataContentType()
	}
	r, err := http.NewRequest(http.MethodPost, baseURL+path, &body)
	require.NoError(t, err)
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("Authorization", "Bearer "+key)
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	require.NoError(t, err)
	return response.StatusCode
}

// The API may quote a value that it refuses: neither the style nor a negative prompt may reach an error.
func TestGenerate_ErrorWithoutPrivateTexts(t *testing.T) {
	for private, options := range map[string]imageapi.Options{
		"in the style of my aunt": {Style: "in the style of my aunt"},
		"no spiders, please":      {Extra: map[string]json.RawMessage{"negative_prompt": []byte(`"no spiders, please"`)}},
		"nor snakes, really":      {Extra: map[string]json.RawMessage{"x": []byte(`{"y": ["nor snakes, really"]}`)}},
	} {
		c := answering(t, 400, nil, `{"error":{"message":"Invalid value: '`+private+`'"}}`)
		_, err := c.Generate(t.Context(), imageapi.Request{Prompt: "x", Options: options}, io.Discard)
		assert.EqualError(t, err, `the API refused the request (400): Invalid value: '[prompt]'`)
	}
}

func TestGenerate_OutputFormat(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := client(t, api.URL(), key, proxy.Config{})
	for format, kind := range map[string]string{"": "png", "png": "png", "jpeg": "jpeg", "webp": "webp"} {
		var b bytes.Buffer
		_, err := c.Generate(t.Context(), imageapi.Request{Prompt: "x", Options: imageapi.Options{OutputFormat: format}}, &b)
		require.NoError(t, err)
		assert.Equal(t, "image/"+kind, http.DetectContentType(b.Bytes()))
	}
}

// jpegOf and pngOf return a picture of a size.
func jpegOf(t *testing.T, width, height int) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, jpeg.Encode(&b, image.NewRGBA(image.Rect(0, 0, width, height)), nil))
	return b.Bytes()
}

func pngOf(t *testing.T, width, height int) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, image.NewRGBA(image.Rect(0, 0, width, height))))
	return b.Bytes()
}
