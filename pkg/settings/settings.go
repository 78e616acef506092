// Package settings reads and checks what an operator can set, by flags, environment variables and the env file. One list of all
// settings is the source of the flags, of .env.example and of docs/configuration.md.
package settings

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"imagetasks/pkg/endpoint"
	"imagetasks/pkg/pattern"
)

// Settings are the values of all settings, checked.
type Settings struct {
	DatabaseURL    string
	DatabaseSchema string

	APIKey  string
	BaseURL string
	Model   string
	APIMode endpoint.Mode
	Stream  *bool // nil: as endpoint.Endpoint.IsStreamed

	// Endpoints are the parts [[endpoint]] of imagetasks.toml, which Load does not read; none: see APIEndpoints.
	Endpoints []endpoint.Endpoint
	// EndpointsError says why they can't be used, with an *Error for each fault. Only what needs the API fails then.
	EndpointsError error

	Proxy            Proxy
	DialTimeout      time.Duration
	ConnectTimeout   time.Duration
	TLSTimeout       time.Duration
	FirstByteTimeout time.Duration
	Rate             int // requests for pictures per minute to the endpoint of the variables; 0: no limit

	ImageStore    ImageStore
	ImageBaseURL  string // or a template
	ImageMaxBytes int64
	CacheControl  string // of pictures in an object store; empty: none
	SpoolMax      int64

	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string
	StoreProxy      StoreProxy

	DownloadWindow time.Duration
	DownloadDirect bool // without a proxy where all others fail
	DownloadHTTP   bool // from http:// URLs though the API is at an https:// one

	Concurrency    int
	MaxAttempts    int
	RetryUnknown   int // repeats of requests of unknown outcome, of one run
	MaxLostClaims  int // in a row, before a task fails
	PollInterval   time.Duration
	Lease          time.Duration
	TaskTimeout    time.Duration
	StuckAfter     time.Duration
	PendingTimeout time.Duration // 0: a task may wait without limit
	HungAfter      time.Duration

	UserConcurrency int           // 0: no limit
	UserMaxWaiting  int           // 0: no limit
	RedriveWindow   time.Duration // input pictures of failed tasks are kept so long
	Retention       time.Duration // 0: closed tasks are kept

	ShutdownGrace time.Duration

	WebhookURL          string // of every completion event; empty: none
	WebhookSecrets      string // as they were set
	WebhookProxy        string // on, off or a URL
	WebhookTemplate     string // a file, or the name of a built-in one; empty: none
	WebhookAllowPrivate bool   // receivers may be on this host and in private networks
	WebhookHosts        string // where tasks may have URLs of their own, as they were set
	CompletionNotify    bool   // the ids of closed tasks are sent with NOTIFY

	Alerts       Alerts
	BacklogAfter time.Duration // that a task may be due before that is a problem; 0: it is none
	DiskFree     int64         // bytes that must be free; 0: any number may
	PingURL      string        // of a service that notices missing passes of the monitor; empty: none

	StatusAddr     string
	StatusHosts    []string
	StatusToken    string // empty: the page can only be read, and only on this host
	StatusPictures bool   // the page shows small copies of pictures
	LogDir         string
	LogLevel       string
	LogFormat      string

	urls   []string          // as they were set, those that may hold a login
	values map[string]string // of all settings as they were set, by name
}

// Proxy holds the proxy settings, unparsed: package proxy knows their rules.
type Proxy struct {
	OpenAI               []string
	HTTPS, HTTP, All, No string
}

// Setting is one setting that an operator can make.
type Setting struct {
	Env     string
	Flag    string // empty: the environment and the env file only
	Default string
	Group   Group
	Usage   string // what it means, in English
	UsageZH string // the same in Chinese
	Secret  bool   // errors never quote the value
	Login   bool   // a URL, or several, of which only the login is secret
	// Worker: only the processor reads it, so that the other programs do not offer its flag.
	Worker bool

	set func(*Settings, string) error
}

// Group is what a setting is about.
type Group string

// The groups.
const (
	GroupDatabase   Group = "database"
	GroupAPI        Group = "image API"
	GroupProxy      Group = "proxy"
	GroupPictures   Group = "pictures"
	GroupProcessor  Group = "processor"
	GroupCompletion Group = "completion events"
	GroupAlerts     Group = "alerts"
	GroupReporting  Group = "reporting"
)

