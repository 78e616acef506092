// Package settings is the one list of what an operator can set. Flags, environment variables and
// the env file are three ways to write the same list; the README's table is a print of it.
package settings

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Settings are the values that the programs run by, checked.
type Settings struct {
	DatabaseURL  string
	TasksTable   string
	CreditsTable string

	APIKey  string
	BaseURL string
	Model   string
	APIMode string

	Proxy            Proxy
	DialTimeout      time.Duration
	ConnectTimeout   time.Duration
	TLSTimeout       time.Duration
	FirstByteTimeout time.Duration
	Rate             int // requests a minute; 0: as many as there are

	ImageDir      string
	ImageBaseURL  string
	ImageMaxBytes int64

	Concurrency    int
	MaxAttempts    int
	PollInterval   time.Duration
	Lease          time.Duration
	TaskTimeout    time.Duration
	StuckAfter     time.Duration
	PendingTimeout time.Duration // 0: a task may wait for ever
	HungAfter      time.Duration
	ShutdownGrace  time.Duration

	StatusAddr string
	LogDir     string
	LogLevel   string
	LogFormat  string

	urls []string // as they were set, those that may hold a login
}

// Proxy is what the environment says of proxies, unparsed: package proxy knows their rules.
type Proxy struct {
	OpenAI               []string
	HTTPS, HTTP, All, No string
}

// Setting is one line of the list.
type Setting struct {
	Env     string
	Flag    string // empty: the environment and the env file only
	Default string
	Usage   string
	Secret  bool // errors never quote the value
	Login   bool // a URL, or several, of which only the login is secret
	// Worker marks what only the processor reads, so that other programs don't offer its flag.
	Worker bool

	set func(*Settings, string) error
}

