package endpoint

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/BurntSushi/toml"

	"imagetasks/pkg/pattern"
	"imagetasks/pkg/suggest"
)

// part is the name of the parts of the file that describe endpoints.
const part = "endpoint"

// The bounds of what a file may hold.
const (
	maxEndpoints = 100
	maxNumber    = 1_000_000
	maxTemplate  = 64 << 10
	maxText      = 200
)

// Parse reads the parts [[endpoint]] of a file; other parts are left to others. It returns none, and no error, for a file without one. getenv looks up
// the variables with the keys and the proxies; an empty value counts as none. readFile reads a template. The errors name the endpoint and the key of
// each fault, and quote no value that may be secret.
func Parse(text []byte, getenv func(string) (string, bool), readFile func(string) ([]byte, error)) ([]Endpoint, error) {
	var file map[string]any
	if _, err := toml.Decode(string(bytes.TrimPrefix(text, []byte("\ufeff"))), &file); err != nil {
		if syntax, ok := errors.AsType[toml.ParseError](err); ok {
			// The library's message may quote the line.
			return nil, fmt.Errorf("line %d is not valid TOML; texts need straight quotation marks, and a key may stand only once in a part", syntax.Position.Line)
		}
		return nil, errors.New("it is not valid TOML")
	}
	for _, name := range slices.Sorted(maps.Keys(file)) {
		if name != part && suggest.EditDistance(strings.ToLower(name), part) <= 2 {
			return nil, fmt.Errorf("unknown part [[%s]]; did you mean [[%s]]?", name, part)
		}
	}
	found, ok := file[part]
	if !ok {
		return nil, nil
	}
	tables, ok := found.([]map[string]any)
	if !ok {
		return nil, fmt.Errorf("each endpoint is a part of its own with two brackets: [[%s]]", part)
	}
	if len(tables) > maxEndpoints {
		return nil, fmt.Errorf("there are %d endpoints; at most %d are possible", len(tables), maxEndpoints)
	}
	var all []Endpoint
	var faults []error
	for i, table := range tables {
		r := reader{place: i + 1, table: table, getenv: getenv, readFile: readFile}
		e := r.read()
		if e.Name != "" && slices.ContainsFunc(all, func(other Endpoint) bool { return other.Name == e.Name }) {
			r.fault("name", "another endpoint has this name")
		}
		all, faults = append(all, e), append(faults, r.faults...)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return all, nil
}

// reader reads one part [[endpoint]].
type reader struct {
	place    int // in the file, from 1
	table    map[string]any
	getenv   func(string) (string, bool)
	readFile func(string) ([]byte, error)
	e        Endpoint
	faults   []error
}

// key is a key of a part. set is called where the file has it, and returns an error that says what its value must be.
type key struct {
	name string
	set  func(*reader, any) error
}

// keys returns the keys of a part, in the order in which the documents have them.
func keys() []key {
	return []key{
		{"name", (*reader).name},
		{"base_url", (*reader).baseURL},
		{"key_env", (*reader).keyEnv},
		{"mode", (*reader).mode},
		{"models", (*reader).models},
		{"preference", number(1, func(e *Endpoint) *int { return &e.Preference })},
		{"weight", number(1, func(e *Endpoint) *int { return &e.Weight })},
		{"concurrency", number(0, func(e *Endpoint) *int { return &e.Concurrency })},
		{"rate", number(0, func(e *Endpoint) *int { return &e.Rate })},
		{"proxies", (*reader).proxies},
		{"proxies_env", (*reader).proxiesEnv},
		{"stream", (*reader).stream},
		{"partial_images", (*reader).partialImages},
		{"template", (*reader).template},
		{"currency", (*reader).currency},
		{"prices", (*reader).prices},
	}
}

func keyNames() []string {
	var names []string
	for _, k := range keys() {
		names = append(names, k.name)
	}
	return names
}

func (r *reader) fault(key, text string, args ...any) {
	name := strconv.Itoa(r.place)
	if r.e.Name != "" {
		name = strconv.Quote(r.e.Name)
	}
	r.faults = append(r.faults, fmt.Errorf("endpoint %s: %s: %s", name, key, fmt.Sprintf(text, args...)))
}

func (r *reader) read() Endpoint {
	r.e = Endpoint{Mode: Images, Preference: r.place, Weight: 1, Currency: "USD"}
	known := keyNames()
	for _, k := range keys() {
		value, ok := r.table[k.name]
		if !ok {
			continue
		}
		if err := k.set(r, value); err != nil {
			r.fault(k.name, "%v", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.table)) {
		switch {
		case slices.Contains(known, name):
		case slices.Contains([]string{"key", "api_key", "apikey", "token", "secret"}, strings.ToLower(name)):
			r.fault(name, "the key must not be in this file; set it in the environment or the env file, and name that variable in key_env")
		default:
			r.fault(name, "there is no such key%s", suggest.DidYouMean(name, known))
		}
	}
	r.check()
	return r.e
}

// check tests the rules between keys.
func (r *reader) check() {
	missing := func(name string) bool { _, ok := r.table[name]; return !ok }
	if missing("name") {
		r.fault("name", "it is missing; every endpoint needs a name of its own")
	}
	if missing("base_url") {
		r.fault("base_url", "it is missing; it is the URL of the API, such as https://api.openai.com/v1")
	}
	if missing("key_env") {
		r.fault("key_env", "it is missing; name the environment variable that holds the key")
	}
	if !missing("proxies") && !missing("proxies_env") {
		r.fault("proxies_env", "it can't be combined with proxies")
	}
	if !missing("template") && r.e.Mode != Chat {
		r.fault("template", "it is for mode = \"chat\" only")
	}
	if r.e.PartialImages > 0 && (r.e.Mode != Images || !r.e.IsStreamed()) {
		r.fault("partial_images", "it needs mode = \"images\" and stream = true")
	}
	if !missing("currency") && missing("prices") {
		r.fault("currency", "it is the currency of prices, of which there are none")
	}
	for i, p := range r.e.Prices {
		if p.Model != "" && !r.e.Serves(p.Model) {
			r.fault("prices", "the endpoint's models do not contain %q", p.Model)
		}
		if slices.ContainsFunc(r.e.Prices[:i], func(other Price) bool { return other.Model == p.Model && strings.EqualFold(other.Quality, p.Quality) }) {
			r.fault("prices", "there are two prices for %s", p.subject())
		}
	}
}

var errNoText = errors.New("must be a text in quotation marks")

var nameForm = pattern.New(`^[a-z0-9][a-z0-9._-]{0,62}$`)

func (r *reader) name(value any) error {
	name, _ := value.(string)
	if !nameForm().MatchString(name) {
		return errors.New("must be 1 to 63 lower-case letters, digits, dots, hyphens and underscores, and begin with a letter or a digit")
	}
	r.e.Name = name
	return nil
}

func (r *reader) baseURL(value any) (err error) {
	text, ok := value.(string)
	if !ok {
		return errNoText
	}
	r.e.BaseURL, err = NormaliseURL(text)
	return err
}

var variableForm = pattern.New(`^[A-Z_][A-Z0-9_]{0,127}$`)

// isVariable reports whether a text is the name of an environment variable and certainly not the secret itself.
func isVariable(name string) bool {
	return variableForm().MatchString(name) && (len(name) < 20 || strings.Contains(name, "_"))
}

// variable returns the value of the environment variable that a key names. Its errors do not quote a name that can't be one: it may be the secret.
func (r *reader) variable(value any, holds string) (name, content string, err error) {
	name, _ = value.(string)
	if !isVariable(name) {
		return "", "", fmt.Errorf("must be the name of the environment variable that holds %s, in capital letters, and not its value", holds)
	}
	content, _ = r.getenv(name)
	if content == "" {
		return name, "", fmt.Errorf("the environment variable %s is not set; set it in the env file", name)
	}
	return name, content, nil
}

func (r *reader) keyEnv(value any) (err error) {
	r.e.KeyEnv, r.e.Key, err = r.variable(value, "the key")
	if err == nil && strings.ContainsFunc(r.e.Key, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		err = fmt.Errorf("the environment variable %s contains white space or characters that no key has; copy the key again", r.e.KeyEnv)
	}
	return err
}

func (r *reader) mode(value any) error {
	switch value {
	case string(Images), string(Chat):
		r.e.Mode = Mode(value.(string))
		return nil
	}
	return errors.New(`must be "images" or "chat"`)
}

func number(least int, field func(*Endpoint) *int) func(*reader, any) error {
	return func(r *reader, value any) error {
		n, ok := value.(int64)
		if !ok || n < int64(least) || n > maxNumber {
			return fmt.Errorf("must be a whole number from %d to %d", least, maxNumber)
		}
		*field(&r.e) = int(n)
		return nil
	}
}

func (r *reader) stream(value any) error {
	on, ok := value.(bool)
	if !ok {
		return errors.New("must be true or false")
	}
	r.e.Stream = &on
	return nil
}

func (r *reader) partialImages(value any) error {
	n, ok := value.(int64)
	if !ok || n < 0 || n > 3 {
		return errors.New("must be a whole number from 0 to 3")
	}
	r.e.PartialImages = int(n)
	return nil
}

func (r *reader) template(value any) error {
	name, ok := value.(string)
	if !ok || name == "" {
		return errors.New("must be the name of a file")
	}
	text, err := r.readFile(name)
	switch {
	case err != nil:
		return err
	case len(text) > maxTemplate || !utf8.Valid(text) || len(bytes.TrimSpace(text)) == 0:
		return fmt.Errorf("the file %s must hold text in UTF-8, at most %d bytes", name, maxTemplate)
	}
	// An editor's byte order mark is not part of the prompt.
	r.e.Template, r.e.TemplateFile = string(bytes.TrimPrefix(text, []byte("\ufeff"))), name
	return nil
}

// isName reports whether a text can be the name of a model or of a quality.
func isName(text string) bool {
	return text != "" && len(text) <= maxText && strings.TrimSpace(text) == text && !strings.ContainsFunc(text, unicode.IsControl)
}

// models reads a list of models that have the same name there, or a table of a task's model and its name there.
func (r *reader) models(value any) error {
	wrong := errors.New(`must be a list such as ["gpt-image-2"], or a table of a task's model and its name there such as { "gpt-image-2" = "gpt-4o-image" }; without it every model is asked for`)
	models := map[string]string{}
	switch value := value.(type) {
	case []any:
		for _, v := range value {
			name, _ := v.(string)
			models[name] = name
		}
	case map[string]any:
		for name, v := range value {
			models[name], _ = v.(string)
		}
	}
	if len(models) == 0 {
		return wrong
	}
	for name, there := range models {
		if !isName(name) || !isName(there) {
			return wrong
		}
	}
	r.e.Models = models
	return nil
}

func (r *reader) proxies(value any) error {
	list, _ := value.([]any)
	if len(list) == 0 {
		return errors.New(`must be a list such as ["http://127.0.0.1:7890"], or ["direct"] for none; without it the proxies of the environment are used`)
	}
	var proxies []string
	for _, v := range list {
		text, _ := v.(string)
		text = strings.TrimSpace(text)
		switch {
		case text == "":
			return errors.New("must be a list of texts in quotation marks")
		case strings.Contains(text, "@"):
			return errors.New("a password must not be in this file; set the proxies in the environment or the env file, and name that variable in proxies_env")
		case text != Direct && slices.Contains([]string{Direct, "none", "off", "no"}, strings.ToLower(text)):
			return errors.New(`must be ["direct"] for none`)
		case strings.ContainsFunc(text, func(c rune) bool { return c == ',' || unicode.IsSpace(c) }):
			return errors.New("each proxy is a text of its own in the list")
		}
		proxies = append(proxies, text)
	}
	r.e.Proxies = proxies
	return directAlone(proxies)
}

// proxiesEnv reads the proxies from an environment variable, in the form of OPENAI_PROXY.
func (r *reader) proxiesEnv(value any) error {
	_, text, err := r.variable(value, "the proxies")
	if err != nil {
		return err
	}
	r.e.Proxies = strings.FieldsFunc(text, func(c rune) bool { return c == ',' || unicode.IsSpace(c) })
	if len(r.e.Proxies) == 0 {
		return errors.New("the environment variable contains no proxy")
	}
	return directAlone(r.e.Proxies)
}

// directAlone refuses a direct connection among proxies: a proxy that fails must never lead to one.
func directAlone(proxies []string) error {
	if len(proxies) > 1 && slices.Contains(proxies, Direct) {
		return errors.New(`"direct" can't be combined with proxies`)
	}
	return nil
}

var currencyForm = pattern.New(`^[A-Z]{3}$`)

func (r *reader) currency(value any) error {
	text, _ := value.(string)
	if !currencyForm().MatchString(text) {
		return errors.New("must be three capital letters such as USD or CNY")
	}
	r.e.Currency = text
	return nil
}

func (r *reader) prices(value any) error {
	var tables []map[string]any
	switch value := value.(type) {
	case []map[string]any:
		tables = value
	case []any:
		for _, v := range value {
			table, _ := v.(map[string]any)
			tables = append(tables, table)
		}
	}
	if len(tables) == 0 {
		return errors.New(`must be a list such as [{ model = "gpt-image-2", quality = "high", price = "0.25" }]`)
	}
	for i, table := range tables {
		p, err := price(table)
		if err != nil {
			return fmt.Errorf("price %d: %w", i+1, err)
		}
		r.e.Prices = append(r.e.Prices, p)
	}
	return nil
}

// priceKeys are the keys of an item of prices.
var priceKeys = []string{"model", "quality", "price"}

func price(table map[string]any) (p Price, err error) {
	for _, name := range slices.Sorted(maps.Keys(table)) {
		if !slices.Contains(priceKeys, name) {
			return p, fmt.Errorf("there is no key %s%s", name, suggest.DidYouMean(name, priceKeys))
		}
	}
	for name, field := range map[string]*string{"model": &p.Model, "quality": &p.Quality} {
		value, ok := table[name]
		if !ok {
			continue
		}
		if *field, ok = value.(string); !ok || !isName(*field) {
			return p, fmt.Errorf("%s must be a text in quotation marks; leave it out for any", name)
		}
	}
	p.Micros, err = micros(table["price"])
	return p, err
}

// micros returns a price in millionths. A number of TOML is a binary fraction: its shortest decimal form is what was written.
func micros(value any) (int64, error) {
	wrong := fmt.Errorf("price must be a number or a text from 0 to %d with at most 6 digits after the point", maxNumber)
	var text string
	switch value := value.(type) {
	case string:
		text = value
	case int64:
		text = strconv.FormatInt(value, 10)
	case float64:
		text = strconv.FormatFloat(value, 'f', -1, 64)
	}
	whole, fraction, _ := strings.Cut(text, ".")
	digits := whole + fraction
	if whole == "" || len(fraction) > 6 || len(digits) > 13 || strings.HasSuffix(text, ".") || strings.ContainsFunc(digits, func(c rune) bool { return c < '0' || c > '9' }) {
		return 0, wrong
	}
	n, err := strconv.ParseInt(digits+strings.Repeat("0", 6-len(fraction)), 10, 64)
	if err != nil || n > maxNumber*1_000_000 {
		return 0, wrong
	}
	return n, nil
}
