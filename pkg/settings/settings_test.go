package settings_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/endpoint"
	"imagetasks/pkg/settings"
)

func from(values map[string]string) settings.Source {
	return func(s settings.Setting) (string, bool) {
		v, ok := values[s.Env]
		return v, ok
	}
}

func TestLoad_Defaults(t *testing.T) {
	s, err := settings.Load()
	require.NoError(t, err)
	assert.Equal(t, "imagetasks", s.DatabaseSchema)
	assert.Zero(t, s.UserConcurrency)
	assert.Zero(t, s.Retention)
	assert.Equal(t, 24*time.Hour, s.RedriveWindow)
	assert.Equal(t, 3, s.Concurrency)
	assert.Equal(t, 3, s.MaxAttempts)
	assert.Equal(t, 5*time.Second, s.PollInterval)
	assert.Equal(t, 60*time.Second, s.Lease)
	assert.Equal(t, 10*time.Minute, s.TaskTimeout)
	assert.Equal(t, 20*time.Minute, s.StuckAfter)
	assert.Equal(t, 30*time.Second, s.ShutdownGrace)
	assert.Equal(t, "127.0.0.1:9464", s.StatusAddr)
	assert.Equal(t, endpoint.Images, s.APIMode)
	assert.Nil(t, s.Stream)
}

func TestLoad_FirstSourceWins(t *testing.T) {
	s, err := settings.Load(
		from(map[string]string{"TASK_CONCURRENCY": "7", "LOG_LEVEL": ""}),
		from(map[string]string{"TASK_CONCURRENCY": "8", "LOG_LEVEL": "WARN", "STATUS_ADDR": "off"}),
	)
	require.NoError(t, err)
	assert.Equal(t, 7, s.Concurrency)
	assert.Equal(t, "warn", s.LogLevel, "an empty value counts as none")
	assert.Empty(t, s.StatusAddr)
}

func TestLoad_ListOfProxies(t *testing.T) {
	for text, want := range map[string][]string{
		"http://one:1":                        {"http://one:1"},
		" http://one:1 , socks5h://u:p@two:2": {"http://one:1", "socks5h://u:p@two:2"},
		"one:1 two:2,\nthree:3,":              {"one:1", "two:2", "three:3"},
	} {
		s, err := settings.Load(from(map[string]string{"OPENAI_PROXY": text}))
		require.NoError(t, err)
		assert.Equal(t, want, s.Proxy.OpenAI)
	}
}

func TestLoad_LogLevel(t *testing.T) {
	for text, want := range map[string]string{"0": "error", "1": "warn", "2": "info", "3": "debug", "Debug": "debug", "": "info"} {
		s, err := settings.Load(from(map[string]string{"LOG_LEVEL": text}))
		require.NoError(t, err)
		assert.Equal(t, want, s.LogLevel)
	}
}

func TestLoad_StatusHosts(t *testing.T) {
	s, err := settings.Load(from(map[string]string{"STATUS_HOSTS": "a.example, b.example:8443"}))
	require.NoError(t, err)
	assert.Equal(t, []string{"a.example", "b.example:8443"}, s.StatusHosts)
}

func TestLoad_RateOff(t *testing.T) {
	for text, want := range map[string]int{"": 0, "off": 0, "OFF": 0, "60": 60} {
		s, err := settings.Load(from(map[string]string{"API_RATE": text}))
		require.NoError(t, err)
		assert.Equal(t, want, s.Rate)
	}
}

