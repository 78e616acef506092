// Package alerts wires the receivers of alerts from the settings.
package alerts

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"imagetasks/pkg/alert"
	"imagetasks/pkg/alert/receiver"
	"imagetasks/pkg/app"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

// Alerts is what sends alerts and pings. The zero value sends none.
type Alerts struct {
	receivers  []alert.Receiver
	settings   settings.Settings
	redact     func(string) string
	command    func(finding.Command) string
	pinger     *receiver.Pinger
	transports []*proxy.Transport
	dir        string
}

// New returns what the settings and imagetasks.toml say. It connects to nothing. An error is a *settings.Error for each fault. Secrets are added to those
// that are hidden.
func New(a *app.App, c *cli.Context, s settings.Settings) (*Alerts, error) {
	configs, faults := read(a, c, s)
	out := &Alerts{settings: s, redact: a.Redact.String, command: a.CommandLine(c), dir: s.LogDir}
	transports := map[string]*proxy.Transport{}
	transport := func(name, choice string) *proxy.Transport {
		if transports[choice] == nil {
			t, err := newTransport(s, choice)
			if err != nil {
				faults = append(faults, &settings.Error{Name: name, Reason: "must be on, off or the URL of a proxy: " + err.Error()})
				return nil
			}
			transports[choice] = t
			out.transports = append(out.transports, t)
		}
		return transports[choice]
	}
	agent := "imagetasks/" + app.Version
	for _, conf := range configs {
		name := "ALERT_PROXY"
		if conf.Name != receiver.VariableName {
			name = app.TablesFile(c) + ": alert " + conf.Name + ": proxy"
		}
		a.Redact.Add(conf.Secret, conf.URL)
		a.Redact.Add(settings.SecretsOfURL(conf.URL)...)
		if conf.Proxy != "on" && conf.Proxy != "off" {
			a.Redact.AddURL(conf.Proxy)
		}
		t := transport(name, conf.Proxy)
		if t == nil {
			continue
		}
		sender := &receiver.Sender{Kind: conf.Kind, URL: conf.URL, Secret: conf.Secret, Lang: conf.Lang, Transport: t, UserAgent: agent, Redact: a.Redact.String}
		repeat := conf.Repeat
		if repeat == 0 {
			repeat = s.Alerts.Repeat
		}
		out.receivers = append(out.receivers, alert.Receiver{Name: conf.Name, Codes: conf.Codes, Severities: conf.Severities, Repeat: repeat, Send: sender.Send})
	}
	if s.PingURL != "" {
		if err := settings.CheckReceiverURL(s.PingURL); err != nil {
			faults = append(faults, &settings.Error{Name: "HEARTBEAT_PING_URL", Reason: err.Error()})
		} else if t := transport("ALERT_PROXY", s.Alerts.Proxy); t != nil {
			out.pinger = &receiver.Pinger{URL: s.PingURL, Transport: t, UserAgent: agent, Redact: a.Redact.String}
		}
	}
	if len(faults) > 0 {
		out.Close()
		return &Alerts{}, errors.Join(faults...)
	}
	return out, nil
}

// read returns the receivers of the variables and of imagetasks.toml.
func read(a *app.App, c *cli.Context, s settings.Settings) (configs []receiver.Config, faults []error) {
	if s.Alerts.URL != "" {
		conf := receiver.Config{Name: receiver.VariableName, Kind: receiver.KindOf(s.Alerts.URL), URL: s.Alerts.URL, Secret: s.Alerts.Secret, Proxy: s.Alerts.Proxy,
			Lang: lang.Lang(s.Alerts.Lang)}
		if conf.Lang == "" {
			conf.Lang = conf.Kind.Lang()
		}
		if err := settings.CheckReceiverURL(s.Alerts.URL); err != nil {
			faults = append(faults, &settings.Error{Name: "ALERT_WEBHOOK_URL", Reason: err.Error()})
		}
		if err := receiver.CheckSecret(conf.Kind, conf.Secret); err != nil {
			faults = append(faults, &settings.Error{Name: "ALERT_WEBHOOK_SECRET", Reason: err.Error()})
		}
		configs = append(configs, conf)
	}
	path := app.TablesFile(c)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return configs, faults
	case err != nil:
		return nil, append(faults, &settings.Error{Name: path, Reason: "it can't be read; check its permissions"})
	}
	more, wrong := receiver.Parse(text, a.Variable)
	for _, err := range wrong {
		faults = append(faults, &settings.Error{Name: path, Reason: err.Error()})
	}
	return append(configs, more...), faults
}

