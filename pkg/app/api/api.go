// Package api wires the image API's client from the settings.
package api

import (
	"net/url"

	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/settings"
)

// newTransport returns the transport for requests to the API.
func newTransport(s settings.Settings) (*proxy.Transport, error) {
	return proxy.New(proxy.Config{
		Env:         proxy.Env(s.Proxy),
		DialTimeout: s.DialTimeout, ConnectTimeout: s.ConnectTimeout,
		TLSTimeout: s.TLSTimeout, FirstByteTimeout: s.FirstByteTimeout,
	})
}

// New returns the image API's client and the transport under it.
func New(s settings.Settings) (*imageapi.Client, *proxy.Transport, error) {
	transport, err := newTransport(s)
	if err != nil {
		return nil, nil, err
	}
	client, err := imageapi.New(imageapi.Config{BaseURL: s.BaseURL, Key: s.APIKey, Model: s.Model,
		Transport: transport, MaxBytes: s.ImageMaxBytes})
	if err != nil {
		return nil, nil, &settings.Error{Name: "OPENAI_API_KEY", Reason: err.Error()}
	}
	return client, transport, nil
}

// Route says which way the API is reached.
func Route(t *proxy.Transport, s settings.Settings) string {
	u, err := url.Parse(s.BaseURL)
	if err != nil {
		return "at an address that is none"
	}
	return t.Describe(u)
}
