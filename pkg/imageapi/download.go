package imageapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"imagetasks/pkg/netaddr"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// DownloadRules say how pictures are fetched that the API answers with the URL of.
type DownloadRules struct {
	Direct bool // without a proxy where every configured route has failed
	HTTP   bool // from http:// URLs too; they are always allowed where the API itself is at one
}

// SetDownloadRules makes downloads that begin from now on follow other rules.
func (c *Client) SetDownloadRules(r DownloadRules) { c.downloadRules.Store(&r) }

const (
	downloadTimeout      = 2 * time.Minute  // of one GET, with its redirects and routes, and without what arrives at downloadRate
	downloadRate         = 8 << 10          // bytes a second; what is slower ends at downloadTimeout, so that it does not hold its slot
	downloadStall        = 30 * time.Second // without a byte
	maxDownloadRedirects = 5
	// slowDownload is the time after which a GET that failed is not repeated at once.
	slowDownload = 10 * time.Second
)

// downloadWaits are the waits before the second GET and those after it: the host of a picture may be some seconds late.
var downloadWaits = []time.Duration{time.Second, 2 * time.Second}

// Resetter is a writer that can discard what was written to it. Where a response has a picture and its URL, Generate takes the picture only
// if it can go back to the URL.
type Resetter interface{ Reset() error }

// Download fetches the picture at a URL that Generate has returned, and writes it to w, at most Config.MaxBytes. The caller must check that
// it is a picture. It sends up to tries GETs within a few seconds, at least one, each without the API's key and of at most two minutes, and more on a slow line. If
// one fails after it wrote, w is reset before the next if it is a Resetter, else there is none.
//
// Every error is a *task.Error of the scope of the task, and has nothing of the URL but its host:
//   - task.CodeDownload with the disposition Release: another call may succeed. Gone means that the host says that it has no such picture.
//     RetryAfter is the wait that the host asked for.
//   - task.CodePictureLost, task.CodeNotAPicture or task.CodeTooLarge with the disposition Fail and Paid: no other call will.
//   - task.CodeShutdown with the disposition Release: ctx was cancelled.
//
// A response with a status of success that is no picture is an *Unusable in the error.
func (c *Client) Download(ctx context.Context, address string, tries int, w io.Writer) error {
	u, lost := c.pictureURL(address)
	if lost != nil {
		return lost
	}
	for try := 0; ; try++ {
		began := time.Now()
		counted := &countingWriter{w: w}
		e := c.getPicture(ctx, u, counted)
		if e == nil {
			return nil
		}
		if e.Disposition != task.Release || ctx.Err() != nil || e.Code != task.CodeDownload || try+1 >= tries || try >= len(downloadWaits) ||
			e.RetryAfter > downloadWaits[try] || time.Since(began) > slowDownload || !c.allowsHTTP() && u.Scheme == "http" {
			return e
		}
		if counted.n > 0 {
			r, ok := w.(Resetter)
			if !ok || r.Reset() != nil {
				return e
			}
		}
		if !sleep(ctx, downloadWaits[try]) {
			return e
		}
	}
}

// sleep waits, and reports false if ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// pictureURL parses the URL of a picture. A path is one of the API's host. The error is a *task.Error for a URL that is of no use.
func (c *Client) pictureURL(address string) (*url.URL, error) {
	address = strings.ReplaceAll(strings.TrimSpace(address), " ", "%20")
	if len(address) > maxURL {
		return nil, pictureLost(fmt.Sprintf("its URL has more than %d bytes", maxURL))
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" && !strings.HasPrefix(u.Path, "/") {
		return nil, pictureLost("its URL can't be parsed")
	}
	if !u.IsAbs() {
		base, err := url.Parse(c.conf.BaseURL)
		if err != nil {
			return nil, pictureLost("its URL can't be used")
		}
		u = base.ResolveReference(u)
	}
	toASCII(u)
	if reason := c.refusesPictureURL(u); reason != "" {
		return nil, pictureLost("its URL is not allowed: " + reason)
	}
	return u, nil
}

// toASCII writes the host of a URL as it is looked up. net/http would do so later, and may turn other characters into those of an address.
func toASCII(u *url.URL) {
	host := u.Hostname()
	if !strings.ContainsFunc(host, func(r rune) bool { return r >= 0x80 }) {
		return
	}
	ascii, err := idna.Lookup.ToASCII(host)
	if err != nil {
		return // it is refused
	}
	port := u.Port()
	u.Host = ascii
	if port != "" {
		u.Host = net.JoinHostPort(ascii, port)
	}
}

