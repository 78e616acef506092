package receiver

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// service is a receiver that checks each message as the service documents it, and answers as the service does.
type service struct {
	*httptest.Server
	kind   Kind
	secret string

	mu     sync.Mutex
	bodies [][]byte // that were accepted
}

func newService(t *testing.T, kind Kind, secret string) *service {
	s := &service{kind: kind, secret: secret}
	s.Server = httptest.NewServer(http.HandlerFunc(s.receive))
	t.Cleanup(s.Close)
	return s
}

// address is the URL as the service shows it.
func (s *service) address() string {
	return s.URL + map[Kind]string{
		Feishu:   "/open-apis/bot/v2/hook/0c1d2e3f-token-of-feishu",
		DingTalk: "/robot/send?access_token=token-of-dingtalk-77ab",
		WeCom:    "/cgi-bin/webhook/send?key=693a91f6-token-of-wecom",
		Slack:    "/services/T00000000/B00000000/token-of-slack-XXXXXXXX",
		JSON:     "/hooks/token-of-json-12345678",
	}[s.kind]
}

func (s *service) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = s.check(r, body)
	}
	if err == nil {
		s.mu.Lock()
		s.bodies = append(s.bodies, body)
		s.mu.Unlock()
	}
	s.answer(w, err)
}

// received returns the texts of the messages that were accepted.
func (s *service) received() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, b := range s.bodies {
		out = append(out, string(b))
	}
	return out
}

func (s *service) answer(w http.ResponseWriter, err error) {
	code, message := 0, "ok"
	switch s.kind {
	case Feishu:
		if err != nil {
			code, message = 19021, err.Error()
		}
		fmt.Fprintf(w, `{"code":%d,"msg":%q,"data":{}}`, code, message)
	case DingTalk, WeCom:
		if err != nil {
			code, message = 310000, err.Error()
		}
		fmt.Fprintf(w, `{"errcode":%d,"errmsg":%q}`, code, message)
	default:
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		io.WriteString(w, "ok")
	}
}

func (s *service) check(r *http.Request, body []byte) error {
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case r.Method != http.MethodPost:
		return fmt.Errorf("method %s", r.Method)
	case err != nil || mediaType != "application/json" || params["charset"] != "utf-8":
		return fmt.Errorf("content type %q", r.Header.Get("Content-Type"))
	case !utf8.Valid(body):
		return fmt.Errorf("not UTF-8")
	}
	switch s.kind {
	case Feishu:
		return s.checkFeishu(body)
	case DingTalk:
		return s.checkDingTalk(r.URL.Query(), body)
	case WeCom:
		return checkWeCom(r.URL.Query(), body)
	case Slack:
		return checkSlack(body)
	}
	return s.checkJSON(r.Header, body)
}

func strictly(body []byte, to any) error {
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	return d.Decode(to)
}

