// Package endpoint describes the image APIs that an installation uses: where each is, how it is spoken to, what it may be asked for, and what it
// costs. It reads them from the parts [[endpoint]] of imagetasks.toml.
package endpoint

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Mode is how an endpoint makes pictures.
type Mode string

// The modes.
const (
	Images Mode = "images" // POST /images/generations and /images/edits
	Chat   Mode = "chat"   // POST /chat/completions
)

// Endpoint is one image API, or one account of it.
type Endpoint struct {
	Name    string // unique; of the endpoint of the environment variables its Address
	BaseURL string // as NormaliseURL returns it
	KeyEnv  string // the environment variable with the key
	Key     string
	Mode    Mode
	Stream  *bool // whether answers are streamed; nil: in the mode chat only
	// PartialImages is how many unfinished pictures a streamed answer in the mode images may contain, from 0 to 3.
	PartialImages int
	Template      string            // the text of the template of the prompt in the mode chat; "": the default
	TemplateFile  string            // where Template was read from
	Models        map[string]string // a task's model and its name there; nil: every model, under its own name
	// Proxies are in order of preference; Direct alone means none. nil: those of the environment variables.
	Proxies     []string
	Concurrency int // requests at the same time, over all processors; 0: no limit
	Rate        int // requests per minute, over all processors; 0: no limit
	// Preference is lower for endpoints that are used first. Those with the same one share the tasks by Weight.
	Preference int
	Weight     int
	Prices     []Price
	Currency   string // of Prices
}

// Direct in Endpoint.Proxies means that no proxy is used.
const Direct = "direct"

// Price is what a picture costs.
type Price struct {
	Model   string // of the task; "": any
	Quality string // of the task's options; "": any
	Micros  int64  // in millionths of the currency
}

// subject says what a price is of.
func (p Price) subject() string {
	switch {
	case p.Model == "" && p.Quality == "":
		return "every model and quality"
	case p.Quality == "":
		return fmt.Sprintf("the model %q", p.Model)
	case p.Model == "":
		return fmt.Sprintf("the quality %q", p.Quality)
	}
	return fmt.Sprintf("the model %q with the quality %q", p.Model, p.Quality)
}

// IsStreamed reports whether answers are streamed.
func (e Endpoint) IsStreamed() bool {
	if e.Stream != nil {
		return *e.Stream
	}
	return e.Mode == Chat
}

// Address returns the scheme, host and path of the base URL.
func (e Endpoint) Address() string {
	u, err := url.Parse(e.BaseURL)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host + u.Path
}

// Serves reports whether the endpoint has a task's model.
func (e Endpoint) Serves(model string) bool {
	_, ok := e.Models[model]
	return ok || e.Models == nil
}

// ModelThere returns the endpoint's name for a task's model.
func (e Endpoint) ModelThere(model string) string {
	if there, ok := e.Models[model]; ok {
		return there
	}
	return model
}

// Cost returns the price of a picture in millionths of the currency, which is "" where none is set. A price for the model counts more than one for
// the quality.
func (e Endpoint) Cost(model, quality string) (micros int64, currency string) {
	for _, want := range []Price{{Model: model, Quality: quality}, {Model: model}, {Quality: quality}, {}} {
		i := slices.IndexFunc(e.Prices, func(p Price) bool { return p.Model == want.Model && strings.EqualFold(p.Quality, want.Quality) })
		if i >= 0 {
			return e.Prices[i].Micros, e.Currency
		}
	}
	return 0, ""
}

// requestPaths are what users paste after the base URL.
var requestPaths = []string{"/chat/completions", "/images/generations", "/images/edits"}

// NormaliseURL returns the base URL that a text means: without slashes and the path of a request at its end, and with its query, which Azure's
// api-version stands in. A URL without a path stays so: the client finds out whether the API is under /v1. The errors do not quote the text.
func NormaliseURL(text string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", errors.New("must be an http or https URL such as https://api.openai.com/v1")
	}
	if u.User != nil || u.Fragment != "" {
		return "", errors.New("must not contain a login or a fragment")
	}
	if host := u.Hostname(); host == "http" || host == "https" {
		return "", errors.New("must have http:// or https:// once, and the host after it")
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	for _, request := range requestPaths {
		path = strings.TrimRight(strings.TrimSuffix(path, request), "/")
	}
	u.RawPath = path
	if u.Path, err = url.PathUnescape(path); err != nil {
		return "", fmt.Errorf("must have a valid path: %w", err)
	}
	u.ForceQuery, u.RawFragment = false, ""
	return u.String(), nil
}