// List returns every setting, grouped, in the order in which the documents have them.
func List() []Setting {
	var all []Setting
	for _, part := range []struct {
		group    Group
		settings []Setting
	}{
		{GroupDatabase, databaseSettings()}, {GroupAPI, apiSettings()}, {GroupProxy, proxySettings()},
		{GroupPictures, pictureSettings()}, {GroupProcessor, processorSettings()},
		{GroupCompletion, completionSettings()}, {GroupAlerts, alertSettings()}, {GroupReporting, reportingSettings()},
	} {
		for _, s := range part.settings {
			s.Group = part.group
			all = append(all, s)
		}
	}
	return all
}

// Error is a setting that can't be used. It never quotes the value of a secret.
type Error struct {
	Name   string // the environment variable
	Value  string // empty for secrets
	Reason string
}

// Error returns the setting's name, its value unless that is secret, and what is wrong with it.
func (e *Error) Error() string {
	if e.Value == "" {
		return e.Name + ": " + e.Reason
	}
	return fmt.Sprintf("%s=%q: %s", e.Name, e.Value, e.Reason)
}

// Source returns the value of a setting; false where it has none.
type Source func(Setting) (string, bool)

// Load takes each setting from the first source that has it, or else its default. An empty value counts as none. It returns
// all errors together, each an *Error.
func Load(sources ...Source) (Settings, error) {
	s := Settings{values: map[string]string{}}
	var faults []error
	for _, setting := range List() {
		value := setting.Default
		for _, source := range sources {
			if v, ok := source(setting); ok && v != "" {
				value = v
				break
			}
		}
		s.values[setting.Env] = value
		if value == "" {
			continue
		}
		if setting.Login {
			s.urls = append(s.urls, value)
		}
		if err := setting.set(&s, value); err != nil {
			fault := &Error{Name: setting.Env, Reason: err.Error()}
			if !setting.Secret {
				fault.Value = value
			}
			faults = append(faults, fault)
		}
	}
	if len(faults) == 0 {
		faults = append(faults, s.check()...)
	}
	return s, errors.Join(faults...)
}

// check tests the rules between settings.
func (s *Settings) check() []error {
	var faults []error
	if s.TaskTimeout >= s.StuckAfter {
		faults = append(faults, &Error{Name: "TASK_TIMEOUT", Value: s.TaskTimeout.String(), Reason: fmt.Sprintf(
			"must be less than STUCK_AFTER (%s), or a running task would be considered stuck", s.StuckAfter)})
	}
	if s.Lease < time.Second {
		faults = append(faults, &Error{Name: "TASK_LEASE", Value: s.Lease.String(), Reason: "must be 1s or more"})
	}
	if s.HungAfter < 2*time.Second {
		faults = append(faults, &Error{Name: "HUNG_AFTER", Value: s.HungAfter.String(), Reason: "must be 2s or more"})
	}
	return append(faults, s.checkStore()...)
}

// APIEndpoints returns the endpoints, at least one: those of imagetasks.toml, or else the one of the environment variables, whose key may be missing.
func (s *Settings) APIEndpoints() ([]endpoint.Endpoint, error) {
	switch {
	case s.EndpointsError != nil:
		return nil, s.EndpointsError
	case len(s.Endpoints) > 0:
		return s.Endpoints, nil
	}
	e := endpoint.Endpoint{BaseURL: s.BaseURL, KeyEnv: "OPENAI_API_KEY", Key: s.APIKey, Mode: s.APIMode, Stream: s.Stream, Rate: s.Rate, Preference: 1, Weight: 1}
	e.Name = e.Address()
	return []endpoint.Endpoint{e}, nil
}

// Secrets returns the values that are secret as a whole.
func (s *Settings) Secrets() []string {
	all := append([]string{s.APIKey, s.SecretAccessKey, s.SessionToken, s.WebhookSecrets, s.StatusToken}, strings.FieldsFunc(s.WebhookSecrets, isSeparator)...)
	all = append(all, queryKeys(s.BaseURL)...)
	for _, e := range s.Endpoints {
		all = append(append(all, e.Key), queryKeys(e.BaseURL)...)
	}
	return append(all, s.alertSecrets()...)
}