func pictureLost(reason string) *task.Error {
	return &task.Error{Code: task.CodePictureLost, Disposition: task.Fail, Paid: true,
		Message: "the API made the picture, and it can't be fetched: " + reason}
}

// refusesPictureURL returns why nothing is fetched from a URL, or "". The scheme http is not refused here: the operator may allow it.
func (c *Client) refusesPictureURL(u *url.URL) string {
	host := plainHost(u)
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "its scheme must be http or https"
	case host == "":
		return "it has no host"
	case strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return "its host has characters that no host has"
	case netaddr.IsPrivateHost(host) && !c.reachesPrivate(host):
		return "its host is not on the public Internet, and the API is"
	}
	return ""
}

func plainHost(u *url.URL) string { return strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")) }

// reachesPrivate reports whether a host may be a private one: it is the API's, or the API is at a private one too.
func (c *Client) reachesPrivate(host string) bool {
	base, err := url.Parse(c.conf.BaseURL)
	if err != nil {
		return false
	}
	api := plainHost(base)
	return host == api || netaddr.IsPrivateHost(api)
}

func (c *Client) allowsHTTP() bool {
	return c.downloadRules.Load().HTTP || strings.HasPrefix(strings.ToLower(c.conf.BaseURL), "http:")
}

// downloadFailed returns the error of a GET that may succeed later.
func downloadFailed(u *url.URL, err error, reason string, args ...any) *task.Error {
	return &task.Error{Code: task.CodeDownload, Disposition: task.Release, Err: err,
		Message: fmt.Sprintf("the API made the picture, and it could not be fetched from %s yet: ", hostOf(u)) + fmt.Sprintf(reason, args...)}
}

// getPicture is one GET of Download.
func (c *Client) getPicture(whole context.Context, u *url.URL, w io.Writer) *task.Error {
	ctx, cancel := context.WithCancel(whole)
	defer cancel()
	began := time.Now()
	limit := &arrivalLimit{timer: time.AfterFunc(downloadTimeout, cancel), until: began.Add(downloadTimeout)}
	defer limit.timer.Stop()
	failed := func(u *url.URL, err error) *task.Error {
		switch {
		case errors.Is(whole.Err(), context.Canceled):
			return &task.Error{Code: task.CodeShutdown, Disposition: task.Release, Message: "the download of the picture was interrupted", Err: err}
		case whole.Err() != nil:
			return downloadFailed(u, err, "the attempt exceeded TASK_TIMEOUT")
		case ctx.Err() != nil:
			return downloadFailed(u, err, "it did not arrive within %s", time.Since(began).Round(time.Second))
		}
		return downloadFailed(u, err, "%s", oneLine(withoutURL(err).Error()))
	}
	for range maxDownloadRedirects + 1 {
		if u.Scheme == "http" && !c.allowsHTTP() {
			return downloadFailed(u, nil, "its URL begins with http://; IMAGE_DOWNLOAD_HTTP=on allows that")
		}
		response, err := c.getFrom(ctx, u)
		if err != nil {
			return failed(u, err)
		}
		location := response.Header.Get("Location")
		if !isRedirect(response.StatusCode) || location == "" {
			defer response.Body.Close()
			limit.r = response.Body
			return c.readDownload(u, response, limit, w, failed)
		}
		_ = response.Body.Close()
		next, err := u.Parse(location)
		if err != nil || len(location) > maxURL {
			return downloadFailed(u, nil, "it is redirected to a URL that can't be used")
		}
		toASCII(next)
		if reason := c.refusesPictureURL(next); reason != "" {
			return downloadFailed(u, nil, "it is redirected to %s, which is not allowed: %s", hostOf(next), reason)
		}
		u = next
	}
	return downloadFailed(u, nil, "it is redirected more than %d times", maxDownloadRedirects)
}

// arrivalLimit is a body that gives its GET more time for what arrives: a slow line is no reason to lose a picture.
type arrivalLimit struct {
	r     io.Reader
	timer *time.Timer // ends the GET
	until time.Time
}

// Read implements io.Reader.
func (a *arrivalLimit) Read(p []byte) (int, error) {
	n, err := a.r.Read(p)
	if n > 0 {
		a.until = a.until.Add(time.Duration(n) * time.Second / downloadRate)
		a.timer.Reset(time.Until(a.until))
	}
	return n, err
}

// getFrom sends one request. It follows no redirect: http.Client would send the URL, which may be signed, to the next host as the referrer.
func (c *Client) getFrom(ctx context.Context, u *url.URL) (*http.Response, error) {
	d := proxy.Download{Direct: c.downloadRules.Load().Direct, Stall: downloadStall}
	if !c.reachesPrivate(plainHost(u)) {
		d.CheckAddr = netaddr.CheckResolved
	}
	request, err := http.NewRequestWithContext(proxy.WithDownload(ctx, d), http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("its URL can't be used")
	}
	request.Header.Set("Accept", "image/png, image/jpeg, image/webp")
	request.Header.Set("User-Agent", c.conf.UserAgent)
	if u.User != nil {
		password, _ := u.User.Password()
		request.SetBasicAuth(u.User.Username(), password)
	}
	return c.transport.RoundTrip(request)
}

// readDownload reads a response with its body. failed returns the error for a failure of the connection.
func (c *Client) readDownload(u *url.URL, response *http.Response, content io.Reader, w io.Writer, failed func(*url.URL, error) *task.Error) *task.Error {
	switch status := response.StatusCode; {
	case status == http.StatusOK, status == http.StatusNonAuthoritativeInfo:
	default:
		e := downloadFailed(u, nil, "its host responded %d", status)
		e.Gone = status == http.StatusNotFound || status == http.StatusGone || status == http.StatusForbidden
		e.RetryAfter = retryAfter(response.Header, time.Now())
		return e
	}
	if response.ContentLength > c.conf.MaxBytes {
		return c.downloadTooLarge()
	}
	network := &errReader{r: content}
	body, err := decompressed(network, response.Header, c.conf.MaxBytes+1)
	var picture *bufio.Reader
	var head []byte
	if err == nil {
		picture = bufio.NewReaderSize(body, maxErrorBody)
		head, err = picture.Peek(sniffed)
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	kind, _, _ := strings.Cut(http.DetectContentType(head), ";")
	switch {
	case err != nil:
	case len(head) == 0:
		return downloadFailed(u, nil, "the response is empty")
	case strings.HasPrefix(kind, "text/") || looksLikeJSON(head):
		head, _ = picture.Peek(maxErrorBody)
		unusable := &Unusable{ContentType: oneLine(response.Header.Get("Content-Type")), Head: withoutParts(head, u)}
		return downloadFailed(u, unusable, "the response is a page or a text, no picture")
	default:
		_, err = io.Copy(pictureWriter{w}, picture)
	}
	written, isWrite := errors.AsType[*writeError](err)
	switch {
	case isWrite:
		e := *task.AsError(written.err)
		if e.Paid = e.Disposition == task.Fail; !e.Paid {
			e.Disposition = task.Release
		}
		return &e
	case errors.Is(err, errTooLong):
		return c.downloadTooLarge()
	case network.err != nil:
		return failed(u, network.err)
	case err != nil:
		return failed(u, errors.New("its content can't be decompressed"))
	case strings.HasPrefix(kind, "image/") && pictureTypes[kind] == "":
		return &task.Error{Code: task.CodeNotAPicture, Disposition: task.Fail, Paid: true,
			Message: fmt.Sprintf("the API made a picture of the type %s; PNG, JPEG and WebP can be used", kind)}
	}
	return nil
}

// sniffed is how many bytes show what a content is.
const sniffed = 512

func looksLikeJSON(head []byte) bool {
	text := bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\ufeff")), " \t\r\n")
	return len(text) > 0 && (text[0] == '{' || text[0] == '[' || text[0] == '"')
}

func (c *Client) downloadTooLarge() *task.Error {
	return &task.Error{Code: task.CodeTooLarge, Disposition: task.Fail, Paid: true,
		Message: fmt.Sprintf("the API made the picture, and it is larger than %d bytes", c.conf.MaxBytes)}
}

// withoutParts returns a copy of a text of a picture's host without the path and the query of the picture's URL, which may be secrets.
func withoutParts(text []byte, u *url.URL) []byte {
	parts := []string{u.RequestURI(), u.EscapedPath(), u.Path, u.RawQuery}
	for _, values := range u.Query() {
		parts = append(parts, values...)
	}
	for _, part := range parts {
		if len(part) >= minSecretPart {
			text = bytes.ReplaceAll(text, []byte(part), []byte("[redacted]"))
			text = bytes.ReplaceAll(text, []byte(url.QueryEscape(part)), []byte("[redacted]"))
		}
	}
	return bytes.Clone(text)
}

// minSecretPart is the length of the shortest part of a URL that is taken for a secret.
const minSecretPart = 8

// PrivateTexts returns the texts in a request that must not be shown or kept, such as the prompt.
func (r Request) PrivateTexts() []string { return r.privateTexts() }
