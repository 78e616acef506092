package webhook

import (
	"encoding/base64"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
)

// The example of the specification's reference implementations.
func TestSign_KnownVector(t *testing.T) {
	secrets, err := ParseSecrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	require.NoError(t, err)
	got := sign(secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	assert.Equal(t, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", got)

	both, err := ParseSecrets("whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 24))) + ", whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	require.NoError(t, err)
	signatures := strings.Fields(sign(both, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`)))
	assert.Len(t, signatures, 2)
	assert.Contains(t, signatures, got)
}

func TestParseSecrets_RefusesOthers(t *testing.T) {
	for text, want := range map[string]string{"secretsecret": "must begin with whsec_", "whsec_***": "followed by base64", "whsec_c2hvcnQ=": "24 to 64 bytes"} {
		_, err := ParseSecrets(text)
		assert.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), text)
	}
}

func TestHosts(t *testing.T) {
	hosts, err := ParseHosts("Hooks.example.com, other.example:8443 *.apps.example [2606:4700::1111]:444 bücher.example")
	require.NoError(t, err)
	for address, allowed := range map[string]bool{
		"https://hooks.example.com/x":          true,
		"https://HOOKS.example.com.:443/x":     true,
		"http://hooks.example.com/x":           true,
		"https://hooks.example.com:8443/x":     false,
		"https://hooks.example.com.evil.com/":  false,
		"https://evilhooks.example.com/":       false,
		"https://hooks.example.com@evil.com/":  false,
		"https://other.example:8443":           true,
		"https://other.example":                false,
		"https://a.apps.example/":              true,
		"https://a.b.apps.example/":            true,
		"https://apps.example/":                false,
		"https://[2606:4700::1111]:444/":       true,
		"https://xn--bcher-kva.example/":       true,
		"https://BÜCHER.example/":              true,
		"https://hooks.example.com:99999999/x": false,
	} {
		u, err := parseURL(address)
		assert.Equal(t, allowed, err == nil && hosts.allow(u), address)
	}
	for text, want := range map[string]string{"https://a.example": "without a scheme", "*.com": "top-level domain", "a.*.example": "wrong place", "a.example:x": "port",
		"a b@c": "not a host"} {
		_, err := ParseHosts(text)
		assert.ErrorContains(t, err, want, text)
	}
}

func TestCheckHost_RefusesPrivateHosts(t *testing.T) {
	for address, private := range map[string]bool{"https://hooks.example.com": false, "http://localhost:3000": true, "https://127.0.0.1": true, "https://127.1": true,
		"https://[::1]": true, "https://10.0.0.8:8080": true, "http://169.254.169.254/latest": true, "https://app": true, "https://metadata.google.internal": true,
		"https://[::ffff:127.0.0.1]": true, "https://8.8.8.8": false} {
		u, err := parseURL(address)
		require.NoError(t, err)
		c := Config{}
		assert.Equal(t, private, c.checkHost(u) != nil, address)
		c.AllowPrivate = true
		assert.NoError(t, c.checkHost(u))
	}
	assert.ErrorContains(t, checkAddr(netip.MustParseAddr("192.168.1.1")), "COMPLETION_WEBHOOK_ALLOW_PRIVATE=on")
	assert.NoError(t, checkAddr(netip.MustParseAddr("1.1.1.1")))
}

func TestTemplate_TaskID(t *testing.T) {
	env := func(name string) (string, bool) { return "the-key", name == "TASK_PROCESS_SECRET_KEY" }
	template, err := ParseTemplate(BuiltinTaskID, env)
	require.NoError(t, err)
	assert.Equal(t, []string{"the-key"}, template.Secrets())
	assert.True(t, template.Authorizes())
	reason := `he said "no" <b>`
	r, err := template.execute(Message{Data: Data{TaskID: "task_1", Status: "failed", ErrorMessage: &reason}})
	require.NoError(t, err)
	assert.Equal(t, "Bearer the-key", r.authorization)
	assert.Equal(t, "application/json", r.contentType)
	assert.JSONEq(t, `{"taskId": "task_1", "status": "failed", "imageUrl": null, "error": "he said \"no\" <b>"}`, string(r.body))
	assert.Len(t, template.Secrets(), 1)
	_, err = ParseTemplate(BuiltinTaskID, func(string) (string, bool) { return "", false })
	assert.ErrorContains(t, err, "TASK_PROCESS_SECRET_KEY is not set")
}

func TestParseTemplate_Errors(t *testing.T) {
	for text, want := range map[string]string{
		`{"a": 1}`:                              "no part",
		`{{define "body"}}{{.Nothing}}{{end}}`:  "can't evaluate field Nothing",
		`{{define "body"}}{"a": {{end}}`:        "not JSON",
		`{{define "body"}}{{json .Data.TaskID}`: "bad character",
		`{{define "body"}}1{{end}}{{define "authorization"}}{{"a\r\nb: c"}}{{end}}`: "more than one line",
	} {
		_, err := ParseTemplate(text, func(string) (string, bool) { return "", false })
		assert.ErrorContains(t, err, want, text)
	}
	_, err := ParseTemplate(`{{define "body"}}task={{.Data.TaskID}}{{end}}{{define "content_type"}}application/x-www-form-urlencoded{{end}}`, nil)
	assert.NoError(t, err)
}

func TestOutcomeOf(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		status     int
		retryAfter string
		want       store.EventResult
		wait       time.Duration
	}{
		{200, "", store.ResultDelivered, 0}, {204, "", store.ResultDelivered, 0}, {301, "", store.ResultRetry, 0}, {400, "", store.ResultRetry, 0},
		{410, "", store.ResultUndelivered, 0}, {429, "7", store.ResultRetry, 7 * time.Second}, {500, "-1", store.ResultRetry, 0},
		{503, "Fri, 01 May 2026 12:00:30 GMT", store.ResultRetry, 30 * time.Second}, {503, "9999999999", store.ResultRetry, longestWait},
	} {
		response := &http.Response{StatusCode: test.status, Header: http.Header{}}
		response.Header.Set("Retry-After", test.retryAfter)
		o := outcomeOf(response, now)
		assert.Equal(t, test.want, o.Result, test.status)
		assert.Equal(t, test.wait, o.Wait, test.status)
		assert.Equal(t, test.want == store.ResultDelivered, o.Reason == "", test.status)
	}
}
