package imageapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"imagetasks/pkg/pattern"
	"imagetasks/pkg/task"
)

// Options are the API's own options for one picture. The zero value leaves all of them to the API.
type Options struct {
	Quality           string
	Size              string // such as 1536x1024 or auto
	Background        string
	OutputFormat      string
	OutputCompression *int // from 0 to 100; nil: the API's default
	Moderation        string
	User              string
	InputFidelity     string
	Complexity        string
	// Style is the API's own option for dall-e-3 if it is vivid or natural. Otherwise it is appended to the prompt.
	Style string
	// AspectRatio is not an option of the API: it becomes a size of the model. It is a ratio such as 16:9, 1.91:1 or 16x9, one of
	// square, landscape, portrait and auto, or a size whose edges have at least 64 pixels.
	AspectRatio string
	// Extra are parameters that this package does not know, in JSON, by their names. They are sent as they are.
	Extra map[string]json.RawMessage
}

// The bounds of the options.
const (
	maxOptionRunes = 200
	maxExtraBytes  = 8 << 10
)

// The names of the options that are not strings.
const (
	nameCompression = "output_compression"
	nameExtra       = "extra"
)

// nameWebhook is an option of the queue, which is not sent to the API.
const nameWebhook = "webhook_url"

// textOption is an option that is a string.
type textOption struct {
	name  string
	value *string
}

// texts returns the options that are strings.
func (o *Options) texts() []textOption {
	return []textOption{
		{"aspect_ratio", &o.AspectRatio},
		{"background", &o.Background},
		{"complexity", &o.Complexity},
		{"input_fidelity", &o.InputFidelity},
		{"moderation", &o.Moderation},
		{"output_format", &o.OutputFormat},
		{"quality", &o.Quality},
		{"size", &o.Size},
		{"style", &o.Style},
		{"user", &o.User},
	}
}

// optionNames are the names that ParseOptions knows, sorted.
var optionNames = func() []string {
	names := []string{nameCompression, nameExtra, nameWebhook}
	for _, text := range new(Options).texts() {
		names = append(names, text.name)
	}
	slices.Sort(names)
	return names
}()

func badOptions(format string, args ...any) error {
	return &task.Error{Code: task.CodeBadOptions, Disposition: task.Fail, NotSent: true, Message: fmt.Sprintf(format, args...)}
}

// ParseOptions parses the JSON object in a task's column options. An option that is null is not set. A name that is not
// known, a value of the wrong type and one that exceeds its bound are a *task.Error with task.CodeBadOptions that names the option.
func ParseOptions(raw json.RawMessage) (Options, error) {
	var o Options
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || isNull(raw) {
		return o, nil
	}
	var values map[string]json.RawMessage
	if err := json.Unmarshal(raw, &values); err != nil {
		return o, badOptions("the options are not a JSON object")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(optionNames, name) {
			return o, badOptions("there is no option %s; the options are %s", quote(name), strings.Join(optionNames, ", "))
		}
	}
	maps.DeleteFunc(values, func(_ string, value json.RawMessage) bool { return isNull(value) })
	for _, text := range o.texts() {
		if value, ok := values[text.name]; ok && json.Unmarshal(value, text.value) != nil {
			return o, badOptions("option %s must be a string", text.name)
		}
	}
	if value, ok := values[nameWebhook]; ok && json.Unmarshal(value, new(string)) != nil {
		return o, badOptions("option %s must be a string", nameWebhook)
	}
	if value, ok := values[nameCompression]; ok {
		if err := json.Unmarshal(value, &o.OutputCompression); err != nil {
			return o, badOptions("option %s must be an integer from 0 to 100", nameCompression)
		}
	}
	if value, ok := values[nameExtra]; ok {
		if err := json.Unmarshal(value, &o.Extra); err != nil {
			return o, badOptions("option %s must be an object", nameExtra)
		}
	}
	return o, o.checkBounds()
}

func isNull(value json.RawMessage) bool { return string(value) == "null" }

