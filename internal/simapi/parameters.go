package simapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg" // formats of input pictures
	_ "image/png"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"slices"
	"strconv"
	"strings"

	_ "golang.org/x/image/webp"
)

// Picture is a picture that was sent to the API.
type Picture struct {
	Format  string // png, jpeg or webp, by its content
	Content []byte
}

// refusal is the error object of a request with a wrong parameter.
type refusal struct{ param, code, message string }

func unknownParameter(name string) *refusal {
	return &refusal{name, "unknown_parameter", fmt.Sprintf("Unknown parameter: '%s'.", name)}
}

func invalidValue(name, value string, allowed []string) *refusal {
	return &refusal{name, "invalid_value", fmt.Sprintf("Invalid value: '%s'. Supported values are: '%s'.", value, strings.Join(allowed, "', '"))}
}

// simulated is a model whose parameters are checked. It is written from the API's documentation, independently of the table of
// the client, so that tests compare the two.
type simulated struct {
	values    map[string][]string // by parameter; nil: any value
	anySize   bool                // multiples of 16 from 655,360 pixels to 3840x2160, besides the listed sizes
	editsOnly map[string][]string // parameters of /images/edits only
	inputs    int                 // 0: the model can't edit
	squarePNG bool
}

func gpt(quality, fidelity []string, anySize bool) simulated {
	m := simulated{
		values: map[string][]string{
			"background":         {"transparent", "opaque", "auto"},
			"moderation":         {"low", "auto"},
			"output_compression": nil,
			"output_format":      {"png", "webp", "jpeg"},
			"quality":            quality,
			"partial_images":     {"0", "1", "2", "3"},
			"safety_identifier":  nil,
			"size":               {"1024x1024", "1024x1536", "1536x1024", "auto"},
			"stream":             {"true", "false"},
			"user":               nil,
		},
		anySize: anySize,
		inputs:  16,
	}
	if fidelity != nil {
		m.editsOnly = map[string][]string{"input_fidelity": fidelity}
	}
	return m
}

func withComplexity(m simulated) simulated {
	m.values["complexity"] = []string{"low", "medium", "high"}
	return m
}

var (
	lowToHigh = []string{"low", "medium", "high", "auto"}
	lowToMax  = []string{"low", "medium", "high", "xhigh", "max", "auto"}
	lowHigh   = []string{"low", "high"}
)

// simulatedModels are the models whose parameters are checked. Other models accept everything, as a relay's may.
var simulatedModels = map[string]simulated{
	"gpt-image-1":            gpt(lowToHigh, lowHigh, false),
	"gpt-image-1-mini":       gpt(lowToHigh, []string{"low"}, false),
	"gpt-image-1.5":          gpt(lowToHigh, lowHigh, false),
	"chatgpt-image-latest":   gpt(lowToHigh, lowHigh, false),
	"gpt-image-2":            gpt(lowToHigh, nil, true),
	"gpt-image-2.5-sunburst": gpt(lowToMax, lowHigh, true),
	"gpt-image-2.5-flare":    gpt(lowToMax, lowHigh, true),
	"gpt-image-2.6-sunburst": withComplexity(gpt(lowToMax, lowHigh, true)),
	"gpt-image-2.6-flare":    withComplexity(gpt(lowToMax, lowHigh, true)),
	"dall-e-3": {values: map[string][]string{
		"quality":         {"standard", "hd", "auto"},
		"response_format": {"url", "b64_json"},
		"size":            {"1024x1024", "1024x1792", "1792x1024"},
		"style":           {"vivid", "natural"},
		"user":            nil,
	}},
	"dall-e-2": {values: map[string][]string{
		"quality":         {"standard", "auto"},
		"response_format": {"url", "b64_json"},
		"size":            {"256x256", "512x512", "1024x1024"},
		"user":            nil,
	}, inputs: 1, squarePNG: true},
}

// check returns what the API refuses in a request, or nil.
func (c Call) check() *refusal {
	m, ok := simulatedModels[c.Model]
	if !ok {
		return nil
	}
	isEdit := strings.HasSuffix(c.Path, "/edits")
	if isEdit && m.inputs == 0 {
		return invalidValue("model", c.Model, []string{"gpt-image-1", "dall-e-2"})
	}
	allowed := maps.Clone(m.values)
	if isEdit {
		maps.Copy(allowed, m.editsOnly)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Options)) {
		value := c.Options[name]
		values, known := allowed[name]
		switch {
		case !known:
			return unknownParameter(name)
		case values == nil || slices.Contains(values, value):
		case name == "size" && m.anySize:
			if !isMultipleOf16(value) {
				return &refusal{name, "invalid_value", fmt.Sprintf("Invalid size '%s'. Width and height must be divisible by 16.", value)}
			}
		default:
			return invalidValue(name, value, values)
		}
	}
	if r := c.checkOutput(); r != nil {
		return r
	}
	return c.checkPictures(m)
}

func isMultipleOf16(size string) bool {
	w, h, _ := strings.Cut(size, "x")
	width, err := strconv.Atoi(w)
	height, err2 := strconv.Atoi(h)
	return errors.Join(err, err2) == nil && width%16 == 0 && height%16 == 0 && min(width, height) > 0 &&
		max(width, height) <= 3*min(width, height) && max(width, height) <= 3840 && width*height <= 3840*2160 && width*height >= 655360
}

