package settings

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"imagetasks/pkg/pattern"
)

// ImageStore is where pictures are stored: in a directory, or in a bucket.
type ImageStore struct {
	Dir       string // empty: it is a bucket
	Bucket    string
	Prefix    string // of the keys, without slashes at its ends; may be empty
	Endpoint  string // URL
	Region    string
	PathStyle bool // the bucket is in the path of URLs, not in the host's name
}

// IsBucket reports whether the store is an object store.
func (i ImageStore) IsBucket() bool { return i.Bucket != "" }

// String returns the store as it is set.
func (i ImageStore) String() string {
	if !i.IsBucket() {
		return i.Dir
	}
	return fmt.Sprintf("s3://%s?endpoint=%s&region=%s", strings.TrimSuffix(i.Bucket+"/"+i.Prefix, "/"), i.Endpoint, i.Region)
}

// StoreProxy is the route to the object store. The zero value is a direct connection.
type StoreProxy struct {
	Env  bool     // HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY apply
	URLs []string // in order of preference
}

// PicturesHaveURLs reports whether the pictures have URLs, and not only paths.
func (s *Settings) PicturesHaveURLs() bool { return s.ImageBaseURL != "" || s.ImageStore.IsBucket() }

func imageStore(s *Settings, v string) (err error) {
	s.ImageStore, err = ParseImageStore(v)
	return err
}

const storeForm = "must be a directory, or s3://bucket/prefix?endpoint=https://host&region=name"