// List returns every setting, in the order in which they are documented.
func List() []Setting {
	return []Setting{
		{Env: "DATABASE_URL", Flag: "database-url", Secret: true, Login: true, Usage: "PostgreSQL: postgres://user:password@host:5432/database",
			set: text(func(s *Settings) *string { return &s.DatabaseURL })},
		{Env: "TASKS_TABLE", Default: "image_tasks", Usage: "name of the table of tasks, with or without its schema",
			set: table(func(s *Settings) *string { return &s.TasksTable })},
		{Env: "CREDITS_TABLE", Default: "user_credits", Usage: "name of the table of credits",
			set: table(func(s *Settings) *string { return &s.CreditsTable })},

		{Env: "OPENAI_API_KEY", Secret: true, Usage: "key of the image API",
			set: text(func(s *Settings) *string { return &s.APIKey })},
		{Env: "OPENAI_BASE_URL", Default: "https://api.openai.com/v1", Usage: "root of the image API, with its /v1",
			set: baseURL},
		{Env: "OPENAI_MODEL", Default: "gpt-image-2", Usage: "model for tasks that name none",
			set: text(func(s *Settings) *string { return &s.Model })},
		{Env: "OPENAI_API_MODE", Default: "images", Usage: "way to ask for a picture: images",
			set: apiMode},

		{Env: "OPENAI_PROXY", Secret: true, Login: true, Usage: "proxy to the API, or several with commas: http, https, socks5 or socks5h URLs; wins over the rest, no bypass",
			set: proxies},
		{Env: "HTTPS_PROXY", Secret: true, Login: true, Usage: "proxy for https URLs (or https_proxy)",
			set: text(func(s *Settings) *string { return &s.Proxy.HTTPS })},
		{Env: "HTTP_PROXY", Secret: true, Login: true, Usage: "proxy for http URLs (or http_proxy)",
			set: text(func(s *Settings) *string { return &s.Proxy.HTTP })},
		{Env: "ALL_PROXY", Secret: true, Login: true, Usage: "proxy where the two above say nothing (or all_proxy)",
			set: text(func(s *Settings) *string { return &s.Proxy.All })},
		{Env: "NO_PROXY", Usage: "hosts, domain suffixes, host:port and CIDR ranges reached without a proxy (or no_proxy)",
			set: text(func(s *Settings) *string { return &s.Proxy.No })},
		{Env: "DIAL_TIMEOUT", Default: "10s", Usage: "bound for a TCP connection to the proxy, or to the API",
			set: positive(func(s *Settings) *time.Duration { return &s.DialTimeout })},
		{Env: "PROXY_CONNECT_TIMEOUT", Default: "15s", Usage: "bound for the proxy to answer CONNECT or SOCKS",
			set: positive(func(s *Settings) *time.Duration { return &s.ConnectTimeout })},
		{Env: "TLS_TIMEOUT", Default: "15s", Usage: "bound for a TLS handshake",
			set: positive(func(s *Settings) *time.Duration { return &s.TLSTimeout })},
		{Env: "FIRST_BYTE_TIMEOUT", Default: "5m", Usage: "bound for the API to begin its answer",
			set: positive(func(s *Settings) *time.Duration { return &s.FirstByteTimeout })},

		{Env: "API_RATE", Flag: "api-rate", Worker: true, Default: "off", Usage: "requests for pictures a minute, of this processor; off: no limit of ours",
			set: orOff(count(func(s *Settings) *int { return &s.Rate }, 1, 1_000_000))},

		{Env: "IMAGE_STORE", Flag: "image-store", Worker: true, Default: "images", Usage: "directory for the pictures",
			set: imageStore},
		{Env: "IMAGE_BASE_URL", Worker: true, Usage: "URL under which that directory is served; empty: image_url is the file's name",
			set: imageBaseURL},
		{Env: "IMAGE_MAX_BYTES", Worker: true, Default: "33554432", Usage: "largest picture accepted, in bytes",
			set: imageMaxBytes},

		{Env: "TASK_CONCURRENCY", Flag: "concurrency", Worker: true, Default: "3", Usage: "tasks worked at once",
			set: count(func(s *Settings) *int { return &s.Concurrency }, 1, 1000)},
		{Env: "MAX_ATTEMPTS", Flag: "max-attempts", Worker: true, Default: "3", Usage: "attempts before a task fails and is refunded",
			set: count(func(s *Settings) *int { return &s.MaxAttempts }, 1, 100)},
		{Env: "POLL_INTERVAL", Flag: "poll-interval", Worker: true, Default: "5s", Usage: "look for tasks at least this often, on top of NOTIFY",
			set: positive(func(s *Settings) *time.Duration { return &s.PollInterval })},
		{Env: "TASK_LEASE", Flag: "lease", Worker: true, Default: "60s", Usage: "a worker silent for this long has lost its task",
			set: positive(func(s *Settings) *time.Duration { return &s.Lease })},
		{Env: "TASK_TIMEOUT", Flag: "task-timeout", Worker: true, Default: "10m", Usage: "deadline of one attempt",
			set: positive(func(s *Settings) *time.Duration { return &s.TaskTimeout })},
		{Env: "STUCK_AFTER", Default: "20m", Usage: "a task processing for longer than this is stuck",
			set: positive(func(s *Settings) *time.Duration { return &s.StuckAfter })},
		{Env: "PENDING_TIMEOUT", Default: "off", Usage: "a task that was due for longer than this, and not begun, fails and is refunded; off: it waits for ever",
			set: orOff(positive(func(s *Settings) *time.Duration { return &s.PendingTimeout }))},
		{Env: "HUNG_AFTER", Default: "2m", Usage: "a processor that gave no sign of life for this long is hung",
			set: positive(func(s *Settings) *time.Duration { return &s.HungAfter })},
		{Env: "SHUTDOWN_GRACE", Flag: "shutdown-grace", Worker: true, Default: "30s", Usage: "time that tasks in hand get to finish at a stop",
			set: positive(func(s *Settings) *time.Duration { return &s.ShutdownGrace })},

		{Env: "STATUS_ADDR", Flag: "status-addr", Worker: true, Default: "127.0.0.1:9464", Usage: "address of the status page and metrics; off: none",
			set: statusAddr},
		{Env: "LOG_DIR", Flag: "log-dir", Default: ".", Usage: "directory of the log files",
			set: logDir},
		{Env: "LOG_LEVEL", Flag: "log-level", Default: "info", Usage: "debug, info, warn or error",
			set: oneOf(func(s *Settings) *string { return &s.LogLevel }, "debug", "info", "warn", "error")},
		{Env: "LOG_FORMAT", Flag: "log-format", Default: "text", Usage: "text or json",
			set: oneOf(func(s *Settings) *string { return &s.LogFormat }, "text", "json")},
	}
}

