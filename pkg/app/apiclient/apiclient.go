// Package apiclient wires the clients of the image APIs from the settings.
package apiclient

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/render"
	"imagetasks/pkg/endpoint"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/settings"
)

// Endpoint is an endpoint of the settings with its client.
type Endpoint struct {
	endpoint.Endpoint
	Model     string // its name there, for requests that name none
	Client    *imageapi.Client
	Transport *proxy.Transport
}

// Set is all endpoints, in their order in the settings; at least one.
type Set []*Endpoint

// New returns the endpoints of the settings. If one of them can't be used, the error is a *settings.Error, or several.
func New(s settings.Settings) (Set, error) {
	all, err := s.APIEndpoints()
	if err != nil {
		return nil, err
	}
	var set Set
	for _, e := range all {
		transport, err := newTransport(s, proxyEnv(s, e))
		if err != nil {
			return nil, proxyError(e, err)
		}
		client, err := NewClient(s, e, transport)
		if err != nil {
			return nil, err
		}
		set = append(set, &Endpoint{e, defaultModel(s, e), client, transport})
	}
	return set, nil
}

// Fault returns why the endpoints of imagetasks.toml can't be used. It is nil where the file has none.
func Fault(s settings.Settings) error {
	if s.EndpointsError != nil || len(s.Endpoints) == 0 {
		return s.EndpointsError
	}
	set, err := New(s)
	set.CloseIdleConnections()
	return err
}

// newTransport returns a transport for requests to an API, with the timeouts of the settings.
func newTransport(s settings.Settings, env proxy.Env) (*proxy.Transport, error) {
	return proxy.New(proxy.Config{
		Env:         env,
		DialTimeout: s.DialTimeout, ConnectTimeout: s.ConnectTimeout,
		TLSTimeout: s.TLSTimeout, FirstByteTimeout: s.FirstByteTimeout,
	})
}

// proxyEnv returns the proxy settings of an endpoint.
func proxyEnv(s settings.Settings, e endpoint.Endpoint) proxy.Env {
	switch {
	case e.Proxies == nil:
		return proxy.Env(s.Proxy)
	case slices.Equal(e.Proxies, []string{endpoint.Direct}):
		return proxy.Env{}
	}
	return proxy.Env{OpenAI: e.Proxies}
}

// proxyError returns an error about the proxies of an endpoint that says where they are set.
func proxyError(e endpoint.Endpoint, err error) error {
	fault, ok := errors.AsType[*settings.Error](err)
	if !ok || e.Proxies == nil {
		return err
	}
	return &settings.Error{Name: fmt.Sprintf("%s: endpoint %q: proxies", app.TablesName, e.Name), Reason: fault.Reason}
}

// NewClient returns the client of an endpoint over a transport.
func NewClient(s settings.Settings, e endpoint.Endpoint, transport *proxy.Transport) (*imageapi.Client, error) {
	urlName := ""
	if len(s.Endpoints) > 0 {
		urlName = fmt.Sprintf("base_url of %s in %s", e.Name, app.TablesName)
	}
	client, err := imageapi.New(imageapi.Config{BaseURL: e.BaseURL, URLName: urlName, FindV1: true, Key: e.Key, KeyName: e.KeyEnv, Model: defaultModel(s, e),
		Transport: transport, MaxBytes: s.ImageMaxBytes, UserAgent: "imagetasks/" + app.Version, Download: downloadRules(s),
		Mode: imageapi.Mode(e.Mode), Stream: e.IsStreamed(), PartialImages: e.PartialImages, Template: e.Template, TemplateName: e.TemplateFile})
	if err != nil {
		return nil, clientError(e, err)
	}
	return client, nil
}

// clientError returns an error of a client that names the setting.
func clientError(e endpoint.Endpoint, err error) error {
	if imageapi.CheckKey(e.Key) != nil {
		return &settings.Error{Name: e.KeyEnv, Reason: err.Error()}
	}
	return &settings.Error{Name: fmt.Sprintf("%s: endpoint %q", app.TablesName, e.Name), Reason: err.Error()}
}

// defaultModel returns the model, as the endpoint calls it, of requests that name none: the one of the settings, or else the first that the
// endpoint has.
func defaultModel(s settings.Settings, e endpoint.Endpoint) string {
	if e.Serves(s.Model) {
		return e.ModelThere(s.Model)
	}
	return e.ModelThere(slices.Sorted(maps.Keys(e.Models))[0])
}

func downloadRules(s settings.Settings) imageapi.DownloadRules {
	return imageapi.DownloadRules{Direct: s.DownloadDirect, HTTP: s.DownloadHTTP}
}

// Named returns the endpoint of that name; "" is the first one.
func (set Set) Named(name string) (*Endpoint, bool) {
	for _, e := range set {
		if name == "" || e.Name == name {
			return e, true
		}
	}
	return nil, false
}

// Names returns the names of the endpoints.
func (set Set) Names() []string {
	var names []string
	for _, e := range set {
		names = append(names, e.Name)
	}
	return names
}