// newTransport returns a transport for a choice: on, off or the URL of a proxy.
func newTransport(s settings.Settings, choice string) (*proxy.Transport, error) {
	var env proxy.Env
	switch choice {
	case "off":
	case "on":
		env = proxy.Env(s.Proxy)
	default:
		if _, err := proxy.Parse(choice); err != nil {
			return nil, err
		}
		env.OpenAI = []string{choice}
	}
	const timeout = alert.SendTimeout
	return proxy.New(proxy.Config{Env: env, DialTimeout: min(s.DialTimeout, timeout), ConnectTimeout: min(s.ConnectTimeout, timeout),
		TLSTimeout: min(s.TLSTimeout, timeout), FirstByteTimeout: 2 * timeout}) // the context ends before, with a text of its own
}

// Close closes the connections that carry no request.
func (a *Alerts) Close() {
	for _, t := range a.transports {
		t.CloseIdleConnections()
	}
}

// Receivers returns how many receivers there are.
func (a *Alerts) Receivers() int { return len(a.receivers) }

// config returns how receivers are told. st may be nil while the database is unavailable.
func (a *Alerts) config(st *store.Store, log logrus.FieldLogger) alert.Config {
	name := a.settings.Alerts.Name
	if name == "" {
		name = a.settings.DatabaseSchema
	}
	return alert.Config{Store: st, Receivers: a.receivers, Host: app.Hostname(), Name: name, Wait: a.settings.Alerts.Wait, Quiet: a.settings.Alerts.ResolvedAfter,
		Command: a.command, Redact: a.redact, Log: log, LostDatabase: alert.NewLostDatabase(a.dir)}
}

// Disks returns the directories of this host that the programs write to, of which each must have free space.
func Disks(s settings.Settings) *overview.DiskWatch {
	dirs := []string{s.LogDir} // with the pictures that wait for an object store
	if !s.ImageStore.IsBucket() {
		if dir, err := filepath.Abs(s.ImageStore.Dir); err == nil {
			dirs = append(dirs, dir)
		}
	}
	return overview.NewDiskWatch(s.DiskFree, slices.Compact(dirs)...)
}

// Result is the result of a test of one receiver.
type Result struct {
	Receiver string  `json:"receiver"`
	OK       bool    `json:"ok"`
	Seconds  float64 `json:"seconds"`
	Error    string  `json:"error,omitempty"`
}

// Test sends a test to each receiver, all at the same time.
func (a *Alerts) Test(ctx context.Context) []Result {
	results := make(chan Result)
	for _, r := range a.receivers {
		go func() {
			began := time.Now()
			ctx, cancel := context.WithTimeout(ctx, alert.SendTimeout)
			defer cancel()
			conf := a.config(nil, nil)
			err := r.Send(ctx, alert.Message{Name: conf.Name, Host: conf.Host, At: began, Command: a.command})
			result := Result{Receiver: r.Name, OK: err == nil, Seconds: time.Since(began).Seconds()}
			if err != nil {
				result.Error = a.redact(err.Error())
			}
			results <- result
		}()
	}
	all := make([]Result, 0, len(a.receivers))
	for range a.receivers {
		all = append(all, <-results)
	}
	place := func(r Result) int {
		return slices.IndexFunc(a.receivers, func(known alert.Receiver) bool { return known.Name == r.Receiver })
	}
	slices.SortFunc(all, func(x, y Result) int { return place(x) - place(y) })
	return all
}
