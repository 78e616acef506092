package imageapi

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"imagetasks/pkg/task"
)

// base is where the API is. A base URL without a path may lack its /v1, which shows in the answers to incomplete requests only.
type base struct {
	// finding is held by the goroutine that finds out.
	finding chan struct{}
	found   chan struct{} // closed when url is set
	url     string
}

func newBase(conf Config) *base {
	b := &base{finding: make(chan struct{}, 1), found: make(chan struct{})}
	if u, err := url.Parse(conf.BaseURL); !conf.FindV1 || err != nil || u.Path != "" && u.Path != "/" {
		b.set(conf.BaseURL)
	}
	return b
}

func (b *base) set(url string) {
	b.url = url
	close(b.found)
}

func (b *base) isFound() bool {
	select {
	case <-b.found:
		return true
	default:
		return false
	}
}

// findBase finds out, once and free of charge, whether the API is under /v1 of the base URL or at the base URL itself, unless that is known. Only a
// missing endpoint or a web page in one place decides for the other. Until it is decided, findBase returns the error that prevents it, a
// *task.Error, and nothing that is billed may be sent.
func (c *Client) findBase(ctx context.Context, model string) error {
	if c.base.isFound() {
		return nil
	}
	select {
	case <-c.base.found:
		return nil
	case c.base.finding <- struct{}{}:
	case <-ctx.Done():
		return notSent(connectionError(ctx, ctx.Err()))
	}
	defer func() { <-c.base.finding }()
	if c.base.isFound() {
		return nil
	}
	atV1, atRoot := withPath(c.conf.BaseURL, "/v1"), c.conf.BaseURL
	v1, err := c.tryBase(ctx, atV1, model)
	switch v1 {
	case placeUnknown:
		return err
	case placeAPI:
		c.base.set(atV1)
		return nil
	}
	root, rootErr := c.tryBase(ctx, atRoot, model)
	switch {
	case root == placeUnknown:
		return rootErr
	case v1 == placeMissing && root != placeMissing:
		c.base.set(atRoot)
	case v1 == placeUnclear && root == placeMissing:
		c.base.set(atV1)
	default:
		return err
	}
	return nil
}

// place is what an incomplete request shows about an address.
type place int

const (
	placeUnknown place = iota // the API was not reached
	placeAPI                  // it is there
	placeMissing              // there is no endpoint
	placeUnclear              // a server error, as something in front of the API has, too
)

// tryBase asks the endpoint at an address with an incomplete request.
func (c *Client) tryBase(ctx context.Context, address, model string) (place, error) {
	conf := c.conf
	conf.BaseURL, conf.FindV1 = address, false
	probe := &Client{conf: conf, transport: c.transport, http: c.http, base: newBase(conf)}
	probe.key.Store(c.key.Load())
	err := probe.Check(ctx, model)
	if probe.uncheckable.Load() {
		c.uncheckable.Store(true)
	}
	failed, ok := errors.AsType[*task.Error](err)
	if !ok {
		return placeAPI, err
	}
	switch {
	case failed.Code == task.CodeWrongAddress || failed.Code == task.CodeWebPage:
		return placeMissing, notSent(failed)
	case errors.Is(err, task.ErrUncheckable):
		return placeUnclear, notSent(failed)
	case failed.NotSent || failed.Scope == task.ScopeProxy || failed.Code == task.CodeNetwork || failed.Code == task.CodeCutOff ||
		failed.Code == task.CodeTimeout || failed.Code == task.CodeShutdown || failed.Code == task.CodeServer:
		return placeUnknown, notSent(failed)
	}
	return placeAPI, nil
}

// notSent returns an error of a free request that prevents a request for a picture.
func notSent(e *task.Error) *task.Error {
	unsent := *asked(e)
	unsent.NotSent = true
	return &unsent
}

// address returns the URL of a request. findBase must have succeeded.
func (c *Client) address(path string) string { return withPath(c.base.url, path) }

// withPath adds a path to the end of that of a base URL, before its query.
func withPath(baseURL, path string) string {
	address, query, found := strings.Cut(baseURL, "?")
	address = strings.TrimRight(address, "/") + path
	if found {
		address += "?" + query
	}
	return address
}
