// Package receiver sends alerts to robots of Feishu, DingTalk, WeCom and Slack, and as JSON to others, and pings to services that notice missing passes
// of the monitor. Only package proxy connects.
package receiver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"imagetasks/pkg/alert"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/proxy"
)

// Kind is a kind of receiver.
type Kind string

// The kinds.
const (
	Feishu   Kind = "feishu" // and Lark
	DingTalk Kind = "dingtalk"
	WeCom    Kind = "wecom"
	Slack    Kind = "slack"
	JSON     Kind = "json"
)

// Kinds returns all kinds.
func Kinds() []Kind { return []Kind{Feishu, DingTalk, WeCom, Slack, JSON} }

// KindOf returns the kind of the receiver at a URL: by its host, or else JSON.
func KindOf(address string) Kind {
	u, err := url.Parse(address)
	if err != nil {
		return JSON
	}
	switch strings.ToLower(u.Hostname()) {
	case "open.feishu.cn", "open.larksuite.com":
		return Feishu
	case "oapi.dingtalk.com":
		return DingTalk
	case "qyapi.weixin.qq.com":
		return WeCom
	case "hooks.slack.com", "hooks.slack-gov.com":
		return Slack
	}
	return JSON
}

// Lang returns the usual language of the users of a service.
func (k Kind) Lang() lang.Lang {
	switch k {
	case Feishu, DingTalk, WeCom:
		return lang.ZH
	}
	return lang.EN
}

// Sender sends messages to one receiver. It is safe for concurrent use.
type Sender struct {
	Kind      Kind
	URL       string
	Secret    string // that messages are signed with; empty: they are not
	Lang      lang.Lang
	Transport http.RoundTripper
	UserAgent string
	Redact    func(string) string

	now func() time.Time // for tests
}

// CheckSecret checks that messages of the kind can be signed with a secret.
func CheckSecret(k Kind, secret string) error {
	switch {
	case secret == "":
		return nil
	case k == WeCom || k == Slack:
		return fmt.Errorf("the service %s signs nothing: whoever has its URL may send; leave the secret out", k)
	case k == JSON:
		_, err := key(secret)
		return err
	}
	return nil
}

// request is what a message becomes.
type request struct {
	url    string
	header map[string]string
	body   any
}

// The bounds of what is read of an answer.
const maxAnswer = 64 << 10

// Send sends a message. An error says what went wrong, without the URL.
func (s *Sender) Send(ctx context.Context, m alert.Message) error {
	now := time.Now
	if s.now != nil {
		now = s.now
	}
	r, err := s.request(m, now())
	if err != nil {
		return err
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // which would make texts longer
	if err := encoder.Encode(r.body); err != nil {
		return fmt.Errorf("write the message: %w", err)
	}
	status, header, answer, err := s.post(ctx, r, bytes.TrimSpace(body.Bytes()))
	if err != nil {
		return err
	}
	if status < 200 || status > 299 {
		return statusError(status, header, s.quote(answer))
	}
	return s.answerError(answer)
}

func (s *Sender) request(m alert.Message, now time.Time) (request, error) {
	r := request{url: s.URL, header: map[string]string{"Content-Type": "application/json; charset=utf-8"}}
	switch s.Kind {
	case Feishu:
		r.body = s.feishu(m, now)
	case DingTalk:
		r.body = s.dingTalk(m)
		r.url = s.signedURL(now)
	case WeCom:
		r.body = s.weCom(m)
	case Slack:
		r.body = s.slack(m)
	default:
		return s.json(r, m, now)
	}
	return r, nil
}

// post sends a body and reads the answer.
func (s *Sender) post(ctx context.Context, r request, body []byte) (status int, header http.Header, answer []byte, err error) {
	ctx = proxy.WithOtherTarget(ctx)
	out, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, errors.New("the URL can't be used")
	}
	for name, value := range r.header {
		out.Header.Set(name, value)
	}
	return roundTrip(out, s.Transport, s.UserAgent, s.Redact)
}

