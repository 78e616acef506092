package imageapi_test

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/proxy"
)

// knownModels are the models of the table, with the sizes that they have; none: free sizes.
var knownModels = map[string][]string{
	"gpt-image-1":            {"1024x1024", "1536x1024", "1024x1536"},
	"gpt-image-1-mini":       {"1024x1024", "1536x1024", "1024x1536"},
	"gpt-image-1.5":          {"1024x1024", "1536x1024", "1024x1536"},
	"chatgpt-image-latest":   {"1024x1024", "1536x1024", "1024x1536"},
	"gpt-image-2":            nil,
	"gpt-image-2-2026-04-21": nil,
	"gpt-image-2.5-sunburst": nil,
	"gpt-image-2.5-flare":    nil,
	"gpt-image-2.6-sunburst": nil,
	"gpt-image-2.6-flare":    nil,
	"dall-e-3":               {"1024x1024", "1792x1024", "1024x1792"},
	"dall-e-2":               {"256x256", "512x512", "1024x1024"},
}

// sizeSent returns the size of the request for an aspect ratio, and the note about it.
func sizeSent(t *testing.T, c *imageapi.Client, api *simapi.Server, model, ratio string) (size, note string) {
	t.Helper()
	r := imageapi.Request{Prompt: "x", Model: model, Options: imageapi.Options{AspectRatio: ratio}}
	_, err := c.Generate(t.Context(), r, io.Discard)
	require.NoError(t, err, "%s %s", model, ratio)
	calls := api.Calls()
	return calls[len(calls)-1].Size, c.SizeNote(model, r.Options)
}

func TestGenerate_AspectRatioBecomesASizeOfTheModel(t *testing.T) {
	api := startAPI(t, simapi.Config{})
	c := client(t, api.URL(), key, proxy.Config{})
	for _, test := range []struct{ model, ratio, size, note string }{
		{"gpt-image-2", "16:9", "1536x864", ""},
		{"gpt-image-2", "9:16", "864x1536", ""},
		{"gpt-image-2", "1:1", "1024x1024", ""},
		{"gpt-image-2", "3:2", "1536x1024", ""},
		{"gpt-image-2", "2:3", "1024x1536", ""},
		{"gpt-image-2", "4:3", "1344x1008", ""},
		{"gpt-image-2", "5:4", "1280x1024", ""},
		{"gpt-image-2", "2:1", "1760x880", ""},
		{"gpt-image-2", "21:9", "1904x816", ""},
		{"gpt-image-2", "3:1", "2160x720", ""},
		{"gpt-image-2", "1:3", "720x2160", ""},
		{"gpt-image-2.6-flare", "16:9", "1536x864", ""},
		{"gpt-image-2", "landscape", "1536x1024", ""},
		{"gpt-image-2", "portrait", "1024x1536", ""},
		{"gpt-image-2", "square", "1024x1024", ""},
		{"gpt-image-2", "auto", "", ""},
		{"gpt-image-2", "1920x1088", "1920x1088", ""},
		{"gpt-image-2", "4:1", "2160x720", "aspect_ratio 4:1: gpt-image-2 has no such size; 2160x720 was used"},
		{"gpt-image-2", "1:99999", "720x2160", "aspect_ratio 1:99999: gpt-image-2 has no such size; 720x2160 was used"},
		{"gpt-image-2", "99999.9999:0.0001", "2160x720", "aspect_ratio 99999.9999:0.0001: gpt-image-2 has no such size; 2160x720 was used"},
		{"gpt-image-1", "1:1", "1024x1024", ""},
		{"gpt-image-1", "3:2", "1536x1024", ""},
		{"gpt-image-1", "16:9", "1536x1024", "aspect_ratio 16:9: gpt-image-1 has no such size; 1536x1024 was used"},
		{"gpt-image-1", "9:16", "1024x1536", "aspect_ratio 9:16: gpt-image-1 has no such size; 1024x1536 was used"},
		{"gpt-image-1", "6:5", "1024x1024", "aspect_ratio 6:5: gpt-image-1 has no such size; 1024x1024 was used"},
		{"gpt-image-1", "landscape", "1536x1024", ""},
		{"gpt-image-1.5-2025-12-16", "4:3", "1536x1024", "aspect_ratio 4:3: gpt-image-1.5-2025-12-16 has no such size; 1536x1024 was used"},
		{"dall-e-3", "7:4", "1792x1024", ""},
		{"dall-e-3", "16:9", "1792x1024", "aspect_ratio 16:9: dall-e-3 has no such size; 1792x1024 was used"},
		{"dall-e-3", "portrait", "1024x1792", ""},
		{"dall-e-3", "auto", "", ""},
		{"dall-e-2", "square", "1024x1024", ""},
		{"dall-e-2", "1:1", "1024x1024", ""},
		{"dall-e-2", "512x512", "512x512", ""},
		{"dall-e-2", "landscape", "1024x1024", "aspect_ratio landscape: dall-e-2 has no such size; 1024x1024 was used"},
		{"dall-e-2", "16:9", "1024x1024", "aspect_ratio 16:9: dall-e-2 has no such size; 1024x1024 was used"},
		// A model that is not known gets one of the usual sizes, as it always did.
		{"flux", "16:9", "1536x1024", `aspect_ratio 16:9: the sizes of "flux" are not known; 1536x1024 was used`},
		{"flux", "3:2", "1536x1024", ""},
		{"flux", "portrait", "1024x1536", ""},
		{"flux", "auto", "", ""},
		{"flux", "1280x720", "1280x720", ""},
		// The client's own model.
		{"", "16:9", "1536x864", ""},
		{"", "4:1", "2160x720", "aspect_ratio 4:1: gpt-image-2 has no such size; 2160x720 was used"},
	} {
		size, note := sizeSent(t, c, api, test.model, test.ratio)
		assert.Equal(t, test.size, size, "%s %s", test.model, test.ratio)
		assert.Equal(t, test.note, note, "%s %s", test.model, test.ratio)
	}
}

