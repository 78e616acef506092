package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/template"
	"time"
)

// BuiltinTaskID names the template for applications that expect {taskId, status, imageUrl, error} with a Bearer key.
const BuiltinTaskID = "builtin:taskid"

// builtins are the templates that need no file.
var builtins = map[string]string{
	BuiltinTaskID: `{{define "body"}}{"taskId": {{json .Data.TaskID}}, "status": {{json .Data.Status}}, "imageUrl": {{json .Data.ImageURL}}, "error": {{json .Data.ErrorMessage}}}{{end}}` +
		`{{define "authorization"}}Bearer {{env "TASK_PROCESS_SECRET_KEY"}}{{end}}`,
}

// IsBuiltin reports whether name is that of a template that needs no file.
func IsBuiltin(name string) bool { return builtins[name] != "" }

// maxBody bounds a body that a template makes, in bytes.
const maxBody = 256 << 10

// The parts of a template.
const (
	partBody          = "body"
	partAuthorization = "authorization"
	partContentType   = "content_type"
)

const jsonType = "application/json"

// Template makes the body, the header Authorization and the content type of webhooks to COMPLETION_WEBHOOK_URL.
type Template struct {
	parts   *template.Template
	secrets []string
}

// Secrets returns the values that the template took from the environment.
func (t *Template) Secrets() []string {
	if t == nil {
		return nil
	}
	return t.secrets
}

// Authorizes reports whether the template sends an Authorization header.
func (t *Template) Authorizes() bool { return t != nil && t.parts.Lookup(partAuthorization) != nil }

// ParseTemplate parses a Go template with a part "body" and, optionally, "authorization" and "content_type". They get the fields of Message, the
// function json, and env, which returns a variable of the environment or the env file. text may be the name of a built-in template. A template that
// can't be executed, or whose body is not JSON where the content type says so, is an error.
func ParseTemplate(text string, lookup func(name string) (string, bool)) (*Template, error) {
	if builtin := builtins[text]; builtin != "" {
		text = builtin
	}
	t := &Template{}
	env := func(name string) (string, error) {
		if value, ok := lookup(name); ok && value != "" {
			return value, nil
		}
		return "", fmt.Errorf("%s is not set; set it in .env", name)
	}
	parts, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			var b bytes.Buffer
			encoder := json.NewEncoder(&b)
			encoder.SetEscapeHTML(false)
			err := encoder.Encode(v)
			return strings.TrimSpace(b.String()), err
		},
		"env": func(name string) (string, error) {
			value, err := env(name)
			t.secrets = append(t.secrets, value)
			return value, err
		},
	}).Parse(text)
	if err != nil {
		return nil, withoutPrefix(err)
	}
	if parts.Lookup(partBody) == nil {
		return nil, errors.New(`the template has no part {{define "body"}}…{{end}}`)
	}
	t.parts = parts
	if _, err := t.execute(testMessage(time.Now())); err != nil {
		return nil, err
	}
	t.parts.Funcs(template.FuncMap{"env": env}) // from now on it is used by many goroutines
	return t, nil
}

func withoutPrefix(err error) error {
	return errors.New(strings.TrimPrefix(strings.TrimPrefix(err.Error(), "template: "), ":"))
}

// rendered is what a template makes of a message.
type rendered struct {
	body          []byte
	contentType   string
	authorization string
}

// execute returns what the template makes of m.
func (t *Template) execute(m Message) (rendered, error) {
	part := func(name string) (string, error) {
		if t.parts.Lookup(name) == nil {
			return "", nil
		}
		var b bytes.Buffer
		if err := t.parts.ExecuteTemplate(&b, name, m); err != nil {
			return "", withoutPrefix(err)
		}
		return strings.TrimSpace(b.String()), nil
	}
	var r rendered
	body, bodyErr := part(partBody)
	contentType, typeErr := part(partContentType)
	authorization, authErr := part(partAuthorization)
	if err := errors.Join(bodyErr, typeErr, authErr); err != nil {
		return r, err
	}
	if contentType == "" {
		contentType = jsonType
	}
	for _, header := range []string{contentType, authorization} {
		if strings.ContainsFunc(header, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return r, errors.New("a header that the template makes has more than one line")
		}
	}
	switch {
	case len(body) > maxBody:
		return r, fmt.Errorf("the body that the template makes is longer than %d bytes", maxBody)
	case strings.HasPrefix(contentType, jsonType) && !json.Valid([]byte(body)):
		return r, errors.New(`the body that the template makes is not JSON; write {{json .Data.TaskID}} for a value, or define another "content_type"`)
	}
	return rendered{body: []byte(body), contentType: contentType, authorization: authorization}, nil
}