// checkOutput checks the parameters that depend on the format of the output.
func (c Call) checkOutput() *refusal {
	format := c.Options["output_format"]
	if format == "" {
		format = "png"
	}
	if c.Options["background"] == "transparent" && format == "jpeg" {
		return &refusal{"background", "invalid_value", "Transparent background is not supported for JPEG output format."}
	}
	text, ok := c.Options["output_compression"]
	if !ok {
		return nil
	}
	switch n, err := strconv.Atoi(text); {
	case err != nil || n < 0 || n > 100:
		return &refusal{"output_compression", "integer_out_of_range", "Invalid 'output_compression': expected an integer from 0 to 100."}
	case n < 100 && format == "png":
		return &refusal{"output_compression", "invalid_value", "Compression less than 100 is not supported for PNG output format"}
	}
	return nil
}

func (c Call) checkPictures(m simulated) *refusal {
	if len(c.Inputs) > m.inputs {
		return &refusal{"image", "array_above_max_length", fmt.Sprintf("Invalid 'image': at most %d pictures are supported.", m.inputs)}
	}
	size := ""
	for _, p := range c.Inputs {
		config, format, err := image.DecodeConfig(bytes.NewReader(p.Content))
		switch {
		case err != nil:
			return &refusal{"image", "invalid_image_file", "Invalid image file or mode for image."}
		case m.squarePNG && (format != "png" || config.Width != config.Height || len(p.Content) >= 4<<20):
			return &refusal{"image", "invalid_image_format", "Uploaded image must be a square PNG and less than 4 MB."}
		}
		if size == "" {
			size = fmt.Sprint(config.Width, config.Height)
		}
	}
	if c.Mask == nil {
		return nil
	}
	config, format, err := image.DecodeConfig(bytes.NewReader(c.Mask.Content))
	switch {
	case err != nil || format == "jpeg" || (m.squarePNG && format != "png"):
		return &refusal{"mask", "invalid_mask_image_format", "Invalid mask image format - mask image missing alpha channel"}
	case fmt.Sprint(config.Width, config.Height) != size:
		return &refusal{"mask", "invalid_mask_image_size", "The mask's size does not match the size of the image."}
	}
	return nil
}

// readJSON returns the request in a body of /images/generations.
func readJSON(r *http.Request) (Call, error) {
	var values map[string]json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&values); err != nil {
		return Call{}, err
	}
	fields := map[string]string{}
	for name, value := range values {
		text := ""
		if json.Unmarshal(value, &text) != nil {
			text = string(value)
		}
		fields[name] = text
	}
	return newCall(fields), nil
}

// readForm returns the request in a form of /images/edits.
func readForm(r *http.Request) (c Call, wrong *refusal) {
	if err := r.ParseMultipartForm(64 << 20); err != nil {
		return c, &refusal{"body", "invalid_request", "the form can't be parsed"}
	}
	fields := map[string]string{}
	for name, values := range r.MultipartForm.Value {
		if len(values) > 1 {
			return c, duplicate(name)
		}
		fields[name] = values[0]
	}
	c = newCall(fields)
	for _, name := range slices.Sorted(maps.Keys(r.MultipartForm.File)) {
		files := r.MultipartForm.File[name]
		if name != "image" && name != "image[]" && name != "mask" {
			return c, unknownParameter(name)
		}
		if len(files) > 1 && name != "image[]" {
			return c, duplicate(name)
		}
		for _, file := range files {
			p, err := readPicture(file)
			if err != nil {
				return c, &refusal{strings.TrimSuffix(name, "[]"), "unsupported_file_mimetype", "Invalid file '" + name + "': " + err.Error()}
			}
			if name == "mask" {
				c.Mask = &p
			} else {
				c.Inputs = append(c.Inputs, p)
			}
		}
	}
	if len(c.Inputs) == 0 {
		return c, &refusal{"image", "missing_required_parameter", "Missing required parameter: 'image'."}
	}
	c.Input = c.Inputs[0].Content
	return c, nil
}

func duplicate(name string) *refusal {
	return &refusal{name, "duplicate_parameter", fmt.Sprintf("Duplicate parameter: '%s'. Use the array syntax instead, '%s[]'.", name, name)}
}

func readPicture(header *multipart.FileHeader) (p Picture, err error) {
	f, err := header.Open()
	if err != nil {
		return p, err
	}
	defer f.Close()
	if p.Content, err = io.ReadAll(f); err != nil {
		return p, err
	}
	detected := http.DetectContentType(p.Content)
	p.Format = strings.TrimPrefix(detected, "image/")
	switch sent := header.Header.Get("Content-Type"); {
	case !slices.Contains([]string{"png", "jpeg", "webp"}, p.Format):
		return p, fmt.Errorf("unsupported mimetype ('%s')", detected)
	case sent != detected:
		return p, fmt.Errorf("the mimetype is '%s' and the content '%s'", sent, detected)
	}
	return p, nil
}

// newCall returns a call with the parameters of a request, without its pictures.
func newCall(fields map[string]string) Call {
	c := Call{Prompt: fields["prompt"], Model: fields["model"], Size: fields["size"], Options: fields}
	for _, name := range []string{"prompt", "model", "n"} {
		delete(fields, name)
	}
	return c
}