var (
	bucketName = pattern.New(`^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$`)
	keyPrefix  = pattern.New(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$`)
	// notDirectory matches what is meant as the address of a store: s3:/bucket would be a directory named "s3:".
	notDirectory = pattern.New(`(?i)^(s3|arn|oss|cos|r2|gs|file|https?):`)
	regionName   = pattern.New(`^[A-Za-z0-9-]{1,64}$`)
)

// ParseImageStore parses the value of IMAGE_STORE.
func ParseImageStore(v string) (ImageStore, error) {
	if !strings.Contains(v, "://") {
		if notDirectory().MatchString(v) {
			return ImageStore{}, errors.New(storeForm)
		}
		dir, err := filepath.Abs(v)
		return ImageStore{Dir: dir}, err
	}
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "s3" {
		return ImageStore{}, errors.New(storeForm)
	}
	if u.User != nil {
		return ImageStore{}, errors.New("must not carry a login: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	i := ImageStore{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Region: "us-east-1"}
	if !bucketName().MatchString(i.Bucket) {
		return ImageStore{}, errors.New("must name a bucket: 3 to 63 of a-z, 0-9, '.', '_' and '-'; " + storeForm)
	}
	if i.Prefix != "" && (!keyPrefix().MatchString(i.Prefix) || slices.ContainsFunc(strings.Split(i.Prefix, "/"), func(part string) bool { return part == "." || part == ".." })) {
		return ImageStore{}, errors.New("must have a prefix of letters, digits, '.', '_', '-' and '/'")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil || u.Fragment != "" {
		return ImageStore{}, errors.New(storeForm)
	}
	for name, values := range query {
		if value := values[0]; len(values) != 1 {
			err = fmt.Errorf("has %s more than once", name)
		} else {
			err = i.set(name, value)
		}
		if err != nil {
			return ImageStore{}, err
		}
	}
	if i.Endpoint == "" {
		i.Endpoint = "https://s3." + i.Region + ".amazonaws.com"
	}
	if !query.Has("path_style") {
		i.PathStyle = !needsVirtualHost(i.Endpoint)
	}
	return i, nil
}

// set sets a parameter.
func (i *ImageStore) set(name, value string) error {
	switch name {
	case "endpoint":
		u, err := url.Parse(value)
		if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "http" && u.Scheme != "https" {
			return errors.New("endpoint must be an http or https URL without a login, such as https://s3.example.com")
		}
		i.Endpoint = strings.TrimSuffix(value, "/")
	case "region":
		if !regionName().MatchString(value) {
			return errors.New("region must be a name such as us-east-1 or auto")
		}
		i.Region = value
	case "path_style":
		on, err := strconv.ParseBool(value)
		if value == "on" || value == "off" {
			on, err = value == "on", nil
		}
		if err != nil {
			return errors.New("path_style must be on or off")
		}
		i.PathStyle = on
	default:
		return fmt.Errorf("has the unknown parameter %s; there are endpoint, region and path_style", name)
	}
	return nil
}

// needsVirtualHost reports whether a service wants the bucket in the host's name. Others take it in the path, where it needs no certificate and no DNS
// entry of its own.
func needsVirtualHost(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil || net.ParseIP(u.Hostname()) != nil {
		return false
	}
	for _, domain := range []string{".amazonaws.com", ".amazonaws.com.cn", ".aliyuncs.com", ".myqcloud.com"} {
		if strings.HasSuffix(u.Hostname(), domain) {
			return true
		}
	}
	return false
}

func imageBaseURL(s *Settings, v string) (err error) {
	s.ImageBaseURL, err = ParseImageBaseURL(v)
	return err
}

// ParseImageBaseURL parses the value of IMAGE_BASE_URL: a URL, or a template of one.
func ParseImageBaseURL(v string) (string, error) {
	plain := strings.NewReplacer("{bucket}", "bucket", "{key}", "key").Replace(v)
	u, err := url.Parse(plain)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", errors.New("must be an http or https URL")
	}
	switch {
	case strings.ContainsAny(plain, "{}"):
		return "", errors.New("must have no other placeholder than {bucket} and {key}")
	case strings.Contains(v, "{bucket}") && !strings.Contains(v, "{key}"):
		return "", errors.New("must have {key} where it has {bucket}")
	}
	return strings.TrimSuffix(v, "/"), nil
}

// checkStore tests the rules between the settings of pictures.
func (s *Settings) checkStore() []error {
	var faults []error
	if strings.Contains(s.ImageBaseURL, "{bucket}") && !s.ImageStore.IsBucket() {
		faults = append(faults, &Error{Name: "IMAGE_BASE_URL", Value: s.ImageBaseURL, Reason: "has {bucket}, and IMAGE_STORE is a directory"})
	}
	if s.SpoolMax < s.ImageMaxBytes {
		faults = append(faults, &Error{Name: "IMAGE_SPOOL_MAX", Value: strconv.FormatInt(s.SpoolMax, 10), Reason: fmt.Sprintf(
			"must be IMAGE_MAX_BYTES (%d) or more, or the largest picture would not fit", s.ImageMaxBytes)})
	}
	return faults
}

// StoreLogin returns an error if IMAGE_STORE needs a login that is not set.
func (s *Settings) StoreLogin() error {
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": s.AccessKeyID, "AWS_SECRET_ACCESS_KEY": s.SecretAccessKey} {
		if s.ImageStore.IsBucket() && value == "" {
			return &Error{Name: name, Reason: "must be set, because IMAGE_STORE is an object store"}
		}
	}
	return nil
}

func storeProxy(s *Settings, v string) error {
	switch strings.ToLower(v) {
	case "off":
		s.StoreProxy = StoreProxy{}
		return nil
	case "env":
		s.StoreProxy = StoreProxy{Env: true}
		return nil
	}
	s.StoreProxy = StoreProxy{URLs: strings.FieldsFunc(v, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })}
	if len(s.StoreProxy.URLs) == 0 {
		return errors.New("contains no proxy")
	}
	return nil
}

func headerValue(field func(*Settings) *string) func(*Settings, string) error {
	return func(s *Settings, v string) error {
		if len(v) > 200 || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }) {
			return errors.New("must be the value of a header: at most 200 ASCII characters")
		}
		*field(s) = v
		return nil
	}
}

func spoolMax(s *Settings, v string) error {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 1024 || n > 1<<50 {
		return errors.New("must be a number of bytes from 1024 to 1125899906842624")
	}
	s.SpoolMax = n
	return nil
}
