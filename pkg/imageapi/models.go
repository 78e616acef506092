package imageapi

import (
	"bytes"
	"fmt"
	"image/png"
	"regexp"
	"slices"
	"strconv"
	"strings"

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
	flexibleSize  bool // sizes within the bounds of isFlexibleSize, too
	qualities     []string
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
func gptImage2(qualities, fidelities []string) model {
	m := gptImage(fidelities...)
	m.flexibleSize, m.qualities = true, qualities
	return m
}

var gpt25 = gptImage2([]string{"auto", "low", "medium", "high", "xhigh", "max"}, []string{"low", "high"})

// models is the API's documentation (https://platform.openai.com/docs/api-reference/images, read in openai-go v3.98.0). A
// model that is not listed takes every option: relays have models of their own, and new models new values. Where the
// documentation is vague or contradicts itself, the table allows more, because the API refuses a value without charge.
var models = map[string]model{
	"gpt-image-1":            gptImage("low", "high"),
	"gpt-image-1-mini":       gptImage("low"),
	"gpt-image-1.5":          gptImage("low", "high"),
	"chatgpt-image-latest":   gptImage("low", "high"),
	"gpt-image-2":            gptImage2(gptQualities, nil),
	"gpt-image-2.5-sunburst": gpt25,
	"gpt-image-2.5-flare":    gpt25,
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

var snapshotDate = regexp.MustCompile(`-\d{4}-\d{2}-\d{2}$`)

// findModel returns the model of a name, which may be that of a snapshot, such as gpt-image-2-2026-04-21.
func findModel(name string) (model, bool) {
	m, ok := models[name]
	if !ok {
		m, ok = models[snapshotDate.ReplaceAllString(name, "")]
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
	if o.Size != "" && !agree(o.Size, o.AspectRatio, modelName) {
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
	if err := m.checkSize(name, "aspect_ratio", sizeFor(o.AspectRatio, name)); err != nil {
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

// checkSize checks a size that is the value of an option or follows from it.
func (m model) checkSize(name, option, size string) error {
	switch {
	case size == "" || slices.Contains(m.sizes, size):
		return nil
	case !m.flexibleSize:
		return badOptions("option %s is %s; %s takes %s", option, quote(size), name, list(m.sizes))
	case !isFlexibleSize(size):
		return badOptions("option %s is %s; %s takes auto or WIDTHxHEIGHT with both divisible by 16, at most 3840x2160 or 2160x3840 "+
			"and an aspect ratio of at most 3:1", option, quote(size), name)
	}
	return nil
}

// isFlexibleSize reports whether a size is within the bounds of the models since gpt-image-2. The API has a smallest number of
// pixels, too, which has no fixed value.
func isFlexibleSize(size string) bool {
	width, height := dimensions(size)
	short, long := min(width, height), max(width, height)
	return short > 0 && width%16 == 0 && height%16 == 0 && long <= 3840 && width*height <= 3840*2160 && long <= 3*short
}

var exactSize = regexp.MustCompile(`^[1-9][0-9]{1,4}x[1-9][0-9]{1,4}$`)

// dimensions returns the numbers of a size, or zeros if it has none.
func dimensions(size string) (width, height int) {
	if !exactSize.MatchString(size) {
		return 0, 0
	}
	w, h, _ := strings.Cut(size, "x")
	width, _ = strconv.Atoi(w)
	height, _ = strconv.Atoi(h)
	return width, height
}

// sizeFor returns the model's size for an aspect ratio such as 16:9 or portrait. A size is returned as it is. For any
// other text it returns "", and the API uses its default.
func sizeFor(ratio, model string) string {
	ratio = normalRatio(ratio)
	wide, tall := "1536x1024", "1024x1536"
	switch model {
	case dallE3:
		wide, tall = "1792x1024", "1024x1792"
	case dallE2:
		wide, tall = "1024x1024", "1024x1024"
	}
	switch ratio {
	case "1:1", "square":
		return "1024x1024"
	case "16:9", "3:2", "4:3", "5:4", "21:9", "landscape":
		return wide
	case "9:16", "2:3", "3:4", "4:5", "9:21", "portrait":
		return tall
	}
	if exactSize.MatchString(ratio) {
		return ratio
	}
	return ""
}

func normalRatio(ratio string) string { return strings.ToLower(strings.TrimSpace(ratio)) }

var exactRatio = regexp.MustCompile(`^([1-9][0-9]{0,3}):([1-9][0-9]{0,3})$`)

// agree reports whether a size may be meant by an aspect ratio: it is the model's size for it, or it has that ratio. A ratio
// that means nothing to this package contradicts nothing.
func agree(size, ratio, model string) bool {
	meant := sizeFor(ratio, model)
	ratio = normalRatio(ratio)
	width, height := dimensions(size)
	switch numbers := exactRatio.FindStringSubmatch(ratio); {
	case meant == size:
		return true
	case numbers != nil:
		w, _ := strconv.Atoi(numbers[1])
		h, _ := strconv.Atoi(numbers[2])
		return width > 0 && width*h == height*w
	case ratio == "landscape":
		return width > height
	case ratio == "portrait":
		return width < height
	case ratio == "square":
		return width > 0 && width == height
	}
	return meant == ""
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
		return nil
	}
	all := pictures
	if mask != nil {
		all = append(slices.Clone(pictures), *mask)
	}
	first := ""
	for _, p := range all {
		config, err := png.DecodeConfig(bytes.NewReader(p.content))
		size := fmt.Sprintf("%dx%d", config.Width, config.Height)
		switch {
		case p.kind != "png" || err != nil:
			return badInput(p.name, "is not a valid PNG; %s takes no other format", modelName)
		case len(p.content) >= maxSquarePNG:
			return badInput(p.name, "has %d bytes; %s takes less than %d", len(p.content), modelName, maxSquarePNG)
		case config.Width != config.Height:
			return badInput(p.name, "has %s pixels; %s takes a square", size, modelName)
		case first == "":
			first = size
		case first != size:
			return badInput(p.name, "has %s pixels and the picture %s; %s takes the same", size, first, modelName)
		}
	}
	return nil
}

func badInput(name, format string, args ...any) error {
	return &task.Error{Code: task.CodeBadInput, Disposition: task.Fail, NotSent: true, Message: name + " " + fmt.Sprintf(format, args...)}
}
