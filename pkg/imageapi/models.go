package imageapi

import (
	"bytes"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"io"
	"slices"
	"strings"

	"golang.org/x/image/webp"

	"imagetasks/pkg/pattern"
	"imagetasks/pkg/task"
)

// The models whose requests have a form of their own.
const (
	dallE2 = "dall-e-2"
	dallE3 = "dall-e-3"
)

// maxInputs is the largest number of input pictures of any model.
const maxInputs = 16

// model is what one of OpenAI's models takes. An option without values is not supported.
type model struct {
	sizes         []string
	freeSize      bool // sizes within the bounds of isFreeSize, too
	qualities     []string
	complexities  []string
	backgrounds   []string
	formats       []string
	moderations   []string
	fidelities    []string
	inputs        int  // the largest number of input pictures
	squarePNGOnly bool // an input picture must be a square PNG of less than 4 MB
}

// The values that the GPT image models have in common.
var (
	gptSizes       = []string{"auto", "1024x1024", "1536x1024", "1024x1536"}
	gptQualities   = []string{"auto", "low", "medium", "high"}
	gptBackgrounds = []string{"auto", "transparent", "opaque"}
	gptFormats     = []string{"png", "jpeg", "webp"} // the picture store does not take the API's gif and svg
	gptModerations = []string{"auto", "low"}
)

// gptImage is a GPT image model with sizes of its first generation.
func gptImage(fidelities ...string) model {
	return model{
		sizes: gptSizes, qualities: gptQualities, backgrounds: gptBackgrounds, formats: gptFormats, moderations: gptModerations,
		fidelities: fidelities, inputs: maxInputs,
	}
}

// gptImage2 is a GPT image model that takes other sizes, too.
func gptImage2(qualities, fidelities, complexities []string) model {
	m := gptImage(fidelities...)
	m.freeSize, m.qualities, m.complexities = true, qualities, complexities
	return m
}

var (
	lowToMax = []string{"auto", "low", "medium", "high", "xhigh", "max"}
	lowHigh  = []string{"low", "high"}
	gpt25    = gptImage2(lowToMax, lowHigh, nil)
	gpt26    = gptImage2(lowToMax, lowHigh, []string{"low", "medium", "high"})
)

// models is the API's documentation, read in November 2026: https://platform.openai.com/docs/api-reference/images in openai-go
// v3.98.0, and for the bounds of free sizes https://developers.openai.com/api/docs/guides/image-generation. A model that is not
// listed takes every option: relays have models of their own, and new models new values. Where the documentation is vague or
// contradicts itself, the table allows more, because the API refuses a value without charge. OpenAI has shut down the dall-e
// models (May 2026) and gpt-image-1 (October 2026); others may still serve them.
var models = map[string]model{
	"gpt-image-1":            gptImage(lowHigh...),
	"gpt-image-1-mini":       gptImage("low"),
	"gpt-image-1.5":          gptImage(lowHigh...),
	"chatgpt-image-latest":   gptImage(lowHigh...),
	"gpt-image-2":            gptImage2(gptQualities, nil, nil),
	"gpt-image-2.5-sunburst": gpt25,
	"gpt-image-2.5-flare":    gpt25,
	"gpt-image-2.6-sunburst": gpt26,
	"gpt-image-2.6-flare":    gpt26,
	dallE3: {
		sizes:     []string{"1024x1024", "1792x1024", "1024x1792"},
		qualities: []string{"auto", "standard", "hd"},
	},
	dallE2: {
		sizes:     []string{"256x256", "512x512", "1024x1024"},
		qualities: []string{"auto", "standard"},
		inputs:    1, squarePNGOnly: true,
	},
}

var snapshotDate = pattern.New(`-\d{4}-\d{2}-\d{2}$`)

// findModel returns the model of a name, which may be that of a snapshot, such as gpt-image-2-2026-04-21.
func findModel(name string) (model, bool) {
	m, ok := models[name]
	if !ok {
		m, ok = models[snapshotDate().ReplaceAllString(name, "")]
	}
	return m, ok
}

// Check checks the options for a request with that model, number of input pictures, and mask. It returns nil for a model that
// is not known if the options are within their bounds and don't contradict each other: then the API decides. The error is a
// *task.Error with task.CodeBadOptions; it names the option, its value and the values that the model takes.
func (o Options) Check(modelName string, inputs int, mask bool) error {
	if err := o.checkBounds(); err != nil {
		return err
	}
	if o.Size != "" && !o.sizeAgrees(modelName) {
		return badOptions("option size is %s and option aspect_ratio is %s, which contradict each other; set one of them",
			quote(o.Size), quote(o.AspectRatio))
	}
	switch {
	case inputs > maxInputs:
		return badOptions("the number of input pictures is %d; at most %d are allowed", inputs, maxInputs)
	case mask && inputs == 0:
		return badOptions("there is a mask but no input picture")
	}
	if m, ok := findModel(modelName); ok {
		return m.check(modelName, o, inputs)
	}
	return nil
}