// keyName matches the names of parameters whose values are secret.
var keyName = pattern.New(`(?i)(key|token|secret|signature|auth|password)$|^sig$|^code$`)

// queryKeys returns the secrets in the query of a URL, which is a part of each request.
func queryKeys(address string) (keys []string) {
	u, err := url.Parse(address)
	if err != nil {
		return nil
	}
	for name, values := range u.Query() {
		if keyName().MatchString(name) {
			keys = append(keys, values...)
		}
	}
	return keys
}

// SecretURLs returns the values whose logins are secret, as they were set: a comma or a space in a password divides a list of
// proxies where nobody meant it. They are known even where Load returned an error.
func (s *Settings) SecretURLs() []string {
	all := slices.Concat(s.urls, s.Proxy.OpenAI, s.StoreProxy.URLs)
	for _, e := range s.Endpoints {
		all = append(all, e.Proxies...)
	}
	return all
}

// UnusedNames returns the names of settings that are set and have no effect, because there are Endpoints, which have keys of their own for them.
func (s *Settings) UnusedNames() (names []string) {
	if len(s.Endpoints) == 0 {
		return nil
	}
	for _, setting := range List() {
		switch setting.Env {
		case "OPENAI_BASE_URL", "OPENAI_API_MODE", "OPENAI_STREAM", "API_RATE":
			if s.values[setting.Env] != setting.Default {
				names = append(names, setting.Env)
			}
		}
	}
	return names
}

// Changed returns the names of the settings whose values differ in other.
func (s *Settings) Changed(other *Settings) []string {
	var names []string
	for _, setting := range List() {
		if s.values[setting.Env] != other.values[setting.Env] {
			names = append(names, setting.Env)
		}
	}
	return names
}

// IsProcessors reports whether only the processor reads the setting of that name.
func IsProcessors(name string) bool {
	return slices.ContainsFunc(List(), func(s Setting) bool { return s.Env == name && s.Worker })
}

// With returns s with the settings of these names as in other, where both were loaded without an error.
func (s Settings) With(other Settings, names ...string) Settings {
	s.values = maps.Clone(s.values)
	for _, setting := range List() {
		if !slices.Contains(names, setting.Env) {
			continue
		}
		value := other.values[setting.Env]
		s.values[setting.Env] = value
		if value == "" {
			value = setting.Default
		}
		_ = setting.set(&s, value) // it was accepted before
	}
	return s
}

func text(field func(*Settings) *string) func(*Settings, string) error {
	return func(s *Settings, v string) error { *field(s) = v; return nil }
}

func oneOf(field func(*Settings) *string, words ...string) func(*Settings, string) error {
	return func(s *Settings, v string) error {
		for _, w := range words {
			if strings.EqualFold(v, w) {
				*field(s) = w
				return nil
			}
		}
		return errors.New("must be one of " + strings.Join(words, ", "))
	}
}

func positive(field func(*Settings) *time.Duration) func(*Settings, string) error {
	return func(s *Settings, v string) error {
		d, err := parseDuration(v)
		if err != nil {
			return errors.New("must be a time such as 90s, 10m, 1h30m or 30d")
		}
		if d <= 0 {
			return errors.New("must be more than 0")
		}
		*field(s) = d
		return nil
	}
}

// atLeast is positive for a time that has a minimum.
func atLeast(least time.Duration, field func(*Settings) *time.Duration) func(*Settings, string) error {
	set := positive(field)
	return func(s *Settings, v string) error {
		if err := set(s, v); err != nil {
			return err
		}
		if *field(s) < least {
			return fmt.Errorf("must be %s or more", least)
		}
		return nil
	}
}

func onOff(field func(*Settings) *bool) func(*Settings, string) error {
	return func(s *Settings, v string) error {
		switch {
		case strings.EqualFold(v, "on"):
			*field(s) = true
		case strings.EqualFold(v, "off"):
			*field(s) = false
		default:
			return errors.New("must be on or off")
		}
		return nil
	}
}