// Error is a setting that can't be used. It never quotes the value of a secret.
type Error struct {
	Name   string // the environment variable
	Value  string // empty for secrets
	Reason string
}

// Error says which setting, what stands in it and what is wrong with it.
func (e *Error) Error() string {
	if e.Value == "" {
		return e.Name + ": " + e.Reason
	}
	return fmt.Sprintf("%s=%q: %s", e.Name, e.Value, e.Reason)
}

// Source returns the value of a setting, and false where it has none.
type Source func(Setting) (string, bool)

// Load takes each setting from the first source that has it, else from its default. An empty value
// counts as none. All faults are returned together, each an *Error.
func Load(sources ...Source) (Settings, error) {
	var s Settings
	var faults []error
	for _, setting := range List() {
		value := setting.Default
		for _, source := range sources {
			if v, ok := source(setting); ok && v != "" {
				value = v
				break
			}
		}
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

// check tests the rules that tie one setting to another.
func (s *Settings) check() []error {
	var faults []error
	if s.TaskTimeout >= s.StuckAfter {
		faults = append(faults, &Error{Name: "TASK_TIMEOUT", Value: s.TaskTimeout.String(), Reason: fmt.Sprintf(
			"must be less than STUCK_AFTER (%s), or a task at work would be taken for stuck", s.StuckAfter)})
	}
	if s.Lease < time.Second {
		faults = append(faults, &Error{Name: "TASK_LEASE", Value: s.Lease.String(), Reason: "must be 1s or more"})
	}
	if s.HungAfter < 2*time.Second {
		faults = append(faults, &Error{Name: "HUNG_AFTER", Value: s.HungAfter.String(), Reason: "must be 2s or more"})
	}
	return faults
}

// Secrets returns the values that are secret as a whole.
func (s *Settings) Secrets() []string { return []string{s.APIKey} }

// SecretURLs returns the values whose logins are secret, as they were set: a comma or a space in a password divides a list of
// proxies where nobody meant it. They are known even where Load returned an error.
func (s *Settings) SecretURLs() []string { return append(slices.Clone(s.urls), s.Proxy.OpenAI...) }

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
		d, err := time.ParseDuration(v)
		if err != nil {
			return errors.New("must be a time such as 90s, 10m or 1h30m")
		}
		if d <= 0 {
			return errors.New("must be more than 0")
		}
		*field(s) = d
		return nil
	}
}

// orOff takes "off" for none.
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

var tableName = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]{0,50}\.)?[A-Za-z_][A-Za-z0-9_]{0,40}$`)

func table(field func(*Settings) *string) func(*Settings, string) error {
	return func(s *Settings, v string) error {
		if !tableName.MatchString(v) {
			return errors.New("must be a table's name, or schema.table, of letters, digits and _")
		}
		*field(s) = v
		return nil
	}
}

func baseURL(s *Settings, v string) error {
	u, err := url.Parse(v)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return errors.New("must be an http or https URL such as https://api.openai.com/v1")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("must not carry a login, a query or a fragment")
	}
	s.BaseURL = strings.TrimSuffix(v, "/")
	return nil
}

func proxies(s *Settings, v string) error {
	s.Proxy.OpenAI = strings.FieldsFunc(v, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
	if len(s.Proxy.OpenAI) == 0 {
		return errors.New("names no proxy")
	}
	return nil
}

func apiMode(s *Settings, v string) error {
	switch v {
	case "images":
		s.APIMode = v
		return nil
	case "chat":
		return errors.New("chat is not supported yet; use images")
	}
	return errors.New("must be images")
}

func imageStore(s *Settings, v string) error {
	if strings.HasPrefix(v, "s3://") {
		return errors.New("s3 stores are not supported yet; use a directory")
	}
	if strings.Contains(v, "://") {
		return errors.New("must be a directory")
	}
	dir, err := filepath.Abs(v)
	s.ImageDir = dir
	return err
}

func imageBaseURL(s *Settings, v string) error {
	u, err := url.Parse(v)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return errors.New("must be an http or https URL")
	}
	s.ImageBaseURL = strings.TrimSuffix(v, "/")
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