func TestLoad_RefusesBadValues(t *testing.T) {
	for name, values := range map[string][]string{
		"DATABASE_SCHEMA":  {"public", "pg_x", "a\nb", strings.Repeat("x", 60)},
		"USER_CONCURRENCY": {"0", "-1", "many"},
		"RETENTION":        {"0", "0d", "-1d", "1.5d", "90 days", "99999d"},
		"OPENAI_BASE_URL":  {"api.openai.com", "ftp://x", "https://u:p@x/v1", "https://x/v1#a", "http://[::1"},
		"OPENAI_API_MODE":  {"video", "chat/completions"},
		"OPENAI_STREAM":    {"yes", "true"},
		"IMAGE_STORE": {"s3://", "s3://b", "s3://Bucket", "http://x", "s3://u:p@bucket", "s3://bucket/a b", "s3://bucket/../x", "s3://bucket?endpoint=x",
			"s3://bucket?endpoint=https://u:p@x", "s3://bucket?region=", "s3://bucket?path_style=maybe", "s3://bucket?regoin=x", "s3://bucket?region=a&region=b"},
		"IMAGE_BASE_URL":      {"/images", "ftp://x", "https://x/{name}", "https://x/{bucket}", "https://x/{bucket}/{key}"},
		"IMAGE_CACHE_CONTROL": {"a\nb", strings.Repeat("x", 201)},
		"IMAGE_SPOOL_MAX":     {"0", "1GiB", "1000000", "-1"},
		"IMAGE_STORE_PROXY":   {",", " "},
		"IMAGE_MAX_BYTES":     {"0", "10", "many", "99999999999"},
		"DOWNLOAD_WINDOW":     {"0", "59s", "soon"},
		"TASK_CONCURRENCY":    {"0", "-1", "1.5", "three", "1001"},
		"MAX_ATTEMPTS":        {"0", "101"},
		"POLL_INTERVAL":       {"0", "5", "-1s"},
		"TASK_LEASE":          {"10ms"},
		"TASK_TIMEOUT":        {"20m", "1h"},
		"STATUS_ADDR":         {"9464", "localhost", "127.0.0.1:http", "127.0.0.1:70000"},
		"LOG_LEVEL":           {"loud", "4", "-1"},
		"STATUS_HOSTS":        {"http://x", "*.example.com"},
		"STATUS_TOKEN":        {"short", "fifteen-letters", "sixteen letters and spaces", "sechzehn-zeichen-ü"},
		"STATUS_PICTURES":     {"yes"},
		"LOG_FORMAT":          {"xml"},

		"IMAGE_DOWNLOAD_DIRECT": {"yes", "1"},
		"IMAGE_DOWNLOAD_HTTP":   {"true", "maybe"},
		"DIAL_TIMEOUT":          {"soon"},
		"API_RATE":              {"0", "-1", "60/m", "1000001"},
		"OPENAI_PROXY":          {",", " , "},
	} {
		for _, value := range values {
			_, err := settings.Load(from(map[string]string{name: value}))
			var fault *settings.Error
			if assert.ErrorAs(t, err, &fault, "%s=%s", name, value) {
				assert.Equal(t, name, fault.Name)
			}
		}
	}
}

func TestLoad_ReturnsAllErrors(t *testing.T) {
	_, err := settings.Load(from(map[string]string{"LOG_LEVEL": "loud", "TASK_CONCURRENCY": "0"}))
	require.Error(t, err)
	assert.Contains(t, err.Error(), `LOG_LEVEL="loud": must be one of`)
	assert.Contains(t, err.Error(), `TASK_CONCURRENCY="0": must be a whole number`)
}

func TestSecrets(t *testing.T) {
	values := map[string]string{}
	for _, s := range settings.List() {
		if s.Secret {
			values[s.Env] = "secret-of-" + s.Env
		}
	}
	s, err := settings.Load(from(values))
	require.NoError(t, err)
	for _, v := range values {
		assert.Contains(t, append(s.Secrets(), s.SecretURLs()...), v)
	}
}

func TestLoad_ImageStore(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]settings.ImageStore{
		"s3://pictures": {Bucket: "pictures", Endpoint: "https://s3.us-east-1.amazonaws.com", Region: "us-east-1"},
		"s3://pictures/a/b/?endpoint=http://127.0.0.1:9000/&region=auto": {Bucket: "pictures", Prefix: "a/b", Endpoint: "http://127.0.0.1:9000", Region: "auto", PathStyle: true},
		"s3://pictures?endpoint=https://x.example&path_style=off":        {Bucket: "pictures", Endpoint: "https://x.example", Region: "us-east-1"},
		"s3://pictures?region=cn-north-1&path_style=on":                  {Bucket: "pictures", Endpoint: "https://s3.cn-north-1.amazonaws.com", Region: "cn-north-1", PathStyle: true},
	} {
		s, err := settings.Load(from(map[string]string{"IMAGE_STORE": text}))
		require.NoError(t, err, text)
		assert.Equal(t, want, s.ImageStore, text)
		assert.True(t, s.ImageStore.IsBucket() && s.PicturesHaveURLs())
		require.ErrorContains(t, s.StoreLogin(), "must be set, because IMAGE_STORE is an object store")
		s.AccessKeyID, s.SecretAccessKey = "id", "secret"
		require.NoError(t, s.StoreLogin())
	}
	for _, text := range []string{"s3:/pictures/app", "S3:pictures", "arn:aws:s3:::pictures", "https:/s3.example.com/pictures", "oss://pictures"} {
		_, err := settings.Load(from(map[string]string{"IMAGE_STORE": text}))
		require.ErrorContains(t, err, "must be a directory, or s3://bucket/prefix?endpoint=https://host&region=name", text)
	}
	s, err := settings.Load(from(map[string]string{"IMAGE_STORE": "/srv/pictures"}))
	require.NoError(t, err)
	assert.Equal(t, settings.ImageStore{Dir: "/srv/pictures"}, s.ImageStore)
	assert.Equal(t, "public, max-age=31536000, immutable", s.CacheControl)
	assert.False(t, s.PicturesHaveURLs())
	assert.NoError(t, s.StoreLogin())
}