// WithoutDefault returns a warning if no endpoint has the model of tasks that name none, or else "".
func (set Set) WithoutDefault(s settings.Settings) string {
	if slices.ContainsFunc(set, func(e *Endpoint) bool { return e.Serves(s.Model) }) {
		return ""
	}
	return fmt.Sprintf("no endpoint of %s has the model %s in its models, so tasks that name no model will fail; add it there, or set OPENAI_MODEL to one of: %s",
		app.TablesName, s.Model, strings.Join(set.models(), ", "))
}

// models returns the models that the endpoints name.
func (set Set) models() []string {
	all := map[string]bool{}
	for _, e := range set {
		for model := range e.Models {
			all[model] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// CloseIdleConnections closes the connections that carry no request.
func (set Set) CloseIdleConnections() {
	for _, e := range set {
		e.Transport.CloseIdleConnections()
	}
}

// Digest identifies what the processors of one database must have in common: the names, addresses and models of the endpoints.
func (set Set) Digest() string {
	type common struct {
		Name, Address string
		Models        map[string]string // in the order of their keys
	}
	var all []common
	for _, e := range set {
		all = append(all, common{e.Name, e.Address(), e.Models})
	}
	slices.SortFunc(all, func(a, b common) int { return strings.Compare(a.Name, b.Name) })
	text, err := json.Marshal(all)
	if err != nil {
		return "" // texts can always be written
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// localProxy is where the common local proxies (Clash and its like) listen.
const localProxy = "127.0.0.1:7890"

// AlternativeRoutes returns the route to an endpoint without a proxy and, if it uses no proxy, a route through one: a proxy that NO_PROXY bypasses,
// or one on the usual port of local proxies. other is nil if there is none.
func AlternativeRoutes(s settings.Settings, e endpoint.Endpoint, base *url.URL) (direct, other *proxy.Transport, err error) {
	if direct, err = newTransport(s, proxy.Env{}); err != nil {
		return nil, nil, err
	}
	kept := s.Proxy.HTTPS
	if base.Scheme == "http" {
		kept = s.Proxy.HTTP
	}
	if kept == "" {
		kept = s.Proxy.All
	}
	if kept == "" && e.Proxies != nil && len(s.Proxy.OpenAI) > 0 {
		kept = s.Proxy.OpenAI[0]
	}
	if kept == "" {
		if conn, err := net.DialTimeout("tcp", localProxy, time.Second); err == nil {
			_ = conn.Close()
			kept = "http://" + localProxy
		}
	}
	if kept != "" {
		other, err = newTransport(s, proxy.Env{OpenAI: []string{kept}})
	}
	return direct, other, err
}

// Check returns an error for endpoints, keys or proxies that can't be used.
func Check(s settings.Settings) error {
	all, err := s.APIEndpoints()
	if err != nil {
		return err
	}
	for _, e := range all {
		if err := proxy.CheckEnv(proxyEnv(s, e)); err != nil {
			return proxyError(e, err)
		}
		if err := imageapi.CheckKey(e.Key); err != nil {
			return clientError(e, err)
		}
	}
	return nil
}

// Update makes requests that begin from now on use the keys, the proxies and the rules of downloads of the settings. If Check refuses them, it
// changes nothing. Endpoints that the settings do not have stay as they are.
func (set Set) Update(s settings.Settings) error {
	if err := Check(s); err != nil {
		return err
	}
	all, err := s.APIEndpoints()
	if err != nil {
		return err
	}
	for _, next := range all {
		i := slices.IndexFunc(set, func(e *Endpoint) bool { return e.Name == next.Name })
		if i < 0 {
			continue
		}
		if err := set[i].Transport.SetEnv(proxyEnv(s, next)); err != nil {
			return err
		}
		set[i].Client.SetDownloadRules(downloadRules(s))
		if err := set[i].Client.SetKey(next.Key); err != nil {
			return err
		}
	}
	return nil
}

// retryTimeout bounds the retry of all ejected proxies of an endpoint.
const retryTimeout = time.Minute

// RetryEjected retries the ejected proxies that are due, each with a request that is free of charge, of all endpoints at the same time. Upstreams
// shows the result. s are the settings in use.
func (set Set) RetryEjected(ctx context.Context, s settings.Settings) {
	ctx, cancel := context.WithTimeout(ctx, retryTimeout)
	defer cancel()
	all, err := s.APIEndpoints()
	if err != nil {
		return
	}
	var running sync.WaitGroup
	for _, now := range all {
		e, ok := set.Named(now.Name)
		if !ok {
			continue
		}
		running.Go(func() {
			for _, due := range e.Transport.RetryableUpstreams() {
				if client, err := NewClient(s, now, due); err == nil {
					_ = client.Check(ctx, "")
				}
			}
		})
	}
	running.Wait()
}

// Upstreams returns the state of each upstream, in order of preference.
func (e *Endpoint) Upstreams() []proxy.UpstreamState {
	u, err := url.Parse(e.BaseURL)
	if err != nil {
		return nil
	}
	return e.Transport.States(u)
}

// Via returns the proxies to the endpoint, without logins; none: it is connected to directly.
func (e *Endpoint) Via() []string {
	u, err := url.Parse(e.BaseURL)
	if err != nil {
		u = &url.URL{} // NormaliseURL refuses such a URL
	}
	return e.Transport.Via(u)
}

// Route describes the route to the endpoint, without logins.
func (e *Endpoint) Route() lang.Message { return render.Route(e.Via()) }
