package s3

import (
	"context"
	"encoding/xml"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// emptySHA256 is the SHA-256 of an empty body.
const emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// maxAnswer bounds what is read of a listing or an error.
const maxAnswer = 8 << 20

// address returns the URL of an object; an empty key: of the bucket.
func (b *Backend) address(key string) *url.URL {
	u := *b.endpoint
	if b.conf.PathStyle {
		return u.JoinPath(b.conf.Bucket, key)
	}
	u.Host = b.conf.Bucket + "." + u.Host
	return u.JoinPath("/", key)
}

// send signs a request and sends it once. A response that is no success is an *Error.
func (b *Backend) send(ctx context.Context, w *watch, op string, r *http.Request, sha256Hex string) (*http.Response, error) {
	r.Header.Set("X-Amz-Content-Sha256", sha256Hex)
	login := aws.Credentials{AccessKeyID: b.conf.AccessKeyID, SecretAccessKey: b.conf.SecretAccessKey, SessionToken: b.conf.SessionToken}
	if err := b.signer.SignHTTP(ctx, login, r, sha256Hex, "s3", b.conf.Region, time.Now()); err != nil {
		return nil, &Error{Op: op, Message: "the request can't be signed: " + err.Error(), Err: err}
	}
	response, err := b.client.Do(r)
	if err != nil {
		return nil, b.unanswered(op, w.cause(err))
	}
	if response.StatusCode/100 == 2 {
		return response, nil
	}
	defer response.Body.Close()
	return nil, b.refusal(op, response)
}

// request returns a request for an object, or with an empty key for the bucket.
func (b *Backend) request(ctx context.Context, method, key string, query url.Values) (*http.Request, error) {
	u := b.address(key)
	// The signature has %20 for a space, and + stands for itself.
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	return http.NewRequestWithContext(ctx, method, u.String(), nil)
}

// call sends a request without a body. The caller closes that of the response.
func (b *Backend) call(ctx context.Context, w *watch, op, method, key string, query url.Values) (*http.Response, error) {
	r, err := b.request(ctx, method, key, query)
	if err != nil {
		return nil, err
	}
	return b.send(ctx, w, op, r, emptySHA256)
}

// listing is a page of ListObjectsV2.
type listing struct {
	XMLName     xml.Name `xml:"ListBucketResult"`
	IsTruncated bool     `xml:"IsTruncated"`
	Next        string   `xml:"NextContinuationToken"`
	Contents    []struct {
		Key          string    `xml:"Key"`
		Size         int64     `xml:"Size"`
		ETag         string    `xml:"ETag"`
		LastModified time.Time `xml:"LastModified"`
	} `xml:"Contents"`
}

func (b *Backend) page(ctx context.Context, prefix, from string) (page listing, err error) {
	const op = "list the pictures"
	w, ctx := b.watch(ctx, maxAnswer)
	defer w.end()
	query := url.Values{"list-type": {"2"}, "max-keys": {"1000"}, "prefix": {prefix}}
	if from != "" {
		query.Set("continuation-token", from)
	}
	response, err := b.call(ctx, w, op, http.MethodGet, "", query)
	if err != nil {
		return page, err
	}
	defer response.Body.Close()
	if err := xml.NewDecoder(io.LimitReader(&watchedBody{response.Body, w}, maxAnswer)).Decode(&page); err != nil {
		return page, b.unanswered(op, w.cause(err))
	}
	return page, nil
}
