// Package reload reads the env file again at SIGHUP while a program runs.
package reload

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/endpoint"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
)

// Reloader reads the env file again at each SIGHUP, and passes on what may be changed while the program runs: the key, the
// proxies, the password of the database, and the token of the status page.
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
	// CheckAPI returns an error for settings of the API that can't be used, and SetAPI takes them over: the keys and the
	// proxies of the endpoints.
	CheckAPI func(settings.Settings) error
	SetAPI   func(settings.Settings) error
	// Access is who may use the status page. Optional.
	Access *status.Access
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

// keepsProxies returns an error where a proxy was set and none is set any more, unless an endpoint says that it needs none: the file may have been
// read while it was being written, and a direct connection must not come about by mistake.
func keepsProxies(now, next settings.Settings) error {
	has := func(s settings.Settings, own []string) bool {
		if own != nil {
			return !slices.Equal(own, []string{endpoint.Direct})
		}
		return len(s.Proxy.OpenAI) > 0 || s.Proxy.HTTPS != "" || s.Proxy.HTTP != "" || s.Proxy.All != ""
	}
	if len(next.Endpoints) == 0 && has(now, nil) && !has(next, nil) {
		return &settings.Error{Name: "OPENAI_PROXY", Reason: "no proxy is set any more; to go on without one, restart the program"}
	}
	for i, e := range next.Endpoints { // in the same order
		if has(now, now.Endpoints[i].Proxies) && e.Proxies == nil && !has(next, nil) {
			return &settings.Error{Name: fmt.Sprintf("endpoint %q: proxies", e.Name), Reason: "no proxy is set any more; to go on without one, set proxies = [\"direct\"], or restart the program"}
		}
	}
	return nil
}

// mergeEndpoints returns the endpoints in use with the keys and proxies of the new ones, and the names of what was changed, and of what was changed
// and can't be used without a restart.
func mergeEndpoints(now, fresh []endpoint.Endpoint) (merged []endpoint.Endpoint, changed, needRestart []string) {
	merged = slices.Clone(now)
	for i := range merged {
		e := &merged[i]
		j := slices.IndexFunc(fresh, func(f endpoint.Endpoint) bool { return f.Name == e.Name })
		if j < 0 {
			needRestart = append(needRestart, "endpoint "+e.Name)
			continue
		}
		f := fresh[j]
		if e.Key != f.Key {
			changed = append(changed, fmt.Sprintf("endpoint %s (its key)", e.Name))
		}
		if !slices.Equal(e.Proxies, f.Proxies) || (e.Proxies == nil) != (f.Proxies == nil) {
			changed = append(changed, fmt.Sprintf("endpoint %s (its proxies)", e.Name))
		}
		e.KeyEnv, e.Key, e.Proxies = f.KeyEnv, f.Key, f.Proxies
		if !reflect.DeepEqual(*e, f) {
			needRestart = append(needRestart, "endpoint "+e.Name)
		}
	}
	for _, f := range fresh {
		if !slices.ContainsFunc(now, func(e endpoint.Endpoint) bool { return e.Name == f.Name }) {
			needRestart = append(needRestart, "endpoint "+f.Name)
		}
	}
	return merged, changed, needRestart
}

const (
	databaseURL = "DATABASE_URL"
	statusToken = "STATUS_TOKEN" // one that is removed needs a restart: the address may be off loopback
)

// apply takes over all that may be changed, or returns an error and changes nothing.
func (r *Reloader) apply(targets Targets, fresh settings.Settings, result *overview.Reload) error {
	now := r.Settings()
	if fresh.EndpointsError != nil {
		return fresh.EndpointsError
	}
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
		case name == statusToken && (targets.Access == nil || fresh.StatusToken != ""):
			if targets.Access != nil {
				result.Changed = append(result.Changed, name)
			}
		case targets.Processor || !settings.IsProcessors(name):
			result.NeedsRestart = append(result.NeedsRestart, name)
		}
	}
	endpoints, changed, needRestart := mergeEndpoints(now.Endpoints, fresh.Endpoints)
	api = api || len(changed) > 0
	result.Changed, result.NeedsRestart = append(result.Changed, changed...), append(result.NeedsRestart, needRestart...)
	next := now
	if api {
		next = next.With(fresh, apiSettings...)
		next.Endpoints = endpoints
		if err := keepsProxies(now, next); err != nil {
			return err
		}
		if err := targets.CheckAPI(next); err != nil {
			return err
		}
	}
	if !slices.Contains(result.NeedsRestart, databaseURL) {
		if err := targets.Store.SetURL(fresh.DatabaseURL); err != nil {
			return &settings.Error{Name: databaseURL, Reason: err.Error()}
		}
		next = next.With(fresh, databaseURL)
	}
	if api {
		if err := targets.SetAPI(next); err != nil {
			return err
		}
	}
	if fresh.StatusToken != "" {
		if targets.Access != nil {
			targets.Access.SetToken(fresh.StatusToken)
		}
		next = next.With(fresh, statusToken)
	}
	r.settings.Store(&next)
	return nil
}