// The bounds are the documented ones: multiples of 16, 655,360 to 8,294,400 pixels, edges of at most 3,840 and at most 3:1.
func TestOptions_FreeSizes(t *testing.T) {
	for size, ok := range map[string]bool{
		"1536x864": true, "1024x640": true, "640x1024": true, "2160x720": true, "3840x2160": true, "2160x3840": true, "3840x1280": true, "2880x2880": true,
		"1024x624": false, "512x512": false, "800x800": false, "816x816": true,
		"3856x1296": false, "2176x720": false, "3840x2176": false, "2896x2896": false,
		"1920x1080": false, "1000x1000": false, "01536x864": false, "1536X864": false, "1536": false,
		"99999x99999": false, "99999999999x16": false, "-16x16": false,
	} {
		err := imageapi.Options{Size: size}.Check("gpt-image-2.6-sunburst", 0, false)
		if ok {
			assert.NoError(t, err, size)
		} else if assert.Error(t, err, size) {
			assertBadOptions(t, err)
			assert.Contains(t, err.Error(), "takes auto or WIDTHxHEIGHT", size)
		}
	}
}

func TestParseOptions_AspectRatioWrittenOtherwise(t *testing.T) {
	for ratio, size := range map[string]string{
		"16:9": "1536x864", "16x9": "1536x864", "16X9": "1536x864", "16×9": "1536x864", "16*9": "1536x864", "16/9": "1536x864", "16：9": "1536x864",
		" 16:9 ": "1536x864",
		"16 : 9": "1536x864", "16\t:\n9": "1536x864", "　16：9　": "1536x864", "16.0:9.000": "1536x864", "016:09": "1536x864",
		"32:18":    "1536x864",
		"1.7778:1": "1536x864", "1:0.5625": "1536x864", "1920.0x1080": "1536x864", "63x63": "1024x1024", "00001:1": "1024x1024",
		"Landscape": "1536x1024", "PORTRAIT ": "1024x1536", "Square": "1024x1024", "Auto": "",
		"1536x864": "1536x864", "1536 × 864": "1536x864", "1536*864": "1536x864", "01536X0864": "1536x864",
		"1920:1080": "1536x864", "": "", "  ": "",
	} {
		o, err := imageapi.ParseOptions([]byte(`{"aspect_ratio": ` + strconv.Quote(ratio) + `}`))
		require.NoError(t, err, "%q", ratio)
		require.NoError(t, o.Check("gpt-image-2", 0, false), "%q", ratio)
		assert.Equal(t, size, imageapi.SizeFor(o.AspectRatio, "gpt-image-2"), "%q", ratio)
	}
	for _, ratio := range []string{
		"wide", "16", "16:", ":9", "16:9:4", "16-9", "16,9", "16;9", "0:1", "1:0", "0:0", "0.0000:1", "-16:9", "+16:9", "1e9:1", "NaN:1", "inf:1",
		"100000:1", "1.23456:1",
		"1.:1", ".5:1", "16：：9", "1,91:1", "widescreen", "16:9p", "１６:９", "16∶9", "auto:auto", "16to9", "0x100", "squar",
	} {
		_, err := imageapi.ParseOptions([]byte(fmt.Sprintf(`{"aspect_ratio": %s}`, strconv.Quote(ratio))))
		if assert.Error(t, err, "%q", ratio) {
			assertBadOptions(t, err)
			assert.Contains(t, err.Error(), "option aspect_ratio is ", "%q", ratio)
			for _, form := range []string{"16:9", "1.91:1", "16x9", "square", "landscape", "portrait", "auto", "1536x1024"} {
				assert.Contains(t, err.Error(), form, "the message shows the forms")
			}
		}
		// The processor, which may read a row that another program has written, refuses it for every model.
		for _, model := range []string{"gpt-image-2", "gpt-image-1", "dall-e-3", "flux", ""} {
			assert.Error(t, imageapi.Options{AspectRatio: ratio}.Check(model, 0, false), "%q", ratio)
		}
	}
}