// roundTrip sends a request and reads the answer, without redirects. Both end with the request's context.
func roundTrip(out *http.Request, transport http.RoundTripper, agent string, redact func(string) string) (status int, header http.Header, answer []byte, err error) {
	out.Header.Set("User-Agent", agent)
	if password, ok := out.URL.User.Password(); ok {
		out.SetBasicAuth(out.URL.User.Username(), password)
	}
	response, err := transport.RoundTrip(out)
	if err == nil {
		defer response.Body.Close()
		if answer, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer)); err == nil {
			return response.StatusCode, response.Header, answer, nil
		}
	}
	if errors.Is(out.Context().Err(), context.DeadlineExceeded) {
		return 0, nil, nil, errors.New("the receiver did not respond in time")
	}
	return 0, nil, nil, errors.New(withoutURL(err.Error(), out.URL, redact))
}

// maxError bounds the text of an error, in characters.
const maxError = 300

// withoutURL returns a text without the URL, which says who may send.
func withoutURL(text string, u *url.URL, redact func(string) string) string {
	for _, private := range []string{u.String(), u.RequestURI(), u.Path, u.RawQuery} {
		if len(private) > 1 {
			text = strings.ReplaceAll(text, private, "[URL]")
		}
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, redact(strings.ToValidUTF8(text, "�")))
	return cut(text, maxError)
}

// quote returns the beginning of an answer for an error.
func (s *Sender) quote(answer []byte) string {
	u, err := url.Parse(s.URL)
	text := strings.TrimSpace(string(answer[:min(len(answer), 4*maxError)]))
	if err != nil || text == "" {
		return ""
	}
	return ": " + withoutURL(text, u, s.Redact)
}

// statusError returns the error of a status that is no success.
func statusError(status int, header http.Header, quoted string) error {
	name := strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
	if status >= 300 && status < 400 {
		return fmt.Errorf("the receiver responded %s, a redirect, which is not followed; set the address that it redirects to", name)
	}
	err := fmt.Errorf("the receiver responded %s%s", name, quoted)
	if seconds, parseErr := strconv.Atoi(strings.TrimSpace(header.Get("Retry-After"))); parseErr == nil && seconds > 0 && seconds < 1<<20 {
		return &alert.RetryError{Err: err, Wait: time.Duration(seconds) * time.Second}
	}
	return err
}

// answered is the answer of a service, which has the status 200 in any case.
type answered struct {
	ErrCode *int   `json:"errcode"` // DingTalk and WeCom
	ErrMsg  string `json:"errmsg"`
	Code    *int   `json:"code"` // Feishu
	Msg     string `json:"msg"`
}

// rateLimits are the codes that ask for a wait: of DingTalk, WeCom and Feishu.
func isRateLimit(code int) bool {
	return code == 130101 || code == 410100 || code == 45009 || code == 11232 || code == 9499
}

// rateWait is the wait after such a code: the services count by the minute.
const rateWait = time.Minute

// answerError returns an error if the answer of a service says that it did not accept the message.
func (s *Sender) answerError(answer []byte) error {
	if s.Kind == JSON {
		return nil
	}
	if s.Kind == Slack {
		if strings.TrimSpace(string(answer)) == "ok" {
			return nil
		}
		return fmt.Errorf("the answer is not that of Slack%s", s.quote(answer))
	}
	var a answered
	code, message := (*int)(nil), ""
	if json.Unmarshal(answer, &a) == nil {
		code, message = a.ErrCode, a.ErrMsg
		if s.Kind == Feishu {
			code, message = a.Code, a.Msg
		}
	}
	switch {
	case code == nil:
		return fmt.Errorf("the answer is not that of the service %s%s", s.Kind, s.quote(answer))
	case *code == 0:
		return nil
	}
	err := fmt.Errorf("the service %s refused the message with code %d%s", s.Kind, *code, s.quote([]byte(message)))
	if isRateLimit(*code) {
		return &alert.RetryError{Err: err, Wait: rateWait}
	}
	return err
}
