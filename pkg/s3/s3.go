// Package s3 keeps pictures in a bucket of an S3-compatible object store: Amazon S3, Cloudflare R2, Supabase Storage, MinIO, Alibaba Cloud OSS
// and others. Its Backend sends each request once and bounds it; repeating is for its caller. The signatures are those of the AWS SDK; its client,
// which would add six megabytes to each program, is not needed for the five requests that are sent.
package s3

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"imagetasks/pkg/picture"
)

// Config configures a Backend.
type Config struct {
	Endpoint  string // URL of the service; a path, as Supabase has, is kept
	Region    string
	Bucket    string
	Prefix    string // of the keys, without slashes at its ends; it ends with the name of the installation's directory
	PathStyle bool   // the bucket is in the path of URLs, not in the host's name

	AccessKeyID, SecretAccessKey, SessionToken string

	CacheControl string            // of the pictures; empty: none
	URL          string            // public URL of the bucket, or a template with {bucket} and {key}; empty: that of the endpoint
	Transport    http.RoundTripper // makes the connections
	Stall        time.Duration     // a request in which nothing moves for so long ends; 30s
}

// Backend is a picture.Backend in a bucket. It is safe for concurrent use.
type Backend struct {
	conf     Config
	endpoint *url.URL
	client   *http.Client
	signer   *v4.Signer
	// unconditional is set when the server refuses conditional requests.
	unconditional atomic.Bool
}

var _ picture.Backend = (*Backend)(nil)

// slowest is the rate in bytes a second that a transfer must reach on the whole.
const slowest = 8 << 10

// New returns the Backend. It sends nothing. The error is that of an endpoint that is no URL.
func New(c Config) (*Backend, error) {
	if c.Stall <= 0 {
		c.Stall = 30 * time.Second
	}
	endpoint, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("the endpoint of the object store: %w", err)
	}
	// A redirect leads to another region or another host: the request is signed for neither.
	client := &http.Client{Transport: c.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	// S3 signs the path as it is sent.
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	return &Backend{conf: c, endpoint: endpoint, client: client, signer: signer}, nil
}

// String returns the address of the objects, without secrets.
func (b *Backend) String() string {
	return fmt.Sprintf("s3://%s/%s at %s", b.conf.Bucket, b.conf.Prefix, b.conf.Endpoint)
}

func (b *Backend) key(name string) string { return strings.TrimPrefix(b.conf.Prefix+"/"+name, "/") }

// URL implements picture.Backend.
func (b *Backend) URL(name string) string {
	key := b.key(name)
	switch base := b.conf.URL; {
	case strings.Contains(base, "{key}"):
		return strings.NewReplacer("{bucket}", b.conf.Bucket, "{key}", key).Replace(base)
	case base != "":
		return strings.TrimSuffix(base, "/") + "/" + key
	}
	return b.address(key).String()
}

// Put implements picture.Backend. The server compares the content with its MD5 and its signed SHA-256; what it says it has stored is compared, too.
func (b *Backend) Put(ctx context.Context, name string, s picture.Source, replace bool) error {
	sum, signed := md5.New(), sha256.New()
	if n, err := io.Copy(io.MultiWriter(sum, signed), io.NewSectionReader(s.ReaderAt, 0, s.Size)); err != nil || n != s.Size {
		return errors.Join(err, fmt.Errorf("upload %s: %d of %d bytes could be read", name, n, s.Size))
	}
	if string(signed.Sum(nil)) != string(s.SHA256) {
		return fmt.Errorf("upload %s: the disk returned other data than was written", name)
	}
	digest, content := sum.Sum(nil), hex.EncodeToString(s.SHA256)
	conditional := !replace && !b.unconditional.Load()
	tag, err := b.put(ctx, name, s, digest, content, conditional)
	if e, ok := errors.AsType[*Error](err); ok && conditional && e.Status == http.StatusNotImplemented {
		b.unconditional.Store(true)
		tag, err = b.put(ctx, name, s, digest, content, false)
	}
	if err != nil || tag == hex.EncodeToString(digest) {
		return err
	}
	// Where the server encrypts with keys of its own, the tag is no MD5.
	stored, err := b.Stat(ctx, name)
	if err == nil && stored.Bytes != s.Size {
		err = fmt.Errorf("upload %s: the picture store has %d of %d bytes", name, stored.Bytes, s.Size)
	}
	return err
}

