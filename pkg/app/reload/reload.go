// Package reload reads the env file again at SIGHUP while a program runs.
package reload

import (
	"errors"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

// Reloader reads the env file again at each SIGHUP, and passes on what may be changed while the program runs: the key, the
// proxies, and the password of the database.
//
// A terminal that is closed sends SIGHUP too: then the program stops as at SIGTERM, unless it was started with nohup.
type Reloader struct {
	app      *app.App
	context  *cli.Context
	terminal bool // the end of the terminal ends the program

	signals <-chan os.Signal
	ignore  func()

	settings atomic.Pointer[settings.Settings] // in use
	last     atomic.Pointer[overview.Reload]
}

// New returns a Reloader. From now on SIGHUP does not end the program; it is handled once Start is called.
func New(a *app.App, c *cli.Context, s settings.Settings) *Reloader {
	r := &Reloader{app: a, context: c, ignore: func() {}}
	r.settings.Store(&s)
	r.terminal = !signal.Ignored(syscall.SIGHUP) && hasTerminal()
	if a.Hangups != nil {
		r.signals, r.ignore = a.Hangups()
	}
	return r
}

// hasTerminal reports whether the process has a controlling terminal that is not closed.
func hasTerminal() bool {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}

// Settings returns the settings with what was taken over.
func (r *Reloader) Settings() settings.Settings { return *r.settings.Load() }

// Last returns the result of the last reload; nil: there was none.
func (r *Reloader) Last() *overview.Reload { return r.last.Load() }

// Targets are what a Reloader changes.
type Targets struct {
	Store *store.Store
	// CheckAPI returns an error for settings of the API that can't be used, and SetAPI takes them over: the key and the
	// proxies.
	CheckAPI func(settings.Settings) error
	SetAPI   func(settings.Settings) error
	// Processor: the program uses the settings that only a processor reads.
	Processor bool
}

// Start handles SIGHUP until stop is called; stop waits for a reload in progress.
func (r *Reloader) Start(targets Targets, log logrus.FieldLogger) (stop func()) {
	ended := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-r.signals:
			}
			if r.terminal && !hasTerminal() {
				log.Warn("the terminal was closed: stopping")
				// To this process itself, so that it is one signal among others.
				_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
				continue
			}
			r.reload(targets, log)
		}
	})
	return func() {
		close(ended)
		running.Wait()
		r.ignore()
	}
}

// reload reads the settings, takes over what may be changed, and logs the result in one line.
func (r *Reloader) reload(targets Targets, log logrus.FieldLogger) {
	result := &overview.Reload{At: time.Now()}
	defer r.last.Store(result)
	fresh, path, err := r.app.LoadAgain(r.context)
	if err == nil {
		err = r.apply(targets, fresh, result)
	}
	log = log.WithField("file", path)
	if err != nil {
		result.Changed, result.NeedsRestart = nil, nil
		result.Error = r.app.Redact.String(strings.ReplaceAll(err.Error(), "\n", "; "))
		log.Error("SIGHUP: the settings were not changed: " + result.Error)
		return
	}
	changed := "nothing changed"
	if len(result.Changed) > 0 {
		changed = strings.Join(result.Changed, ", ") + " changed, in use from now on"
	}
	if len(result.NeedsRestart) > 0 {
		log.Warnf("SIGHUP: the settings were read again: %s; not in use until a restart: %s", changed, strings.Join(result.NeedsRestart, ", "))
		return
	}
	log.Info("SIGHUP: the settings were read again: " + changed)
}

// apiSettings are the settings of the API that may be changed while the program runs.
var apiSettings = []string{"OPENAI_API_KEY", "OPENAI_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY",
	"IMAGE_DOWNLOAD_DIRECT", "IMAGE_DOWNLOAD_HTTP"}

// hasProxy reports whether settings name a proxy.
func hasProxy(s settings.Settings) bool {
	return len(s.Proxy.OpenAI) > 0 || s.Proxy.HTTPS != "" || s.Proxy.HTTP != "" || s.Proxy.All != ""
}

const databaseURL = "DATABASE_URL"

// apply takes over all that may be changed, or returns an error and changes nothing.
func (r *Reloader) apply(targets Targets, fresh settings.Settings, result *overview.Reload) error {
	now := r.Settings()
	api := false
	for _, name := range now.Changed(&fresh) {
		switch {
		case slices.Contains(apiSettings, name):
			api = true
			result.Changed = append(result.Changed, name)
		case name == databaseURL:
			switch err := targets.Store.CheckURL(fresh.DatabaseURL); {
			case err == nil:
				result.Changed = append(result.Changed, name+" (its password)")
			case errors.Is(err, store.ErrOtherDatabase):
				result.NeedsRestart = append(result.NeedsRestart, name)
			default:
				return &settings.Error{Name: name, Reason: err.Error()}
			}
		case targets.Processor || !settings.IsProcessors(name):
			result.NeedsRestart = append(result.NeedsRestart, name)
		}
	}
	if api {
		if hasProxy(now) && !hasProxy(fresh) {
			// The file may have been read while it was being written, and a direct connection must not come about by mistake.
			return &settings.Error{Name: "OPENAI_PROXY", Reason: "no proxy is set any more; to go on without one, restart the program"}
		}
		if err := targets.CheckAPI(fresh); err != nil {
			return err
		}
	}
	next := now
	if !slices.Contains(result.NeedsRestart, databaseURL) {
		if err := targets.Store.SetURL(fresh.DatabaseURL); err != nil {
			return &settings.Error{Name: databaseURL, Reason: err.Error()}
		}
		next = next.With(fresh, databaseURL)
	}
	if api {
		if err := targets.SetAPI(fresh); err != nil {
			return err
		}
		next = next.With(fresh, apiSettings...)
	}
	r.settings.Store(&next)
	return nil
}