func TestLoad_StoreProxy(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]settings.StoreProxy{"": {}, "off": {}, "ENV": {Env: true}, "http://a:1, socks5://u:p@b:2": {URLs: []string{"http://a:1", "socks5://u:p@b:2"}}} {
		s, err := settings.Load(from(map[string]string{"IMAGE_STORE_PROXY": text}))
		require.NoError(t, err)
		assert.Equal(t, want, s.StoreProxy)
	}
	s, err := settings.Load(from(map[string]string{"IMAGE_CACHE_CONTROL": "off"}))
	require.NoError(t, err)
	assert.Empty(t, s.CacheControl)
}

// The examples of docs/storage.md are settings that can be used, and the services have their own form of URL.
func TestStorageDoc_Examples(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "storage.md"))
	require.NoError(t, err)
	styles := map[string]bool{}
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		values, err := settings.ParseEnv([]byte(block[1]))
		if err != nil || values["IMAGE_STORE"] == "" {
			continue // commands
		}
		s, err := settings.Load(from(values))
		require.NoError(t, err, block[1])
		styles[s.ImageStore.Endpoint] = s.ImageStore.PathStyle
	}
	assert.Equal(t, map[string]bool{
		"": false, "https://s3.example.com": true, "https://s3.eu-central-1.amazonaws.com": false,
		"https://abcdefghijklmnop.storage.supabase.co/storage/v1/s3":        true,
		"https://0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com": true,
		"http://minio.internal:9000":                                        true,
		"https://s3.oss-cn-hangzhou.aliyuncs.com":                           false,
	}, styles)
	for _, setting := range []string{"IMAGE_STORE", "IMAGE_BASE_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "IMAGE_STORE_PROXY", "IMAGE_CACHE_CONTROL",
		"IMAGE_SPOOL_MAX", "DOWNLOAD_WINDOW"} {
		assert.Contains(t, string(text), "`"+setting+"`")
	}
}

// The variables of the environment are one endpoint where imagetasks.toml has none.
func TestAPIEndpoints(t *testing.T) {
	s, err := settings.Load(from(map[string]string{"OPENAI_API_KEY": "sk-a", "OPENAI_BASE_URL": "https://a.example/v1/images/edits/?api-version=1", "OPENAI_API_MODE": "Chat",
		"OPENAI_STREAM": "OFF", "API_RATE": "60"}))
	require.NoError(t, err)
	off := false
	all, err := s.APIEndpoints()
	require.NoError(t, err)
	assert.Equal(t, []endpoint.Endpoint{{Name: "https://a.example/v1", BaseURL: "https://a.example/v1?api-version=1", KeyEnv: "OPENAI_API_KEY", Key: "sk-a",
		Mode: endpoint.Chat, Stream: &off, Rate: 60, Preference: 1, Weight: 1}}, all)

	s.Endpoints = []endpoint.Endpoint{{Name: "b", Key: "sk-b", Proxies: []string{"http://u:p@b"}}}
	all, err = s.APIEndpoints()
	require.NoError(t, err)
	assert.Equal(t, s.Endpoints, all)
	assert.Contains(t, s.Secrets(), "sk-b")
	s.BaseURL = "https://a.example/v1?api-version=2025-04-01&api-key=first"
	s.Endpoints[0].BaseURL = "https://b.example/v1?api-version=2025-04-01&access_token=second"
	secrets := s.Secrets()
	assert.Subset(t, secrets, []string{"first", "second"})
	assert.NotContains(t, secrets, "2025-04-01", "what is no secret stays readable")
	assert.Contains(t, s.SecretURLs(), "http://u:p@b")

	s.EndpointsError = &settings.Error{Name: "imagetasks.toml", Reason: "bad"}
	_, err = s.APIEndpoints()
	assert.ErrorIs(t, err, s.EndpointsError)
}