// put sends the content, and returns the MD5 that the server says, if it does.
func (b *Backend) put(ctx context.Context, name string, s picture.Source, digest []byte, content string, conditional bool) (string, error) {
	w, ctx := b.watch(ctx, s.Size)
	defer w.end()
	r, err := b.request(ctx, http.MethodPut, b.key(name), nil)
	if err != nil {
		return "", err
	}
	r.GetBody = func() (io.ReadCloser, error) {
		return io.NopCloser(&watchedFile{io.NewSectionReader(s.ReaderAt, 0, s.Size), w}), nil
	}
	r.Body, _ = r.GetBody()
	r.ContentLength = s.Size
	r.Header.Set("Content-Type", s.Type)
	r.Header.Set("Content-Md5", base64.StdEncoding.EncodeToString(digest))
	if b.conf.CacheControl != "" && strings.HasPrefix(s.Type, "image/") {
		r.Header.Set("Cache-Control", b.conf.CacheControl)
	}
	if conditional {
		r.Header.Set("If-None-Match", "*")
	}
	response, err := b.send(ctx, w, "upload "+name, r, content)
	if err != nil {
		return "", err
	}
	return md5Of(response.Header.Get("ETag")), response.Body.Close()
}

// Get implements picture.Backend.
func (b *Backend) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	w, ctx := b.watch(ctx, 1<<30)
	response, err := b.call(ctx, w, "read "+name, http.MethodGet, b.key(name), nil)
	if err != nil {
		w.end()
		return nil, err
	}
	return &watchedBody{response.Body, w}, nil
}

// Stat implements picture.Backend.
func (b *Backend) Stat(ctx context.Context, name string) (picture.Info, error) {
	w, ctx := b.watch(ctx, 0)
	defer w.end()
	response, err := b.call(ctx, w, "look up "+name, http.MethodHead, b.key(name), nil)
	if err != nil {
		return picture.Info{}, err
	}
	defer response.Body.Close()
	at, _ := http.ParseTime(response.Header.Get("Last-Modified"))
	return picture.Info{Name: name, Bytes: response.ContentLength, ModifiedAt: at, MD5: md5Of(response.Header.Get("ETag"))}, nil
}

// List implements picture.Backend.
func (b *Backend) List(ctx context.Context, visit func([]picture.Info) error) error {
	prefix := b.key("")
	for from := ""; ; {
		page, err := b.page(ctx, prefix, from)
		if err != nil {
			return err
		}
		found := make([]picture.Info, 0, len(page.Contents))
		for _, o := range page.Contents {
			found = append(found, picture.Info{Name: strings.TrimPrefix(o.Key, prefix), Bytes: o.Size, ModifiedAt: o.LastModified, MD5: md5Of(o.ETag)})
		}
		if len(found) > 0 {
			if err := visit(found); err != nil {
				return err
			}
		}
		if !page.IsTruncated {
			return nil
		}
		if page.Next == "" || page.Next == from {
			return &Error{Op: "list the pictures", Status: http.StatusOK, Message: "the listing does not say how it goes on"}
		}
		from = page.Next
	}
}

// Remove implements picture.Backend. S3 does not say whether there was an object, so it is looked up before.
func (b *Backend) Remove(ctx context.Context, name string) error {
	if _, err := b.Stat(ctx, name); err != nil {
		return err
	}
	w, ctx := b.watch(ctx, 0)
	defer w.end()
	response, err := b.call(ctx, w, "remove "+name, http.MethodDelete, b.key(name), nil)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// md5Of returns the MD5 that an entity tag may be.
func md5Of(tag string) string {
	text := strings.ToLower(strings.Trim(tag, `"`))
	if sum, err := hex.DecodeString(text); err != nil || len(sum) != md5.Size {
		return ""
	}
	return text
}