func (m model) check(name string, o Options, inputs int) error {
	for _, option := range []struct {
		name, value string
		allowed     []string
	}{
		{"background", o.Background, m.backgrounds},
		{"complexity", o.Complexity, m.complexities},
		{"input_fidelity", o.InputFidelity, m.fidelities},
		{"moderation", o.Moderation, m.moderations},
		{"output_format", o.OutputFormat, m.formats},
		{"quality", o.Quality, m.qualities},
	} {
		switch {
		case option.value == "" || slices.Contains(option.allowed, option.value):
		case len(option.allowed) == 0:
			return badOptions("option %s is %s, but %s has no such option", option.name, quote(option.value), name)
		default:
			return badOptions("option %s is %s; %s takes %s", option.name, quote(option.value), name, list(option.allowed))
		}
	}
	if err := m.checkSize(name, "size", o.Size); err != nil {
		return err
	}
	if err := m.checkSize(name, "aspect_ratio", readAspect(o.AspectRatio).size); err != nil {
		return err
	}
	switch {
	case o.OutputCompression != nil && len(m.formats) == 0:
		return badOptions("option %s is %d, but %s has no such option", nameCompression, *o.OutputCompression, name)
	// The API takes 100, its default, for PNG as well.
	case o.OutputCompression != nil && *o.OutputCompression < 100 && (o.OutputFormat == "" || o.OutputFormat == "png"):
		return badOptions("option %s is %d, which needs the option output_format jpeg or webp", nameCompression, *o.OutputCompression)
	case o.Background == "transparent" && o.OutputFormat == "jpeg":
		return badOptions(`option background is "transparent", which needs the option output_format png or webp; it is "jpeg"`)
	case o.InputFidelity != "" && inputs == 0:
		return badOptions("option input_fidelity is %s, which needs an input picture", quote(o.InputFidelity))
	case inputs > m.inputs && m.inputs == 0:
		return badOptions("the number of input pictures is %d; %s takes none", inputs, name)
	case inputs > m.inputs:
		return badOptions("the number of input pictures is %d; %s takes at most %d", inputs, name, m.inputs)
	}
	return nil
}

func list(values []string) string {
	if len(values) == 1 {
		return "only " + values[0]
	}
	last := len(values) - 1
	return strings.Join(values[:last], ", ") + " or " + values[last]
}

// maxSquarePNG bounds an input picture of dall-e-2, in bytes.
const maxSquarePNG = 4 << 20

// checkPictures checks the format of the input pictures and the mask, if the model is known. Its error is a *task.Error.
func checkPictures(modelName string, pictures []inputPicture, mask *inputPicture) error {
	m, ok := findModel(modelName)
	switch {
	case !ok:
		return nil
	case mask != nil && mask.kind == "jpeg":
		return badInput(mask.name, "is a JPEG, which has no transparency; %s takes a PNG", modelName)
	case !m.squarePNGOnly:
		return checkMask(modelName, pictures, mask)
	}
	all := pictures
	if mask != nil {
		all = append(slices.Clone(pictures), *mask)
	}
	first := ""
	for _, p := range all {
		config, err := png.DecodeConfig(bytes.NewReader(p.content))
		pixels := fmt.Sprintf("%dx%d", config.Width, config.Height)
		switch {
		case p.kind != "png" || err != nil:
			return badInput(p.name, "is not a valid PNG; %s takes no other format", modelName)
		case len(p.content) >= maxSquarePNG:
			return badInput(p.name, "has %d bytes; %s takes less than %d", len(p.content), modelName, maxSquarePNG)
		case config.Width != config.Height:
			return badInput(p.name, "has %s pixels; %s takes a square", pixels, modelName)
		case first == "":
			first = pixels
		case first != pixels:
			return badInput(p.name, "has %s pixels and the picture %s; %s takes the same", pixels, first, modelName)
		}
	}
	return nil
}

// checkMask checks that the mask has the size of the first picture, which it is for. What can't be decoded, the API judges: it
// refuses pictures without charge.
func checkMask(modelName string, pictures []inputPicture, mask *inputPicture) error {
	if mask == nil || len(pictures) == 0 {
		return nil
	}
	first, err1 := dimensions(pictures[0])
	other, err2 := dimensions(*mask)
	// The metadata of a photo may say that it is to be shown turned by 90 degrees.
	turned := pictures[0].kind == "jpeg" && other == size{first.height, first.width}
	if err1 != nil || err2 != nil || other == first || turned {
		return nil
	}
	return badInput(mask.name, "has %s pixels and %s %s; %s takes the same", other, pictures[0].name, first, modelName)
}

// dimensions reads the size of a picture from its head.
func dimensions(p inputPicture) (size, error) {
	decode := map[string]func(io.Reader) (image.Config, error){"png": png.DecodeConfig, "jpeg": jpeg.DecodeConfig, "webp": webp.DecodeConfig}[p.kind]
	config, err := decode(bytes.NewReader(p.content))
	return size{int64(config.Width), int64(config.Height)}, err
}

func badInput(name, format string, args ...any) error {
	return &task.Error{Code: task.CodeBadInput, Disposition: task.Fail, NotSent: true, Message: name + " " + fmt.Sprintf(format, args...)}
}
