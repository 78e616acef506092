// Package apiclient wires the image API's client from the settings.
package apiclient

import (
	"context"
	"net"
	"net/url"
	"sync"
	"time"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/render"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/settings"
)

// newTransport returns a transport for requests to the API, with the timeouts of the settings.
func newTransport(s settings.Settings, env proxy.Env) (*proxy.Transport, error) {
	return proxy.New(proxy.Config{
		Env:         env,
		DialTimeout: s.DialTimeout, ConnectTimeout: s.ConnectTimeout,
		TLSTimeout: s.TLSTimeout, FirstByteTimeout: s.FirstByteTimeout,
	})
}

// New returns the image API's client and the transport under it.
func New(s settings.Settings) (*imageapi.Client, *proxy.Transport, error) {
	transport, err := newTransport(s, proxy.Env(s.Proxy))
	if err != nil {
		return nil, nil, err
	}
	client, err := NewWithTransport(s, transport)
	return client, transport, err
}

// NewWithTransport returns the image API's client over a transport.
func NewWithTransport(s settings.Settings, transport *proxy.Transport) (*imageapi.Client, error) {
	client, err := imageapi.New(imageapi.Config{BaseURL: s.BaseURL, Key: s.APIKey, Model: s.Model,
		Transport: transport, MaxBytes: s.ImageMaxBytes, UserAgent: "imagetasks/" + app.Version, Download: downloadRules(s)})
	if err != nil {
		return nil, &settings.Error{Name: "OPENAI_API_KEY", Reason: err.Error()}
	}
	return client, nil
}

func downloadRules(s settings.Settings) imageapi.DownloadRules {
	return imageapi.DownloadRules{Direct: s.DownloadDirect, HTTP: s.DownloadHTTP}
}

// localProxy is where the common local proxies (Clash and its like) listen.
const localProxy = "127.0.0.1:7890"

// AlternativeRoutes returns the route to the API without a proxy and, if the settings use no proxy, a route through one: a
// proxy that NO_PROXY bypasses, or one on the usual port of local proxies. other is nil if there is none.
func AlternativeRoutes(s settings.Settings, base *url.URL) (direct, other *proxy.Transport, err error) {
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

// Check returns an error for a key or a proxy that can't be used.
func Check(s settings.Settings) error {
	if err := proxy.CheckEnv(proxy.Env(s.Proxy)); err != nil {
		return err
	}
	if err := imageapi.CheckKey(s.APIKey); err != nil {
		return &settings.Error{Name: "OPENAI_API_KEY", Reason: err.Error()}
	}
	return nil
}

// Update makes requests that begin from now on use the key, the proxies and the rules of downloads of the settings. If Check refuses them, it changes
// nothing.
func Update(client *imageapi.Client, transport *proxy.Transport, s settings.Settings) error {
	if err := Check(s); err != nil {
		return err
	}
	if err := transport.SetEnv(proxy.Env(s.Proxy)); err != nil {
		return err
	}
	client.SetDownloadRules(downloadRules(s))
	return client.SetKey(s.APIKey)
}

// Prober checks the API. If the settings of the API are invalid, the check returns the reason: the rest of a program must not
// depend on them. It is safe for concurrent use.
type Prober struct {
	mu        sync.Mutex
	client    *imageapi.Client
	transport *proxy.Transport
	err       error
}

// NewProber returns a Prober for the settings.
func NewProber(s settings.Settings) *Prober {
	p := &Prober{}
	p.client, p.transport, p.err = New(s)
	return p
}

// Check asks the endpoint that makes pictures, free of charge, as imageapi.Client.Check.
func (p *Prober) Check(ctx context.Context) error {
	p.mu.Lock()
	client, err := p.client, p.err
	p.mu.Unlock()
	if err != nil {
		return err
	}
	return client.Check(ctx, "")
}

// Set makes later checks use these settings. It changes nothing if they are invalid.
func (p *Prober) Set(s settings.Settings) error {
	client, transport, err := New(s)
	if err != nil {
		return err
	}
	p.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.client, p.transport, p.err = client, transport, nil
	return nil
}

// Close closes the connections that carry no request.
func (p *Prober) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.transport.CloseIdleConnections()
	}
}

// retryTimeout bounds the retry of all ejected proxies.
const retryTimeout = time.Minute

// RetryEjected retries the ejected proxies that are due, each with a request that is free of charge. Upstreams shows the
// result.
func RetryEjected(ctx context.Context, t *proxy.Transport, s settings.Settings) {
	ctx, cancel := context.WithTimeout(ctx, retryTimeout)
	defer cancel()
	for _, due := range t.RetryableUpstreams() {
		if client, err := NewWithTransport(s, due); err == nil {
			_ = client.Check(ctx, "")
		}
	}
}

// Upstreams returns the state of each upstream, in order of preference.
func Upstreams(t *proxy.Transport, s settings.Settings) []proxy.UpstreamState {
	u, err := url.Parse(s.BaseURL)
	if err != nil {
		return nil
	}
	return t.States(u)
}

// Route describes the route to the API, without logins.
func Route(t *proxy.Transport, s settings.Settings) lang.Message {
	u, err := url.Parse(s.BaseURL)
	if err != nil {
		u = &url.URL{} // settings.Load refuses such a URL
	}
	return render.Route(t.Via(u))
}
