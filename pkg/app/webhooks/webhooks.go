// Package webhooks wires the delivery of completion events from the settings.
package webhooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/app"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/webhook"
)

// maxTemplate bounds the file of a template, in bytes.
const maxTemplate = 256 << 10

// timeout is that of each attempt.
const timeout = 15 * time.Second

// Receivers returns for whom events are written when a task is closed.
func Receivers(s settings.Settings) []store.EventReceiver {
	var out []store.EventReceiver
	if s.WebhookURL != "" {
		out = append(out, store.ReceiverWebhook)
	}
	if s.WebhookURL != "" || s.WebhookHosts != "" {
		out = append(out, store.ReceiverTask)
	}
	if s.CompletionNotify {
		out = append(out, store.ReceiverNotify)
	}
	return out
}

// Webhooks is what deliveries need.
type Webhooks struct {
	Config    webhook.Config
	transport *proxy.Transport
}

// Close closes the connections that carry no request.
func (w Webhooks) Close() { w.transport.CloseIdleConnections() }

// New returns the configuration of deliveries. An error names the setting that can't be used. What the template takes from the environment is added to
// the secrets that are hidden.
func New(a *app.App, s settings.Settings, st webhook.Store, log logrus.FieldLogger) (Webhooks, error) {
	fault := func(name string, err error) error { return &settings.Error{Name: name, Reason: err.Error()} }
	secrets, err := webhook.ParseSecrets(s.WebhookSecrets)
	if err != nil {
		return Webhooks{}, fault("COMPLETION_WEBHOOK_SECRET", err)
	}
	hosts, err := webhook.ParseHosts(s.WebhookHosts)
	if err != nil {
		return Webhooks{}, fault("COMPLETION_WEBHOOK_HOSTS", err)
	}
	t, err := readTemplate(a, s.WebhookTemplate)
	if err != nil {
		return Webhooks{}, fault("COMPLETION_WEBHOOK_TEMPLATE", err)
	}
	a.Redact.Add(t.Secrets()...)
	if len(secrets) == 0 && (s.WebhookHosts != "" || s.WebhookURL != "" && !t.Authorizes()) {
		return Webhooks{}, fault("COMPLETION_WEBHOOK_SECRET", fmt.Errorf("is missing, so that receivers could not tell who sends the events; "+
			"make one with: echo whsec_$(openssl rand -base64 32)"))
	}
	transport, err := newTransport(s)
	if err != nil {
		return Webhooks{}, err
	}
	conf := webhook.Config{Store: st, Transport: transport, URL: s.WebhookURL, Secrets: secrets, Template: t, Hosts: hosts, AllowPrivate: s.WebhookAllowPrivate,
		UserAgent: "imagetasks/" + app.Version, Timeout: timeout, Redact: a.Redact.String, Log: log}
	if err := conf.Check(); err != nil {
		return Webhooks{}, fault("COMPLETION_WEBHOOK_URL", err)
	}
	return Webhooks{conf, transport}, nil
}

// newTransport returns the transport of webhooks.
func newTransport(s settings.Settings) (*proxy.Transport, error) {
	var env proxy.Env
	switch s.WebhookProxy {
	case "off":
	case "on":
		env = proxy.Env(s.Proxy)
	default:
		if _, err := proxy.Parse(s.WebhookProxy); err != nil {
			return nil, &settings.Error{Name: "COMPLETION_WEBHOOK_PROXY", Reason: "must be on, off or the URL of a proxy: " + err.Error()}
		}
		env.OpenAI = []string{s.WebhookProxy}
	}
	return proxy.New(proxy.Config{Env: env, DialTimeout: min(s.DialTimeout, timeout), ConnectTimeout: min(s.ConnectTimeout, timeout),
		TLSTimeout: min(s.TLSTimeout, timeout), FirstByteTimeout: timeout})
}

// readTemplate reads the template of a file, or a built-in one. No name: nil.
func readTemplate(a *app.App, name string) (*webhook.Template, error) {
	switch {
	case name == "":
		return nil, nil
	case webhook.IsBuiltin(name):
		return webhook.ParseTemplate(name, a.Variable)
	}
	if strings.HasPrefix(name, "builtin:") {
		return nil, errors.New("there is no such built-in template; there is: " + webhook.BuiltinTaskID)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxTemplate+1))
	if err == nil && len(text) > maxTemplate {
		err = fmt.Errorf("the file is longer than %d bytes", maxTemplate)
	}
	if err != nil {
		return nil, err
	}
	return webhook.ParseTemplate(string(text), a.Variable)
}

// Pass delivers what is due, once.
func Pass(ctx context.Context, a *app.App, s settings.Settings, st webhook.Store, log logrus.FieldLogger) (webhook.Report, error) {
	w, err := New(a, s, st, log)
	if err != nil {
		return webhook.Report{}, err
	}
	defer w.Close()
	return webhook.Pass(ctx, w.Config)
}
