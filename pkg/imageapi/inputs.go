package imageapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"imagetasks/pkg/netaddr"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// Input is a picture that is sent to the API: a PNG, JPEG or WebP. One of its fields is set.
type Input struct {
	Content []byte
	// URL is http:, https: or data: with base64. It may be signed, so it is never logged. In the mode chat the API gets an https URL as it is, else
	// the picture.
	URL string
}

const dataPrefix = "data:"

func isDataURL(text string) bool {
	return len(text) >= len(dataPrefix) && strings.EqualFold(text[:len(dataPrefix)], dataPrefix)
}

// decodeText decodes base64, or a data: URL with base64 in it (RFC 2397).
func decodeText(text string) ([]byte, error) {
	if isDataURL(text) {
		header, encoded, found := strings.Cut(text, ",")
		if !found || !strings.HasSuffix(strings.ToLower(header), ";base64") {
			return nil, errors.New("the data: URL has no base64")
		}
		text = encoded
	}
	text = strings.TrimSpace(text)
	b := bytes.NewBuffer(make([]byte, 0, base64.RawStdEncoding.DecodedLen(len(text))+bytes.MinRead))
	if _, err := decodeBase64(b, strings.NewReader(text)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// inputPicture is the content of an Input.
type inputPicture struct {
	name    string // for errors, such as "input picture 2"
	kind    string // png, jpeg or webp
	content []byte
}

var pictureTypes = map[string]string{"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}

// loadInputs returns the pictures and the mask of a request. It fetches those that are given by URL, one after the other. Its
// error is a *task.Error that names the picture.
func (c *Client) loadInputs(ctx context.Context, r Request) (pictures []inputPicture, mask *inputPicture, err error) {
	left := 2 * c.conf.MaxInputBytes
	for i, in := range r.Inputs {
		p, err := c.loadInput(ctx, fmt.Sprintf("input picture %d", i+1), in, &left)
		if err != nil {
			return nil, nil, err
		}
		pictures = append(pictures, p)
	}
	if r.Mask != nil {
		p, err := c.loadInput(ctx, "the mask", *r.Mask, &left)
		if err != nil {
			return nil, nil, err
		}
		mask = &p
	}
	return pictures, mask, checkPictures(r.Model, pictures, mask)
}

// loadInput returns one picture and subtracts its size from left, which is what the request's pictures may have together.
func (c *Client) loadInput(ctx context.Context, name string, in Input, left *int64) (p inputPicture, err error) {
	p = inputPicture{name: name, content: in.Content}
	limit := min(c.conf.MaxInputBytes, *left)
	switch {
	case (len(in.Content) > 0) == (in.URL != ""):
		return p, badInput(name, "must have either content or a URL")
	case in.URL == "":
	case !isDataURL(in.URL):
		p.content, err = c.fetchInput(ctx, name, in.URL, limit)
	case int64(len(in.URL))/4*3 > limit+maxURL:
		err = c.inputTooLarge(name, limit)
	default:
		if p.content, err = decodeText(in.URL); err != nil {
			err = badInput(name, "is a data: URL that can't be decoded: %v", err)
		}
	}
	if err != nil {
		return p, err
	}
	if int64(len(p.content)) > limit {
		return p, c.inputTooLarge(name, limit)
	}
	*left -= int64(len(p.content))
	known := false
	if p.kind, known = pictureTypes[http.DetectContentType(p.content)]; !known {
		return p, badInput(name, "is not a PNG, JPEG or WebP")
	}
	return p, nil
}

// inputTooLarge is the error for a picture that exceeds limit, which is Config.MaxInputBytes or less.
func (c *Client) inputTooLarge(name string, limit int64) error {
	e := &task.Error{Code: task.CodeInputTooLarge, Disposition: task.Fail, NotSent: true,
		Message: fmt.Sprintf("%s has more than %d bytes", name, c.conf.MaxInputBytes)}
	if limit < c.conf.MaxInputBytes {
		e.Message = fmt.Sprintf("the input pictures have together more than %d bytes; %s exceeds that", 2*c.conf.MaxInputBytes, name)
	}
	return e
}

// maxRedirects bounds the redirects that fetchInput follows.
const maxRedirects = 3

// fetchInput fetches a picture of at most limit bytes from an http or https URL through the client's transport, without the
// key. It follows redirects itself: http.Client would send the URL, which may be signed, to the next host as the referrer. Its
// error is a *task.Error that has the host and nothing else of the URL.
func (c *Client) fetchInput(ctx context.Context, name, address string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(proxy.WithOtherTarget(ctx), c.conf.InputTimeout, errInputTimeout)
	defer cancel()
	if len(address) > maxURL {
		return nil, badInput(name, "has a URL of more than %d bytes", maxURL)
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, badInput(name, "has a URL that can't be parsed")
	}
	for range maxRedirects + 1 {
		if reason := c.refusesURL(u); reason != "" {
			return nil, badInput(name, "has a URL that is not allowed: %s", reason)
		}
		response, err := c.getInput(ctx, u)
		if err != nil {
			return nil, inputConnectionError(ctx, name, u, err)
		}
		location := response.Header.Get("Location")
		if !isRedirect(response.StatusCode) || location == "" {
			defer response.Body.Close()
			return c.readInput(ctx, name, u, response, limit)
		}
		_ = response.Body.Close()
		if len(location) > maxURL {
			return nil, badInput(name, "is redirected by %s to a URL of more than %d bytes", hostOf(u), maxURL)
		}
		next, err := u.Parse(location)
		if err != nil {
			return nil, badInput(name, "is redirected by %s to a URL that can't be parsed", hostOf(u))
		}
		u = next
	}
	return nil, badInput(name, "is redirected more than %d times", maxRedirects)
}

// isRedirect reports whether a status means that another URL has the picture.
func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

func (c *Client) getInput(ctx context.Context, u *url.URL) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "image/png, image/jpeg, image/webp")
	request.Header.Set("User-Agent", c.conf.UserAgent)
	return c.transport.RoundTrip(request)
}

// readInput reads the response to the request for a picture.
func (c *Client) readInput(ctx context.Context, name string, u *url.URL, response *http.Response, limit int64) ([]byte, error) {
	switch status := response.StatusCode; {
	case status == http.StatusOK:
	case status >= 500, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status == http.StatusTooEarly:
		e := unavailable(name, task.Retry, "could not be fetched: %s responded %d", hostOf(u), status)
		e.RetryAfter = retryAfter(response.Header, time.Now())
		return nil, e
	default:
		return nil, unavailable(name, task.Fail, "could not be fetched: %s responded %d", hostOf(u), status)
	}
	if response.ContentLength > limit {
		return nil, c.inputTooLarge(name, limit)
	}
	b := bytes.NewBuffer(make([]byte, 0, max(response.ContentLength, 0)+bytes.MinRead))
	if _, err := b.ReadFrom(io.LimitReader(response.Body, limit+1)); err != nil {
		return nil, inputConnectionError(ctx, name, u, err)
	}
	return b.Bytes(), nil // loadInput checks the size
}

func unavailable(name string, do task.Disposition, format string, args ...any) *task.Error {
	return &task.Error{Code: task.CodeInputUnavailable, Disposition: do, NotSent: true, Message: name + " " + fmt.Sprintf(format, args...)}
}

var errInputTimeout = errors.New("the time limit for one input picture was exceeded")

// inputConnectionError classifies a failure to fetch a picture. A proxy that can't be used affects every task, so it is Pause as
// for a request to the API. A host that can't be reached concerns this task only: it uses an attempt, so that a wrong URL
// does not keep its task in the queue for ever.
func inputConnectionError(ctx context.Context, name string, u *url.URL, err error) error {
	timeout, isNet := errors.AsType[net.Error](err)
	failed, isDial := errors.AsType[*proxy.Error](err)
	switch {
	case errors.Is(context.Cause(ctx), errInputTimeout):
		return unavailable(name, task.Retry, "could not be fetched from %s: it did not arrive in time", hostOf(u))
	case ctx.Err() != nil:
		e := connectionError(ctx, ctx.Err())
		e.NotSent, e.Unknown = true, false
		if e.Code == task.CodeTimeout { // it uses an attempt, as any failure of the task's own pictures
			e.Disposition, e.Scope = task.Retry, task.ScopeTask
		}
		return e
	case isDial && failed.IsProxy():
		return connectionError(ctx, err)
	case isDial:
		return unavailable(name, task.Retry, "could not be fetched: %s", oneLine(failed.Error()))
	case isNet && timeout.Timeout():
		return unavailable(name, task.Retry, "could not be fetched from %s: there was no response in time", hostOf(u))
	}
	return unavailable(name, task.Retry, "could not be fetched from %s: the connection broke", hostOf(u))
}

// hostOf returns the host and port of a URL for an error.
func hostOf(u *url.URL) string {
	if host := oneLine(u.Host); len(host) <= 100 {
		return host
	}
	return "a host with a long name"
}

// refusesURL returns why a URL may not be fetched, or "". A name that resolves to a private address is not recognized: the proxy
// resolves it, not this host.
func (c *Client) refusesURL(u *url.URL) string {
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "its scheme must be http, https or data"
	case u.User != nil:
		return "it contains a login"
	case host == "":
		return "it has no host"
	case strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return "its host must be in ASCII" // net/http maps some other characters to ASCII
	case !c.conf.AllowPrivateInputs && netaddr.IsPrivateHost(host):
		return "its host is not on the public Internet"
	}
	return ""
}
