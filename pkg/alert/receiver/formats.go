package receiver

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"imagetasks/pkg/alert"
)

// The limits of the services, with space for the rest of the body.
const (
	maxFeishu   = 18 << 10 // https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot: 20 KB
	maxDingTalk = 18_000   // https://open.dingtalk.com/document/orgapp/custom-robots-send-group-messages: 20,000 bytes
	maxWeCom    = 4096     // https://developer.work.weixin.qq.com/document/path/91770: bytes of content
	maxSlack    = 3000     // https://docs.slack.dev/reference/block-kit/blocks/section-block: characters of a text
	maxHeader   = 150      // characters of a header in Slack
)

// feishuMessage is a message of rich text: its texts need no escapes.
type feishuMessage struct {
	Timestamp string `json:"timestamp,omitempty"`
	Sign      string `json:"sign,omitempty"`
	MsgType   string `json:"msg_type"`
	Content   struct {
		Post map[string]feishuPost `json:"post"`
	} `json:"content"`
}

type feishuPost struct {
	Title   string         `json:"title"`
	Content [][]feishuText `json:"content"`
}

type feishuText struct {
	Tag  string `json:"tag"`
	Text string `json:"text"`
}

func (s *Sender) feishu(m alert.Message, now time.Time) any {
	post := feishuPost{Title: m.Title(s.Lang)}
	style := style{escape: plain, heading: func(t string) string { return "【" + t + "】" }, code: plain, newline: "\n"}
	// JSON may need two bytes for one, for example of a quotation mark.
	for _, block := range style.blocks(m, s.Lang, maxFeishu/2, "\n") {
		for line := range strings.SplitSeq(block+"\n", "\n") {
			post.Content = append(post.Content, []feishuText{{"text", line}})
		}
	}
	name := "en_us"
	if s.Lang == "zh" {
		name = "zh_cn"
	}
	out := feishuMessage{MsgType: "post"}
	out.Content.Post = map[string]feishuPost{name: post}
	if s.Secret != "" {
		out.Timestamp = strconv.FormatInt(now.Unix(), 10)
		// The secret is part of the key, and nothing is signed.
		out.Sign = sign(out.Timestamp+"\n"+s.Secret, "")
	}
	return out
}

// sign returns the HMAC with SHA-256 of a text, in base64.
func sign(key, text string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// signedURL returns the URL of a robot of DingTalk with a signature.
func (s *Sender) signedURL(now time.Time) string {
	if s.Secret == "" {
		return s.URL
	}
	stamp := strconv.FormatInt(now.UnixMilli(), 10)
	separator := "?"
	if strings.Contains(s.URL, "?") {
		separator = "&"
	}
	return s.URL + separator + "timestamp=" + stamp + "&sign=" + url.QueryEscape(sign(s.Secret, stamp+"\n"+s.Secret))
}

type markdownMessage struct {
	MsgType  string            `json:"msgtype"`
	Markdown map[string]string `json:"markdown"`
}

func (s *Sender) dingTalk(m alert.Message) any {
	// Two spaces at the end of a line break it.
	style := style{escape: escapeMarkdown, heading: bold, code: markdownCode, newline: "  \n"}
	title := m.Title(s.Lang)
	text := "### " + escapeMarkdown(title) + "\n\n" + strings.Join(style.blocks(m, s.Lang, maxDingTalk/2, "\n\n"), "\n\n")
	return markdownMessage{"markdown", map[string]string{"title": title, "text": text}}
}

func bold(text string) string { return "**" + text + "**" }

func (s *Sender) weCom(m alert.Message) any {
	style := style{escape: escapeMarkdown, heading: bold, code: markdownCode, newline: "\n"}
	title := "### " + cutBytes(escapeMarkdown(m.Title(s.Lang)), 300) + "\n"
	text := title + strings.Join(style.blocks(m, s.Lang, maxWeCom-len(title), "\n\n"), "\n\n")
	return markdownMessage{"markdown", map[string]string{"content": cutBytes(text, maxWeCom)}}
}

type slackMessage struct {
	Text   string       `json:"text"` // of notifications
	Blocks []slackBlock `json:"blocks"`
}

type slackBlock struct {
	Type string    `json:"type"`
	Text slackText `json:"text"`
}

type slackText struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// escapeSlack escapes a text as https://docs.slack.dev/messaging/formatting-message-text says, and keeps it from being formatted.
func escapeSlack(text string) string {
	const invisible = "\u2060"
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "*", invisible+"*"+invisible, "_", invisible+"_"+invisible,
		"~", invisible+"~"+invisible, "`", invisible+"`"+invisible).Replace(text)
}

func (s *Sender) slack(m alert.Message) any {
	entities := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "`", "'")
	style := style{escape: escapeSlack, heading: func(t string) string { return "*" + t + "*" }, newline: "\n",
		code: func(t string) string { return "`" + entities.Replace(t) + "`" }}
	title := m.Title(s.Lang)
	out := slackMessage{Text: escapeSlack(cut(title, maxHeader)), Blocks: []slackBlock{{"header", slackText{"plain_text", cut(title, maxHeader)}}}}
	for _, block := range style.blocks(m, s.Lang, 20<<10, "") {
		out.Blocks = append(out.Blocks, slackBlock{"section", slackText{"mrkdwn", cutEntities(block, maxSlack)}})
	}
	return out
}

// cutEntities cuts a text to n characters, and not within an entity.
func cutEntities(text string, n int) string {
	short := cut(text, n)
	if i := strings.LastIndexByte(short, '&'); short != text && i >= 0 && !strings.Contains(short[i:], ";") {
		short = short[:i] + "…"
	}
	return short
}

// key returns the key of a secret of the form whsec_BASE64.
func key(secret string) (string, error) {
	wrong := fmt.Errorf("must be whsec_ and 24 to 64 bytes in base64; make one with: echo whsec_$(openssl rand -base64 32)")
	encoded, ok := strings.CutPrefix(secret, "whsec_")
	if !ok {
		return "", wrong
	}
	decoded, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(decoded) < 24 || len(decoded) > 64 {
		return "", wrong
	}
	return string(decoded), nil
}