func TestOptions_SizeAndAspectRatio(t *testing.T) {
	for _, test := range []struct {
		model, size, ratio string
		ok                 bool
		note               string
	}{
		{"gpt-image-2", "1536x864", "16:9", true, ""},
		{"gpt-image-2", "3840x2160", "16：9", true, ""},
		{"gpt-image-2", "1536x864", "auto", true, ""},
		{"gpt-image-2", "auto", "auto", true, ""},
		{"gpt-image-2", "auto", "", true, ""},
		// The nearest multiple of 16 to 1080.
		{"gpt-image-2", "1920x1088", "16:9", true, "aspect_ratio 16:9: gpt-image-2 has no such size; 1920x1088 was used"},
		{"gpt-image-2", "1920x1072", "16:9", true, "aspect_ratio 16:9: gpt-image-2 has no such size; 1920x1072 was used"},
		{"gpt-image-2", "1536x1024", "16:9", false, ""},
		{"gpt-image-2", "864x1536", "16:9", false, ""},
		{"gpt-image-2", "auto", "16:9", false, ""},
		{"gpt-image-2", "1024x1024", "1.91:1", false, ""},
		{"gpt-image-2", "3840x1280", "9:1", false, ""},
		{"gpt-image-1", "1536x1024", "16:9", true, "aspect_ratio 16:9: gpt-image-1 has no such size; 1536x1024 was used"},
		{"gpt-image-1", "1024x1024", "16:9", false, ""},
		{"gpt-image-1", "1536x1024", "1024x1024", false, ""},
		{"dall-e-2", "256x256", "1:1", true, ""},
		{"flux", "1280x720", "16:9", true, ""},
		{"flux", "1024x1024", "16:9", false, ""},
		{"flux", "huge", "16:9", false, ""},
	} {
		o := imageapi.Options{Size: test.size, AspectRatio: test.ratio}
		err := o.Check(test.model, 0, false)
		if !test.ok {
			if assert.Error(t, err, "%+v", test) {
				assert.Contains(t, err.Error(), "contradict each other")
			}
			continue
		}
		require.NoError(t, err, "%+v", test)
		assert.Equal(t, test.note, o.SizeNote(test.model), "%+v", test)
	}
}

// edges returns the numbers of a size.
func edges(t *testing.T, size string) (width, height float64) {
	t.Helper()
	_, err := fmt.Sscanf(size, "%fx%f", &width, &height)
	require.NoError(t, err, size)
	return width, height
}

