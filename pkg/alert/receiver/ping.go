package receiver

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"imagetasks/pkg/proxy"
)

// Pinger tells a service such as healthchecks.io that a pass has begun and how it ended, so that the service notices passes that are missing.
type Pinger struct {
	URL       string
	Transport http.RoundTripper
	UserAgent string
	Redact    func(string) string
}

// The signals of https://healthchecks.io/docs/http_api/, appended to the path of the URL.
const (
	PingStart   = "/start"
	PingSuccess = ""
	PingFail    = "/fail"
)

// maxPing bounds the text of a ping, in bytes.
const maxPing = 10_000

// Ping sends a signal with a text. An error has no URL.
func (p Pinger) Ping(ctx context.Context, signal, text string) error {
	u, err := url.Parse(p.URL)
	if err != nil {
		return fmt.Errorf("HEARTBEAT_PING_URL can't be used")
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + signal
	if u.RawPath != "" {
		u.RawPath = strings.TrimSuffix(u.RawPath, "/") + signal
	}
	body := strings.NewReader(cutBytes(text, maxPing))
	request, err := http.NewRequestWithContext(proxy.WithOtherTarget(ctx), http.MethodPost, u.String(), body)
	if err != nil {
		return fmt.Errorf("HEARTBEAT_PING_URL can't be used")
	}
	request.Header.Set("Content-Type", "text/plain; charset=utf-8")
	status, header, _, err := roundTrip(request, p.Transport, p.UserAgent, p.Redact)
	if err == nil && (status < 200 || status > 299) {
		err = statusError(status, header, "")
	}
	if err != nil {
		return fmt.Errorf("ping HEARTBEAT_PING_URL%s: %w", signal, err)
	}
	return nil
}
