package settings

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"imagetasks/pkg/lang"
)

// Alerts are the settings of alerts. Receivers of imagetasks.toml are not among them.
type Alerts struct {
	URL           string // of a receiver; empty: none
	Secret        string // that its messages are signed with
	Proxy         string // on, off or a URL
	Lang          string // en or zh; empty: as is usual for the service
	Name          string // of this installation; empty: the schema's
	Wait          time.Duration
	ResolvedAfter time.Duration
	Repeat        time.Duration
}

// minSecretPath is the least length of a path that counts as a secret: shorter ones are words such as /alerts.
const minSecretPath = 16

// alertSecrets returns what must not be shown of the URLs that alerts and pings are sent to.
func (s *Settings) alertSecrets() []string {
	all := []string{s.Alerts.Secret}
	for _, address := range []string{s.Alerts.URL, s.PingURL} {
		all = append(append(all, address), queryKeys(address)...)
		all = append(all, SecretsOfURL(address)...)
	}
	return all
}

// SecretsOfURL returns what must not be shown of the URL of a receiver, whose path or query says who may send to it.
func SecretsOfURL(address string) (secrets []string) {
	u, err := url.Parse(address)
	if err != nil || address == "" {
		return nil
	}
	password, _ := u.User.Password()
	for _, part := range append(strings.Split(u.Path, "/"), u.RequestURI(), u.RawQuery, password) {
		if len(part) >= minSecretPath {
			secrets = append(secrets, part)
		}
	}
	return secrets
}

func alertSettings() []Setting {
	return []Setting{
		{Env: "ALERT_WEBHOOK_URL", Secret: true,
			Usage:   "URL of a robot of Feishu, DingTalk, WeCom or Slack that is told about problems, or of another receiver, which gets JSON; several, and other options: [[alert]] in imagetasks.toml (docs/alerts.md)",
			UsageZH: "接收告警的飞书、钉钉、企业微信或 Slack 机器人地址，其他地址接收 JSON；多个接收方和更多选项请使用 imagetasks.toml 中的 [[alert]]（见 docs/alerts.md）",
			set:     text(func(s *Settings) *string { return &s.Alerts.URL })},
		{Env: "ALERT_WEBHOOK_SECRET", Secret: true,
			Usage:   "secret of the robot, with which messages are signed; for JSON: whsec_ and 24 to 64 bytes in base64",
			UsageZH: "机器人的签名密钥；接收 JSON 时为 whsec_ 加上 24 到 64 字节的 base64",
			set:     text(func(s *Settings) *string { return &s.Alerts.Secret })},
		{Env: "ALERT_PROXY", Secret: true, Login: true, Default: "off",
			Usage:   "proxy for alerts to ALERT_WEBHOOK_URL and for HEARTBEAT_PING_URL: on: OPENAI_PROXY and the others of the environment; off: none; or the URL of a proxy",
			UsageZH: "向 ALERT_WEBHOOK_URL 发送告警以及访问 HEARTBEAT_PING_URL 使用的代理：on：使用 OPENAI_PROXY 等环境变量中的代理；off：不使用；或代理地址",
			set:     proxyChoice(func(s *Settings) *string { return &s.Alerts.Proxy })},
		{Env: "ALERT_LANG",
			Usage:   "language of alerts, en or zh; default: zh for Feishu, DingTalk and WeCom, else en",
			UsageZH: "告警的语言：en 或 zh；默认飞书、钉钉和企业微信为 zh，其他为 en",
			set:     alertLang},
		{Env: "ALERT_NAME",
			Usage:   "name of this installation in alerts; default: that of the schema",
			UsageZH: "告警中显示的实例名称；默认为 schema 名",
			set:     alertName},
		{Env: "ALERT_WAIT", Default: "10s",
			Usage:   "time that a new problem waits for others, so that they are told in one message",
			UsageZH: "新问题等待合并为一条消息的时间",
			set:     within(func(s *Settings) *time.Duration { return &s.Alerts.Wait }, 0, 10*time.Minute)},
		{Env: "ALERT_RESOLVED_AFTER", Default: "1m",
			Usage:   "time that a problem must be gone before it is told to be resolved; doubled each time that it soon comes back",
			UsageZH: "问题消失多久后发送恢复通知；如果问题很快再次出现，该时间每次加倍",
			set:     within(func(s *Settings) *time.Duration { return &s.Alerts.ResolvedAfter }, time.Second, time.Hour)},
		{Env: "ALERT_REPEAT", Default: "4h",
			Usage:   "time after which a problem that is still there is told again",
			UsageZH: "问题未解决时重复告警的间隔",
			set:     within(func(s *Settings) *time.Duration { return &s.Alerts.Repeat }, time.Minute, 30*24*time.Hour)},
		{Env: "ALERT_BACKLOG_AFTER", Default: "30m",
			Usage:   "it is a problem if a task has been due for longer; off: it is none",
			UsageZH: "任务等待处理超过该时间即视为问题；off：不检查",
			set:     orOff(positive(func(s *Settings) *time.Duration { return &s.BacklogAfter }))},
		{Env: "ALERT_DISK_FREE", Default: "1073741824",
			Usage:   "it is a problem if fewer bytes are free in LOG_DIR, or in IMAGE_STORE if that is a directory; off: it is none",
			UsageZH: "LOG_DIR 或目录形式的 IMAGE_STORE 可用空间少于该字节数即视为问题；off：不检查",
			set:     diskFree},
		{Env: "HEARTBEAT_PING_URL", Secret: true,
			Usage:   "URL of a check at healthchecks.io or a service like it, which the monitor calls in each pass: /start at its start, the URL itself after success, /fail after a failure",
			UsageZH: "healthchecks.io 或类似服务的检查地址，监控每次运行时访问：开始时访问 /start，成功后访问该地址，失败后访问 /fail",
			set:     text(func(s *Settings) *string { return &s.PingURL })},
	}
}

// CheckReceiverURL checks the URL of a receiver. The error does not quote it.
func CheckReceiverURL(v string) error {
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Fragment != "" || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' }) {
		return errors.New("must be an http or https URL, as the service shows it")
	}
	return nil
}

// proxyChoice reads on, off or the URL of a proxy.
func proxyChoice(field func(*Settings) *string) func(*Settings, string) error {
	return func(s *Settings, v string) error {
		*field(s) = v
		for _, word := range []string{"on", "off"} {
			if strings.EqualFold(v, word) {
				*field(s) = word
			}
		}
		return nil
	}
}

func alertLang(s *Settings, v string) error {
	l, err := lang.Parse(v)
	s.Alerts.Lang = string(l)
	return err
}

func alertName(s *Settings, v string) error {
	if len(v) > 100 || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("must be at most 100 bytes without control characters")
	}
	s.Alerts.Name = v
	return nil
}

// within reads a duration between bounds.
func within(field func(*Settings) *time.Duration, least, most time.Duration) func(*Settings, string) error {
	return func(s *Settings, v string) error {
		d, err := parseDuration(v)
		if err != nil || d < least || d > most {
			return errors.New("must be a time from " + lang.Duration(least, lang.EN) + " to " + lang.Duration(most, lang.EN))
		}
		*field(s) = d
		return nil
	}
}

func diskFree(s *Settings, v string) error {
	if strings.EqualFold(v, "off") {
		return nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 1 || n > 1<<50 {
		return errors.New("must be a number of bytes from 1 to 1125899906842624, or off")
	}
	s.DiskFree = n
	return nil
}
