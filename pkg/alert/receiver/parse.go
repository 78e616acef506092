package receiver

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"imagetasks/pkg/alert"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/pattern"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/suggest"
)

// part is the name of the parts of imagetasks.toml that describe receivers.
const part = "alert"

// maxReceivers bounds the receivers of a file.
const maxReceivers = 20

// Config is a receiver as it is set.
type Config struct {
	Name       string
	Kind       Kind
	URL        string
	Secret     string // empty: messages are not signed
	Proxy      string // on, off or a URL
	Lang       lang.Lang
	Codes      []finding.Code     // none: all
	Severities []finding.Severity // none: all
	Repeat     time.Duration      // 0: ALERT_REPEAT
}

// Parse reads the parts [[alert]] of a file; other parts are left to others. getenv looks up the variables with the URLs, the secrets and the proxies. It returns
// all faults, each of which names the receiver and the key and quotes no value that may be secret.
func Parse(text []byte, getenv func(string) (string, bool)) ([]Config, []error) {
	var file map[string]any
	if _, err := toml.Decode(string(bytes.TrimPrefix(text, []byte("\ufeff"))), &file); err != nil {
		if syntax, ok := errors.AsType[toml.ParseError](err); ok {
			// The library's message may quote the line.
			return nil, []error{fmt.Errorf("line %d is not valid TOML; texts need straight quotation marks, and a key may stand only once in a part", syntax.Position.Line)}
		}
		return nil, []error{errors.New("it is not valid TOML")}
	}
	for _, name := range slices.Sorted(maps.Keys(file)) {
		if name != part && suggest.EditDistance(strings.ToLower(name), part) <= 1 {
			return nil, []error{fmt.Errorf("unknown part [[%s]]; did you mean [[%s]]?", name, part)}
		}
	}
	found, ok := file[part]
	if !ok {
		return nil, nil
	}
	tables, ok := found.([]map[string]any)
	if !ok {
		return nil, []error{fmt.Errorf("each receiver of alerts is a part of its own with two brackets: [[%s]]", part)}
	}
	if len(tables) > maxReceivers {
		return nil, []error{fmt.Errorf("there are %d receivers of alerts; at most %d are possible", len(tables), maxReceivers)}
	}
	var all []Config
	var faults []error
	for i, table := range tables {
		r := reader{place: i + 1, table: table, getenv: getenv}
		c := r.read()
		if c.Name != "" && slices.ContainsFunc(all, func(other Config) bool { return other.Name == c.Name }) {
			r.fault("name", "another receiver has this name")
		}
		all, faults = append(all, c), append(faults, r.faults...)
	}
	return all, faults
}

// reader reads one part.
type reader struct {
	place  int
	table  map[string]any
	getenv func(string) (string, bool)
	c      Config
	faults []error
}

func (r *reader) fault(key, text string, args ...any) {
	name := strconv.Itoa(r.place)
	if r.c.Name != "" {
		name = strconv.Quote(r.c.Name)
	}
	r.faults = append(r.faults, fmt.Errorf("alert %s: %s: %s", name, key, fmt.Sprintf(text, args...)))
}

// keySetter is a key of a part. set returns an error that says what its value must be.
type keySetter struct {
	name string
	set  func(*reader, any) error
}

func keySetters() []keySetter {
	return []keySetter{
		{"name", (*reader).name}, {"type", (*reader).kind}, {"url_env", (*reader).url}, {"secret_env", (*reader).secret},
		{"proxy", (*reader).proxy}, {"proxy_env", (*reader).proxyEnv}, {"lang", (*reader).lang}, {"codes", (*reader).codes},
		{"severities", (*reader).severities}, {"repeat", (*reader).repeat},
	}
}

