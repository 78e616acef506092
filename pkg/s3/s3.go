// Package s3 keeps pictures in a bucket of an S3-compatible object store: Amazon S3, Cloudflare R2, Supabase Storage, MinIO, Alibaba Cloud OSS
// and others. Its Backend sends each request once and bounds it; repeating is for its caller.
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

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

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
	conf   Config
	client *s3.Client
	// unconditional is set when the server refuses conditional requests.
	unconditional atomic.Bool
}

var _ picture.Backend = (*Backend)(nil)

// slowest is the rate in bytes a second that a transfer must reach on the whole.
const slowest = 8 << 10

// New returns the Backend. It sends nothing.
func New(c Config) *Backend {
	if c.Stall <= 0 {
		c.Stall = 30 * time.Second
	}
	// A redirect leads to another region or another host: the request is signed for neither.
	client := &http.Client{Transport: c.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return &Backend{conf: c, client: s3.New(s3.Options{
		Region: c.Region, BaseEndpoint: aws.String(c.Endpoint), UsePathStyle: c.PathStyle, HTTPClient: client, Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken),
		// Other servers know neither trailing checksums nor their algorithms. Content-MD5 and the signed SHA-256 of the content are known to all.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	})}
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
	u, err := url.Parse(b.conf.Endpoint)
	if err != nil {
		return key
	}
	if b.conf.PathStyle {
		return u.JoinPath(b.conf.Bucket, key).String()
	}
	u.Host = b.conf.Bucket + "." + u.Host
	return u.JoinPath(key).String()
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
	digest := sum.Sum(nil)
	in := &s3.PutObjectInput{Bucket: &b.conf.Bucket, Key: aws.String(b.key(name)), ContentType: &s.Type, ContentLength: &s.Size,
		ContentMD5: aws.String(base64.StdEncoding.EncodeToString(digest))}
	if b.conf.CacheControl != "" && strings.HasPrefix(s.Type, "image/") {
		in.CacheControl = &b.conf.CacheControl
	}
	conditional := !replace && !b.unconditional.Load()
	if conditional {
		in.IfNoneMatch = aws.String("*")
	}
	out, err := b.put(ctx, in, s)
	if conditional && statusOf(err) == http.StatusNotImplemented {
		b.unconditional.Store(true)
		in.IfNoneMatch = nil
		out, err = b.put(ctx, in, s)
	}
	if err != nil {
		return b.explain("upload "+name, err)
	}
	if tag := md5Of(out.ETag); tag == hex.EncodeToString(digest) {
		return nil
	}
	// Where the server encrypts with keys of its own, the tag is no MD5.
	stored, err := b.Stat(ctx, name)
	if err == nil && stored.Bytes != s.Size {
		err = fmt.Errorf("upload %s: the picture store has %d of %d bytes", name, stored.Bytes, s.Size)
	}
	return err
}

func (b *Backend) put(ctx context.Context, in *s3.PutObjectInput, s picture.Source) (*s3.PutObjectOutput, error) {
	w, ctx := b.watch(ctx, s.Size)
	defer w.end()
	in.Body = &watchedFile{io.NewSectionReader(s.ReaderAt, 0, s.Size), w}
	out, err := b.client.PutObject(ctx, in)
	return out, w.cause(err)
}

// Get implements picture.Backend.
func (b *Backend) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	w, ctx := b.watch(ctx, 1<<30)
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.conf.Bucket, Key: aws.String(b.key(name))})
	if err != nil {
		defer w.end()
		return nil, b.explain("read "+name, w.cause(err))
	}
	return &watchedBody{out.Body, w}, nil
}

// Stat implements picture.Backend.
func (b *Backend) Stat(ctx context.Context, name string) (picture.Info, error) {
	w, ctx := b.watch(ctx, 0)
	defer w.end()
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.conf.Bucket, Key: aws.String(b.key(name))})
	if err != nil {
		return picture.Info{}, b.explain("look up "+name, w.cause(err))
	}
	return picture.Info{Name: name, Bytes: aws.ToInt64(out.ContentLength), ModifiedAt: aws.ToTime(out.LastModified), MD5: md5Of(out.ETag)}, nil
}

// List implements picture.Backend.
func (b *Backend) List(ctx context.Context, visit func([]picture.Info) error) error {
	prefix := b.key("")
	var from *string
	for {
		page, err := b.page(ctx, prefix, from)
		if err != nil {
			return err
		}
		found := make([]picture.Info, 0, len(page.Contents))
		for _, o := range page.Contents {
			found = append(found, infoOf(strings.TrimPrefix(aws.ToString(o.Key), prefix), o))
		}
		if len(found) > 0 {
			if err := visit(found); err != nil {
				return err
			}
		}
		next := page.NextContinuationToken
		if !aws.ToBool(page.IsTruncated) || next == nil || from != nil && *next == *from {
			return nil
		}
		from = next
	}
}

func (b *Backend) page(ctx context.Context, prefix string, from *string) (*s3.ListObjectsV2Output, error) {
	w, ctx := b.watch(ctx, 1<<20)
	defer w.end()
	out, err := b.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b.conf.Bucket, Prefix: &prefix, ContinuationToken: from})
	if err != nil {
		return nil, b.explain("list the pictures", w.cause(err))
	}
	return out, nil
}

func infoOf(name string, o types.Object) picture.Info {
	return picture.Info{Name: name, Bytes: aws.ToInt64(o.Size), ModifiedAt: aws.ToTime(o.LastModified), MD5: md5Of(o.ETag)}
}

// Remove implements picture.Backend. S3 does not say whether there was an object, so it is looked up before.
func (b *Backend) Remove(ctx context.Context, name string) error {
	if _, err := b.Stat(ctx, name); err != nil {
		return err
	}
	w, ctx := b.watch(ctx, 0)
	defer w.end()
	_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.conf.Bucket, Key: aws.String(b.key(name))})
	if err != nil {
		return b.explain("remove "+name, w.cause(err))
	}
	return nil
}

// md5Of returns the MD5 that an entity tag may be.
func md5Of(tag *string) string {
	text := strings.ToLower(strings.Trim(aws.ToString(tag), `"`))
	if sum, err := hex.DecodeString(text); err != nil || len(sum) != md5.Size {
		return ""
	}
	return text
}