func mac(key, text string) string {
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

func recent(text string, unit time.Duration) error {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || math.Abs(float64(time.Now().UnixNano()-n*int64(unit))) > float64(time.Hour) {
		return fmt.Errorf("timestamp %q is not within one hour", text)
	}
	return nil
}

// https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot
func (s *service) checkFeishu(body []byte) error {
	var m struct {
		Timestamp string `json:"timestamp"`
		Sign      string `json:"sign"`
		MsgType   string `json:"msg_type"`
		Content   struct {
			Post map[string]struct {
				Title   string `json:"title"`
				Content [][]struct {
					Tag  string  `json:"tag"`
					Text *string `json:"text"`
				} `json:"content"`
			} `json:"post"`
		} `json:"content"`
	}
	if len(body) > 20<<10 {
		return fmt.Errorf("longer than 20 KB: %d", len(body))
	}
	if err := strictly(body, &m); err != nil {
		return err
	}
	if s.secret != "" {
		if err := recent(m.Timestamp, time.Second); err != nil {
			return err
		}
		if m.Sign != mac(m.Timestamp+"\n"+s.secret, "") {
			return fmt.Errorf("sign match fail")
		}
	} else if m.Sign != "" {
		return fmt.Errorf("signed without a secret")
	}
	if m.MsgType != "post" || len(m.Content.Post) != 1 {
		return fmt.Errorf("msg_type %q", m.MsgType)
	}
	for name, post := range m.Content.Post {
		if name != "zh_cn" && name != "en_us" || post.Title == "" || len(post.Content) == 0 {
			return fmt.Errorf("post %s", name)
		}
		for _, line := range post.Content {
			if len(line) != 1 || line[0].Tag != "text" || line[0].Text == nil || strings.Contains(*line[0].Text, "\n") {
				return fmt.Errorf("a line of %s", name)
			}
		}
	}
	return nil
}

type markdownForm struct {
	MsgType  string `json:"msgtype"`
	Markdown struct {
		Title   string `json:"title"`
		Text    string `json:"text"`
		Content string `json:"content"`
	} `json:"markdown"`
}

// https://open.dingtalk.com/document/orgapp/customize-robot-security-settings
func (s *service) checkDingTalk(query url.Values, body []byte) error {
	if query.Get("access_token") != "token-of-dingtalk-77ab" {
		return fmt.Errorf("token is not exist")
	}
	if s.secret != "" {
		stamp := query.Get("timestamp")
		if err := recent(stamp, time.Millisecond); err != nil {
			return err
		}
		if query.Get("sign") != mac(s.secret, stamp+"\n"+s.secret) {
			return fmt.Errorf("sign not match")
		}
	}
	var m markdownForm
	if len(body) > 20_000 {
		return fmt.Errorf("longer than 20000 bytes: %d", len(body))
	}
	if err := strictly(body, &m); err != nil {
		return err
	}
	if m.MsgType != "markdown" || m.Markdown.Title == "" || m.Markdown.Text == "" || m.Markdown.Content != "" {
		return fmt.Errorf("missing title or text")
	}
	return checkMarkdown(m.Markdown.Text)
}

// https://developer.work.weixin.qq.com/document/path/91770
func checkWeCom(query url.Values, body []byte) error {
	var m markdownForm
	if query.Get("key") != "693a91f6-token-of-wecom" {
		return fmt.Errorf("invalid webhook url")
	}
	if err := strictly(body, &m); err != nil {
		return err
	}
	if m.MsgType != "markdown" || m.Markdown.Content == "" || m.Markdown.Title != "" || m.Markdown.Text != "" {
		return fmt.Errorf("missing content")
	}
	if len(m.Markdown.Content) > 4096 {
		return fmt.Errorf("markdown.content exceed max length 4096: %d", len(m.Markdown.Content))
	}
	return checkMarkdown(m.Markdown.Content)
}

// checkMarkdown finds what hostile texts could have brought into a message.
func checkMarkdown(text string) error {
	for _, wrong := range []string{"](", "![", "<font", "<@", "@all", "\x00"} {
		if strings.Contains(text, wrong) {
			return fmt.Errorf("contains %q", wrong)
		}
	}
	if strings.Count(text, "`")%2 != 0 {
		return fmt.Errorf("code that does not end")
	}
	return nil
}

// https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks, and the reference of Block Kit
func checkSlack(body []byte) error {
	var m struct {
		Text   string `json:"text"`
		Blocks []struct {
			Type string `json:"type"`
			Text struct {
				Type string `json:"type"`
				Text string `json:"text"`
			} `json:"text"`
		} `json:"blocks"`
	}
	if err := strictly(body, &m); err != nil {
		return fmt.Errorf("invalid_payload: %w", err)
	}
	if m.Text == "" || len(m.Blocks) == 0 || len(m.Blocks) > 50 {
		return fmt.Errorf("no_text or invalid_blocks")
	}
	for _, b := range m.Blocks {
		limit, form := 3000, "mrkdwn"
		if b.Type == "header" {
			limit, form = 150, "plain_text"
		} else if b.Type != "section" {
			return fmt.Errorf("invalid_blocks: %s", b.Type)
		}
		if n := utf8.RuneCountInString(b.Text.Text); b.Text.Type != form || n == 0 || n > limit {
			return fmt.Errorf("invalid_blocks: %s of %d characters", b.Text.Type, n)
		}
		if form == "mrkdwn" && (strings.ContainsAny(b.Text.Text, "<>") || strings.Contains(entities.Replace(b.Text.Text), "&")) {
			return fmt.Errorf("not escaped: %s", b.Text.Text)
		}
	}
	return nil
}

var entities = strings.NewReplacer("&amp;", "", "&lt;", "", "&gt;", "")

// https://www.standardwebhooks.com
func (s *service) checkJSON(header http.Header, body []byte) error {
	var d struct {
		Type         string           `json:"type"`
		Installation string           `json:"installation"`
		Host         string           `json:"host"`
		At           time.Time        `json:"at"`
		Title        string           `json:"title"`
		Alerts       []map[string]any `json:"alerts"`
	}
	if err := strictly(body, &d); err != nil {
		return err
	}
	if d.Type != "alert" && d.Type != "test" || d.Host == "" || d.Title == "" || d.At.IsZero() || (d.Type == "test") != (len(d.Alerts) == 0) {
		return fmt.Errorf("incomplete")
	}
	for _, a := range d.Alerts {
		for _, name := range []string{"state", "severity", "code", "since", "until", "what", "finding"} {
			if a[name] == nil {
				return fmt.Errorf("%s is missing", name)
			}
		}
	}
	if s.secret == "" {
		return nil
	}
	decoded, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s.secret, "whsec_"))
	if err != nil {
		return err
	}
	if err := recent(header.Get("webhook-timestamp"), time.Second); err != nil {
		return err
	}
	if header.Get("webhook-signature") != "v1,"+mac(string(decoded), header.Get("webhook-id")+"."+header.Get("webhook-timestamp")+"."+string(body)) {
		return fmt.Errorf("signature")
	}
	return nil
}
