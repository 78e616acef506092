package imageapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/template"
)

// DefaultTemplate makes the text of a chat where Config.Template is empty. Relays of image models take a JSON object of the prompt and the ratio.
// Beside input pictures they take a plain text.
const DefaultTemplate = `{{if and .Ratio (not .Inputs) -}}
{"prompt": {{json .Words}}, "ratio": {{json .Ratio}}}
{{- else -}}
{{.Words}}
{{- end}}`

// systemTemplate is the name of an optional template within Config.Template that makes the system message.
const systemTemplate = "system"

// TemplateData is what a template of Config.Template can use.
type TemplateData struct {
	Prompt      string
	Model       string
	Ratio       string // such as 3:4; empty: none is asked for
	Orientation string // square, landscape or portrait; empty: no ratio is asked for
	Size        string // such as 1024x1536; empty: none is asked for
	Style       string
	Quality     string
	Background  string
	Inputs      int               // number of input pictures
	Options     map[string]string // the task's options by their names, as they were given
}

// Words returns the prompt followed by what else is asked for, in words.
func (d TemplateData) Words() string {
	text := d.Prompt
	for _, more := range []struct{ name, value string }{{"Style", d.Style}, {"Background", d.Background}, {"Aspect ratio", d.Ratio}} {
		if more.value == "" || more.value == auto {
			continue
		}
		text += "\n\n" + more.name + ": " + more.value
		if more.value == d.Ratio {
			text += " (" + d.Orientation + ")"
		}
	}
	return strings.TrimSpace(text)
}

// templateData returns what a template can use for a request.
func (r Request) templateData() TemplateData {
	o := r.Options
	d := TemplateData{Prompt: r.Prompt, Model: r.Model, Size: o.Size, Style: strings.TrimSpace(o.Style), Quality: o.Quality, Background: o.Background,
		Inputs: len(r.Inputs), Options: map[string]string{}}
	for _, text := range o.texts() {
		if *text.value != "" {
			d.Options[text.name] = *text.value
		}
	}
	if o.OutputCompression != nil {
		d.Options[nameCompression] = fmt.Sprint(*o.OutputCompression)
	}
	d.Ratio, d.Orientation = o.ratio()
	return d
}

// wordRatios are the ratios of the words of the option aspect_ratio.
var wordRatios = map[string]string{square: "1:1", landscape: "3:2", portrait: "2:3"}

// ratio returns the ratio that the options ask for, in its lowest terms, and its orientation; "": none.
func (o *Options) ratio() (ratio, orientation string) {
	a := readAspect(o.AspectRatio)
	switch {
	case a == aspect{}:
		a = aspect{size: o.Size}
	case a.word == auto:
		return "", ""
	case a.word != "":
		return wordRatios[a.word], a.word
	}
	s := size{a.width, a.height}
	if a.size != "" {
		s = parseSize(a.size)
	}
	if s.width == 0 || s.height == 0 {
		return "", ""
	}
	if a.size == "" && (s.width%10_000 != 0 || s.height%10_000 != 0) {
		return a.String(), s.orientation()
	}
	divisor := gcd(s.width, s.height)
	return fmt.Sprintf("%d:%d", s.width/divisor, s.height/divisor), s.orientation()
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// chatText is the text of a chat.
type chatText struct{ system, user string }

// promptTemplate makes the texts of chats. It is safe for concurrent use.
type promptTemplate struct{ parsed *template.Template }

// newPromptTemplate parses a template and tries it. name is for errors, such as the name of its file.
func newPromptTemplate(name, text string) (*promptTemplate, error) {
	if strings.TrimSpace(text) == "" {
		name, text = "default", DefaultTemplate
	}
	failed := func(err error) error {
		return fmt.Errorf("the chat template %s can't be used: %w", name, err)
	}
	parsed, err := template.New(name).Option("missingkey=zero").Funcs(template.FuncMap{"json": templateJSON}).Parse(text)
	if err != nil {
		return nil, failed(err)
	}
	p := &promptTemplate{parsed}
	const prompt = "A red lantern"
	for _, try := range []Request{
		{Prompt: prompt},
		{Prompt: prompt, Model: "m", Options: Options{AspectRatio: "3:4", Style: "ink", Quality: "high", Background: "opaque"}},
		{Prompt: prompt, Options: Options{Size: "1024x1024"}, Inputs: []Input{{URL: "https://pictures.example.com/1.png"}}},
	} {
		made, err := p.text(try)
		if err != nil {
			return nil, failed(err)
		}
		if !strings.Contains(made.user, prompt) {
			return nil, failed(errors.New("its text does not contain the prompt; use {{.Prompt}} or {{.Words}}"))
		}
	}
	return p, nil
}

// templateJSON returns a value in JSON, for templates.
func templateJSON(v any) (string, error) {
	text, err := encodeJSON(v)
	return string(text), err
}

// text returns the text for a request.
func (p *promptTemplate) text(r Request) (chatText, error) {
	data := r.templateData()
	limit := 64<<10 + 8*len(r.Prompt)
	made := chatText{}
	user, err := execute(p.parsed, data, limit)
	if err != nil {
		return made, err
	}
	made.user = user
	if system := p.parsed.Lookup(systemTemplate); system != nil {
		made.system, err = execute(system, data, limit)
	}
	return made, err
}

func execute(t *template.Template, data TemplateData, limit int) (string, error) {
	var b bytes.Buffer
	if err := t.Execute(&boundedWriter{&b, limit}, data); err != nil {
		return "", err
	}
	return strings.TrimSpace(b.String()), nil
}

// boundedWriter fails when more than left bytes are written.
type boundedWriter struct {
	w    io.Writer
	left int
}

// Write implements io.Writer.
func (b *boundedWriter) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, errors.New("its text is too long")
	}
	return b.w.Write(p)
}