func (r *reader) read() Config {
	r.c.Proxy = "off"
	var known []string
	for _, k := range keySetters() {
		known = append(known, k.name)
		value, given := r.table[k.name]
		if !given {
			continue
		}
		if err := k.set(r, value); err != nil {
			r.fault(k.name, "%v", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.table)) {
		switch {
		case slices.Contains(known, name):
		case slices.Contains([]string{"url", "webhook", "secret", "token", "key"}, strings.ToLower(name)):
			r.fault(name, "it is secret and must not be in this file; set it in the environment or the env file, and name that variable in url_env or secret_env")
		default:
			r.fault(name, "there is no such key%s", suggest.DidYouMean(name, known))
		}
	}
	missing := func(name string) bool { _, ok := r.table[name]; return !ok }
	if missing("name") {
		r.fault("name", "it is missing; every receiver needs a name of its own")
	}
	if missing("url_env") {
		r.fault("url_env", "it is missing; name the environment variable that holds the URL of the robot")
	}
	if !missing("proxy") && !missing("proxy_env") {
		r.fault("proxy_env", "it can't be combined with proxy")
	}
	if missing("type") {
		r.c.Kind = KindOf(r.c.URL)
	}
	if missing("lang") {
		r.c.Lang = r.c.Kind.Lang()
	}
	if err := CheckSecret(r.c.Kind, r.c.Secret); err != nil {
		r.fault("secret_env", "%v", err)
	}
	return r.c
}

var nameForm = pattern.New(`^[a-z0-9][a-z0-9._-]{0,62}$`)

func (r *reader) name(value any) error {
	name, _ := value.(string)
	if !nameForm().MatchString(name) {
		return errors.New("must be 1 to 63 lower-case letters, digits, dots, hyphens and underscores, and begin with a letter or a digit")
	}
	if name == VariableName {
		return fmt.Errorf("the name %s belongs to the receiver of ALERT_WEBHOOK_URL", name)
	}
	r.c.Name = name
	return nil
}

// VariableName is the name of the receiver of ALERT_WEBHOOK_URL.
const VariableName = "alert_webhook_url"

func (r *reader) kind(value any) error {
	text, _ := value.(string)
	if !slices.Contains(Kinds(), Kind(text)) {
		return errors.New(`must be "feishu", "dingtalk", "wecom", "slack" or "json"`)
	}
	r.c.Kind = Kind(text)
	return nil
}

var variableForm = pattern.New(`^[A-Z_][A-Z0-9_]{0,127}$`)

// variable returns the value of the environment variable that a key names. Its errors do not quote a name that can't be one: it may be the secret.
func (r *reader) variable(value any, holds string) (string, error) {
	name, _ := value.(string)
	if !variableForm().MatchString(name) || len(name) >= 20 && !strings.Contains(name, "_") {
		return "", fmt.Errorf("must be the name of the environment variable that holds %s, in capital letters, and not its value", holds)
	}
	content, _ := r.getenv(name)
	if content == "" {
		return "", fmt.Errorf("the environment variable %s is not set; set it in the env file", name)
	}
	return content, nil
}

func (r *reader) url(value any) (err error) {
	if r.c.URL, err = r.variable(value, "the URL"); err != nil {
		return err
	}
	if err := settings.CheckReceiverURL(r.c.URL); err != nil {
		return fmt.Errorf("the environment variable %v %w", value, err)
	}
	return nil
}

func (r *reader) secret(value any) (err error) {
	r.c.Secret, err = r.variable(value, "the secret")
	return err
}

func (r *reader) proxy(value any) error {
	text, _ := value.(string)
	switch {
	case text == "":
		return errors.New(`must be "off", "on" for the proxies of the environment, or the URL of a proxy`)
	case strings.Contains(text, "@"):
		return errors.New("a proxy with a login must not be in this file; set it in the environment or the env file, and name that variable in proxy_env")
	}
	r.c.Proxy = text
	return nil
}

func (r *reader) proxyEnv(value any) (err error) {
	r.c.Proxy, err = r.variable(value, "the proxy")
	return err
}

func (r *reader) lang(value any) error {
	text, _ := value.(string)
	l, err := lang.Parse(text)
	if err != nil {
		return errors.New(`must be "en" or "zh"`)
	}
	r.c.Lang = l
	return nil
}

func texts(value any) []string {
	list, _ := value.([]any)
	var out []string
	for _, v := range list {
		text, _ := v.(string)
		out = append(out, text)
	}
	return out
}

func (r *reader) codes(value any) error {
	known := slices.Concat(alert.HostCodes(), alert.InstallationCodes(), alert.EventCodes(), []finding.Code{finding.DatabaseUnavailable})
	all := texts(value)
	if len(all) == 0 {
		return errors.New(`must be a list such as ["api_unreachable", "restart_limit_reached"]; docs/alerts.md has all codes`)
	}
	for _, text := range all {
		if !slices.Contains(known, finding.Code(text)) {
			return fmt.Errorf("%q is no code of a problem; docs/alerts.md has all codes", text)
		}
		r.c.Codes = append(r.c.Codes, finding.Code(text))
	}
	return nil
}

func (r *reader) severities(value any) error {
	known := []finding.Severity{finding.Error, finding.Warning, finding.Info}
	for _, text := range texts(value) {
		if !slices.Contains(known, finding.Severity(text)) {
			return errors.New(`must be a list of "error", "warning" and "info"`)
		}
		r.c.Severities = append(r.c.Severities, finding.Severity(text))
	}
	if len(r.c.Severities) == 0 {
		return errors.New(`must be a list of "error", "warning" and "info"`)
	}
	return nil
}

func (r *reader) repeat(value any) error {
	text, _ := value.(string)
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Minute || d > 30*24*time.Hour {
		return errors.New(`must be a time from "1m" to "720h"`)
	}
	r.c.Repeat = d
	return nil
}