// deviation is how far a size is from a ratio; 0: not at all.
func deviation(width, height, ratio float64) float64 {
	return math.Abs(math.Log(width / height / ratio))
}

// The size is one that the model takes, no other candidate is nearer to the ratio, and the largest of the nearest is used.
func TestSizeFor_IsTheNearest(t *testing.T) {
	random := rand.New(rand.NewPCG(16, 9))
	ratios := []string{}
	for w := 1; w <= 24; w++ {
		for h := 1; h <= 24; h++ {
			ratios = append(ratios, fmt.Sprintf("%d:%d", w, h))
		}
	}
	for range 200 {
		ratios = append(ratios, fmt.Sprintf("%.4f:%.4f", 0.0001+random.Float64()*9, 0.0001+random.Float64()*9),
			fmt.Sprintf("%d:%d", 1+random.IntN(99999), 1+random.IntN(99999)))
	}
	type candidate struct{ width, height float64 }
	var free []candidate
	for w := 16; w <= 3840; w += 16 {
		for h := 16; h <= 3840; h += 16 {
			if max(w, h) <= 3*min(w, h) && min(w, h) <= 1024 && w*h >= 1024*960 && w*h <= 1536*1024 {
				free = append(free, candidate{float64(w), float64(h)})
			}
		}
	}
	require.NotEmpty(t, free)
	const tiny = 1e-12
	for model, sizes := range knownModels {
		candidates := free
		if sizes != nil {
			candidates = nil
			for _, size := range sizes {
				w, h := edges(t, size)
				candidates = append(candidates, candidate{w, h})
			}
		}
		step := 1
		if sizes == nil && model != "gpt-image-2" {
			step = 23 // they have the sizes of gpt-image-2
		}
		for i := 0; i < len(ratios); i += step {
			ratio := ratios[i]
			size := imageapi.SizeFor(ratio, model)
			require.NoError(t, imageapi.Options{Size: size}.Check(model, 0, false), "%s %s", model, ratio)
			require.NoError(t, imageapi.Options{AspectRatio: ratio}.Check(model, 0, false), "%s %s", model, ratio)
			require.NoError(t, imageapi.Options{Size: size, AspectRatio: ratio}.Check(model, 0, false), "%s %s", model, ratio)
			require.Equal(t, size, imageapi.SizeFor(ratio, model), "the same each time")
			a, b, _ := strings.Cut(ratio, ":")
			x, err := strconv.ParseFloat(a, 64)
			require.NoError(t, err)
			y, err := strconv.ParseFloat(b, 64)
			require.NoError(t, err)
			width, height := edges(t, size)
			got := deviation(width, height, x/y)
			for _, c := range candidates {
				other := deviation(c.width, c.height, x/y)
				if other < got-tiny || (math.Abs(other-got) < tiny && c.width*c.height > width*height) {
					require.Failf(t, "another size is nearer", "%s %s: %s, and %vx%v is nearer or larger", model, ratio, size, c.width, c.height)
				}
			}
			noted := imageapi.Options{AspectRatio: ratio}.SizeNote(model) != ""
			require.Equal(t, got >= tiny, noted, "%s %s %s: a note if and only if it is not exact", model, ratio, size)
		}
	}
}

// No text makes the reader of ratios panic, and what it accepts becomes a size that the model takes, or none.
func FuzzAspectRatio(f *testing.F) {
	for _, seed := range []string{
		"16:9", "1.91:1", "16：9", "1536x1024", "Landscape", "auto", "0:1", "99999:0.0001", "16 × 9", "1:", "x", "\xff:\xff", "64x64", "\u212a",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o := imageapi.Options{AspectRatio: text}
		for model := range knownModels {
			if o.Check(model, 0, false) != nil {
				continue
			}
			size := imageapi.SizeFor(text, model)
			if err := (imageapi.Options{Size: size}).Check(model, 0, false); err != nil {
				t.Fatalf("%s %q became %q: %v", model, text, size, err)
			}
			if note := o.SizeNote(model); len(note) > 200 {
				t.Fatalf("%s %q: a note of %d bytes", model, text, len(note))
			}
		}
	})
}