// extraName is the form of a name in Extra. It has no brackets, which relays may read as a list of a parameter of ours.
var extraName = pattern.New(`^[A-Za-z_][A-Za-z0-9_.-]{0,63}$`)

// reservedNames are the parameters besides the options that this package sets.
var reservedNames = []string{"image", "images", "mask", "messages", "model", "n", "partial_images", "prompt", "response_format", "stream", "stream_options"}

// checkBounds checks what does not depend on the model.
func (o *Options) checkBounds() error {
	for _, text := range o.texts() {
		switch n := utf8.RuneCountInString(*text.value); {
		case n > maxOptionRunes:
			return badOptions("option %s has %d characters; at most %d are allowed", text.name, n, maxOptionRunes)
		case !utf8.ValidString(*text.value) || strings.Contains(*text.value, "\x00"):
			return badOptions("option %s is not valid text", text.name)
		}
	}
	if strings.TrimSpace(o.AspectRatio) != "" && readAspect(o.AspectRatio) == (aspect{}) {
		return badOptions("option aspect_ratio is %s; it must be a ratio such as 16:9, 1.91:1 or 16x9, one of square, landscape, portrait and auto, "+
			"or a size such as 1536x1024", quote(o.AspectRatio))
	}
	if n := o.OutputCompression; n != nil && (*n < 0 || *n > 100) {
		return badOptions("option %s is %d; it must be an integer from 0 to 100", nameCompression, *n)
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(o.Extra)) {
		value := o.Extra[name]
		if size += len(name) + len(value); size > maxExtraBytes {
			return badOptions("option %s is larger than %d bytes", nameExtra, maxExtraBytes)
		}
		// Servers written in Go compare the names without regard to case.
		lower := strings.ToLower(name)
		switch {
		case !extraName().MatchString(name):
			return badOptions("option %s has the name %s; a name must match %s", nameExtra, quote(name), extraName())
		case slices.Contains(reservedNames, lower):
			return badOptions("option %s has the name %s, which is not allowed there: this program sets it", nameExtra, quote(name))
		case slices.Contains(optionNames, lower):
			return badOptions("option %s has the name %s, which is an option of its own", nameExtra, quote(name))
		case !json.Valid(value):
			return badOptions("option %s has the name %s, whose value is not JSON", nameExtra, quote(name))
		}
	}
	return nil
}

// quote quotes an option for an error. The text is the user's, so it is kept short.
func quote(s string) string {
	if runes := []rune(s); len(runes) > maxLimitRunes {
		s = string(runes[:maxLimitRunes]) + "…"
	}
	return strconv.Quote(s)
}

// extraFields returns Extra as the fields of a form, sorted by name: a string without its quotes, everything else in JSON.
// A form has no null: such a field is left out.
func (o *Options) extraFields() []formField {
	var fields []formField
	for _, name := range slices.Sorted(maps.Keys(o.Extra)) {
		value := bytes.TrimSpace(o.Extra[name])
		var text string
		switch {
		case isNull(value):
			continue
		case json.Unmarshal(value, &text) == nil:
		default:
			text = string(value)
		}
		fields = append(fields, formField{name, text})
	}
	return fields
}

// privateTexts returns the texts in a request that an API may quote in an error, and that must not be shown: the prompt, the
// style, and the strings of Extra, one of which may be a negative prompt.
func (r Request) privateTexts() []string {
	texts := []string{r.Prompt, strings.TrimSpace(r.Options.Style)}
	for _, in := range r.Inputs { // a chat passes them on
		if in.URL != "" && !isDataURL(in.URL) {
			texts = append(texts, in.URL)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Options.Extra)) {
		texts = appendStrings(texts, r.Options.Extra[name])
	}
	return texts
}

// appendStrings appends the strings in a JSON value to texts.
func appendStrings(texts []string, value json.RawMessage) []string {
	decoder := json.NewDecoder(bytes.NewReader(value))
	for {
		token, err := decoder.Token()
		if err != nil {
			return texts
		}
		if text, ok := token.(string); ok {
			texts = append(texts, text)
		}
	}
}