// parseDuration is time.ParseDuration with whole days.
func parseDuration(v string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(v, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(v)
}

// orOff accepts "off", which sets nothing.
func orOff(set func(*Settings, string) error) func(*Settings, string) error {
	return func(s *Settings, v string) error {
		if strings.EqualFold(v, "off") {
			return nil
		}
		if err := set(s, v); err != nil {
			return fmt.Errorf("%w, or off", err)
		}
		return nil
	}
}

func count(field func(*Settings) *int, least, most int) func(*Settings, string) error {
	return func(s *Settings, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return fmt.Errorf("must be a whole number from %d to %d", least, most)
		}
		*field(s) = n
		return nil
	}
}

func schema(s *Settings, v string) error {
	if v == "public" {
		return errors.New("must not be public, which belongs to the application; name a schema of its own, for example imagetasks")
	}
	if len(v) > 52 || strings.HasPrefix(v, "pg_") || strings.ContainsFunc(v, unicode.IsControl) {
		return errors.New("must be the name of a schema of its own, at most 52 bytes long")
	}
	s.DatabaseSchema = v
	return nil
}

func baseURL(s *Settings, v string) (err error) {
	s.BaseURL, err = endpoint.NormaliseURL(v)
	return err
}

// isSeparator reports whether r is between two values of a list.
func isSeparator(r rune) bool { return r == ',' || unicode.IsSpace(r) }

// webhookProxy accepts on, off and the URL of a proxy, which package proxy checks.
func proxies(s *Settings, v string) error {
	s.Proxy.OpenAI = strings.FieldsFunc(v, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
	if len(s.Proxy.OpenAI) == 0 {
		return errors.New("contains no proxy")
	}
	return nil
}

func apiMode(s *Settings, v string) error {
	switch mode := endpoint.Mode(strings.ToLower(v)); mode {
	case endpoint.Images, endpoint.Chat:
		s.APIMode = mode
		return nil
	}
	return errors.New("must be images or chat")
}

func stream(s *Settings, v string) error {
	on := false
	if err := onOff(func(*Settings) *bool { return &on })(s, v); err != nil {
		return err
	}
	s.Stream = &on
	return nil
}

func imageMaxBytes(s *Settings, v string) error {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 1024 || n > 1<<30 {
		return errors.New("must be a number of bytes from 1024 to 1073741824")
	}
	s.ImageMaxBytes = n
	return nil
}

func logDir(s *Settings, v string) error {
	dir, err := filepath.Abs(v)
	s.LogDir = dir
	return err
}

func statusAddr(s *Settings, v string) error {
	if v == "off" {
		s.StatusAddr = ""
		return nil
	}
	_, port, err := net.SplitHostPort(v)
	if err != nil {
		return errors.New("must be host:port such as 127.0.0.1:9464, or off")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return errors.New("must end in a port from 0 to 65535")
	}
	s.StatusAddr = v
	return nil
}

func statusHosts(s *Settings, v string) error {
	s.StatusHosts = strings.FieldsFunc(v, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
	for _, host := range s.StatusHosts {
		if strings.ContainsAny(host, "/*@") {
			return errors.New("must be host names with or without a port, such as status.example.com or status.example.com:8443, separated by commas")
		}
	}
	return nil
}

// minToken is the least length of STATUS_TOKEN.
const minToken = 16

// statusToken accepts what fits into an Authorization header as it is.
func statusToken(s *Settings, v string) error {
	if len(v) < minToken || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("must be %d or more letters, digits and signs of ASCII without spaces; to make one: openssl rand -hex 24", minToken)
	}
	s.StatusToken = v
	return nil
}

// logLevel accepts a word, or a number: 0 error, 1 warn, 2 info, 3 debug.
func logLevel(s *Settings, v string) error {
	levels := []string{"error", "warn", "info", "debug"}
	if n, err := strconv.Atoi(v); err == nil && n >= 0 && n < len(levels) {
		s.LogLevel = levels[n]
		return nil
	}
	if err := oneOf(func(s *Settings) *string { return &s.LogLevel }, "debug", "info", "warn", "error")(s, v); err != nil {
		return fmt.Errorf("%w, or 0 (error) to 3 (debug)", err)
	}
	return nil
}
