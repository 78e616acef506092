package s3

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"

	"imagetasks/pkg/picture"
	"imagetasks/pkg/proxy"
)

// Error is a refusal by the object store, or a connection that failed.
type Error struct {
	Op      string // what could not be done
	Code    string // of the object store; empty: no answer of its own was read
	Status  int    // of the response; 0: none
	Message string
	Fix     string // what to do; may be empty
	Page    bool   // a web page was read: something in front of the object store responded
	Err     error
}

// Error implements error.
func (e *Error) Error() string {
	text := e.Op + ": "
	switch {
	case e.Page:
		text += fmt.Sprintf("something in front of the object store responded with a web page (%d)", e.Status)
	case e.Code != "":
		text += fmt.Sprintf("the object store responded %s (%d)", e.Code, e.Status)
	case e.Status != 0:
		text += fmt.Sprintf("the object store responded %d", e.Status)
	default:
		text += "the object store does not respond"
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	if e.Fix != "" {
		text += "; " + e.Fix
	}
	return text
}

// Unwrap returns the kind of the failure, and its cause.
func (e *Error) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.kind(), e.Err} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// kind returns picture.ErrUnavailable, fs.ErrNotExist or fs.ErrExist, or else nil.
func (e *Error) kind() error {
	switch {
	case e.Page:
		return picture.ErrUnavailable
	case e.Status == http.StatusNotFound && (e.Code == "NoSuchKey" || e.Code == "NotFound" || e.Code == ""):
		return fs.ErrNotExist // some servers have other codes for a bucket or a key that they don't know
	case e.Status == http.StatusPreconditionFailed:
		return fs.ErrExist
	case e.Status == 0, e.Status >= 500, e.Status == http.StatusTooManyRequests, e.Status == http.StatusRequestTimeout, e.Status == http.StatusConflict:
		return picture.ErrUnavailable
	}
	return nil
}

// fixes says what to do about a refusal, by its code.
var fixes = map[string]string{
	"InvalidAccessKeyId":           "correct AWS_ACCESS_KEY_ID",
	"SignatureDoesNotMatch":        "correct AWS_SECRET_ACCESS_KEY, and the region in IMAGE_STORE",
	"InvalidToken":                 "correct AWS_SESSION_TOKEN, or remove it",
	"ExpiredToken":                 "AWS_SESSION_TOKEN has expired: use a key that does not expire",
	"AccessDenied":                 "the key needs the right to read, write, list and delete objects of the bucket",
	"Forbidden":                    "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; the key needs the right to read, write, list and delete objects of the bucket",
	"NoSuchBucket":                 "create the bucket, or correct its name in IMAGE_STORE",
	"PermanentRedirect":            "the bucket is in another region: correct region and endpoint in IMAGE_STORE",
	"AuthorizationHeaderMalformed": "correct the region in IMAGE_STORE",
	"SecondLevelDomainForbidden":   "remove path_style=on from IMAGE_STORE",
	"MissingContentLength":         "something between this host and the object store changes requests: check IMAGE_STORE_PROXY",
}

// maxMessage bounds what is quoted of the object store's message.
const maxMessage = 300

// unanswered returns the failure of a request without an answer.
func (b *Backend) unanswered(op string, err error) error {
	return &Error{Op: op, Message: reason(err), Err: err}
}

// refusal returns the failure that a response tells.
func (b *Backend) refusal(op string, response *http.Response) error {
	e := &Error{Op: op, Status: response.StatusCode}
	var answer struct {
		Code    string `xml:"Code"`
		Message string `xml:"Message"`
	}
	// A page of something in between is no XML of the object store.
	if err := xml.NewDecoder(io.LimitReader(response.Body, maxError)).Decode(&answer); err == nil {
		e.Code, e.Message = plain(answer.Code), plain(answer.Message)
	}
	media, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
	e.Page = e.Code == "" && strings.EqualFold(strings.TrimSpace(media), "text/html")
	if e.Page {
		e.Fix = "check the endpoint in IMAGE_STORE, and IMAGE_STORE_PROXY"
		return e
	}
	if e.Code == "" && e.Status == http.StatusForbidden {
		e.Code = "Forbidden" // the response to HEAD has no body
	}
	e.Fix = fixes[e.Code]
	switch e.Code {
	case "RequestTimeTooSkewed", "RequestExpired":
		e.Fix = "set the clock of this host" + skew(response)
	case "NoSuchBucket":
		e.Message = "there is no bucket " + b.conf.Bucket
	}
	return e
}

// maxError bounds what is read of an error.
const maxError = 64 << 10

// plain returns a short text on one line.
func plain(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	return strings.ToValidUTF8(text[:min(len(text), maxMessage)], "")
}

// reason returns the cause of a failure without an answer. Proxy errors say what to do.
func reason(err error) string {
	if e, ok := errors.AsType[*proxy.Error](err); ok {
		return e.Error()
	}
	if e, ok := errors.AsType[*stalledError](err); ok {
		return e.Error()
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return "the time for it has ended"
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

// skew returns by how much the clock differs from that of the object store.
func skew(response *http.Response) string {
	at, err := http.ParseTime(response.Header.Get("Date"))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (NTP): it differs by about %s", time.Since(at).Round(time.Second).Abs())
}
