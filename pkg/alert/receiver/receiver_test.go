package receiver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/alert"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

func newTransport(t *testing.T, env proxy.Env) *proxy.Transport {
	t.Helper()
	transport, err := proxy.New(proxy.Config{Env: env, DialTimeout: 5 * time.Second, ConnectTimeout: 5 * time.Second, TLSTimeout: 5 * time.Second, FirstByteTimeout: 5 * time.Second})
	require.NoError(t, err)
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

func newSender(t *testing.T, s *service, l lang.Lang) *Sender {
	return &Sender{Kind: s.kind, URL: s.address(), Secret: s.secret, Lang: l, Transport: newTransport(t, proxy.Env{}), UserAgent: "imagetasks/test",
		Redact: func(text string) string { return text }}
}

func item(state alert.State, f finding.Finding) alert.Item {
	return alert.Item{State: state, Severity: f.Code.Severity(), Finding: f, Host: "web-1", Began: time.Now().Add(-3 * time.Minute), Until: time.Now()}
}

func message(items ...alert.Item) alert.Message {
	return alert.Message{Name: "shop", Host: "web-1", At: time.Now(), Items: items, Command: func(c finding.Command) string {
		return strings.Join(append([]string{"bin/" + c.Program}, c.Args...), " ")
	}}
}

var unreachable = finding.Finding{Code: finding.APIUnreachable, Subject: "web-1", Since: time.Now(), Cause: task.CodeProxyRefused, Reason: "proxy http://10.0.0.7:3128: connection refused"}

var secrets = map[Kind]string{Feishu: "secret-of-feishu", DingTalk: "SECdingtalk&+/=?", JSON: "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="}

func TestSender_EachService(t *testing.T) {
	t.Parallel()
	for _, kind := range Kinds() {
		for _, secret := range []string{"", secrets[kind]} {
			for _, l := range []lang.Lang{lang.EN, lang.ZH} {
				s := newService(t, kind, secret)
				sender := newSender(t, s, l)
				m := message(item(alert.New, unreachable), item(alert.Resolved, finding.Finding{Code: finding.BacklogOld, Count: 3, Seconds: 1900}),
					item(alert.Happened, finding.Finding{Code: finding.TasksRepaired, Count: 2, Total: 20}))
				require.NoError(t, sender.Send(t.Context(), m), kind)
				require.NoError(t, sender.Send(t.Context(), message()), "test message to %s", kind)
				got := s.received()
				require.Len(t, got, 2)
				for _, want := range []string{"10.0.0.7:3128", "shop", "web-1", "bin/simple-test"} {
					assert.Contains(t, got[0], want, kind)
				}
				want := map[lang.Lang][]string{lang.EN: {"1 problem, 1 resolved, 1 notice", "RESOLVED after 3m", "unreachable since"},
					lang.ZH: {"1 个问题，1 个已恢复，1 条通知", "已恢复，持续 3 分", "图像 API 自"}}[l]
				if kind == JSON {
					want = []string{`"state":"resolved"`, "图像 API 自", "unreachable since"}
				}
				for _, text := range want {
					assert.Contains(t, got[0], text, kind)
				}
			}
		}
	}
}

// A receiver that signs refuses another secret, which the service says with the status 200.
func TestSender_WrongSecret(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{Feishu, DingTalk, JSON} {
		s := newService(t, kind, secrets[kind])
		sender := newSender(t, s, lang.EN)
		sender.Secret = "whsec_" + strings.Repeat("A", 40)
		err := sender.Send(t.Context(), message(item(alert.New, unreachable)))
		require.Error(t, err, kind)
		assert.NotContains(t, err.Error(), "token-of")
		assert.Empty(t, s.received())
		sender.Secret, sender.now = s.secret, func() time.Time { return time.Now().Add(-2 * time.Hour) }
		require.ErrorContains(t, sender.Send(t.Context(), message()), "within one hour", kind)
	}
}

// Whatever a reason contains, and however many problems there are, the limits of each service hold and nothing of the reason is formatted.
func TestSender_HostileTexts(t *testing.T) {
	t.Parallel()
	reasons := map[string]string{
		"quotes":   strings.Repeat(`"\`, 400),
		"slack":    strings.Repeat("<!channel> & <https://evil.example|click> *_~`", 20),
		"markdown": strings.Repeat("[click](https://evil.example) ![x](y) <font color=\"info\"> `code <@all> ** # ", 12),
		"chinese":  strings.Repeat("连接被拒绝，", 150),
		"control":  "a\nb\r\n\u2028```\x1b[31m" + strings.Repeat("𝄞", 300),
		"invalid":  "\xff\xfe" + strings.Repeat("é", 400),
	}
	for _, kind := range Kinds() {
		s := newService(t, kind, secrets[kind])
		sender := newSender(t, s, lang.ZH)
		n := 0
		for name, reason := range reasons {
			for _, count := range []int{1, 15} {
				var items []alert.Item
				for range count {
					items = append(items, item(alert.New, finding.Finding{Code: finding.EndpointFailing, Subject: reason[:len(reason)/4], Reason: reason, Cause: task.CodeProxyRefused}))
				}
				for _, l := range []lang.Lang{lang.EN, lang.ZH} {
					sender.Lang = l
					require.NoError(t, sender.Send(t.Context(), message(items...)), "%s %s %d", kind, name, count)
					n++
				}
			}
		}
		assert.Len(t, s.received(), n)
	}
}

func TestKindOf(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]Kind{
		"https://open.feishu.cn/open-apis/bot/v2/hook/x":     Feishu,
		"https://open.larksuite.com/open-apis/bot/v2/hook/x": Feishu,
		"https://oapi.dingtalk.com/robot/send?access_token=": DingTalk,
		"https://qyapi.weixin.qq.com/cgi-bin/webhook/send":   WeCom,
		"https://hooks.slack.com/services/T/B/X":             Slack,
		"https://example.com/hooks.slack.com":                JSON,
	} {
		assert.Equal(t, want, KindOf(address), address)
	}
}

// What a receiver may do wrong is an error that says so, in time, and without the URL.
func TestSender_Failures(t *testing.T) {
	t.Parallel()
	released := make(chan struct{})
	answers := map[string]http.HandlerFunc{
		"500": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "out of order", http.StatusInternalServerError)
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example"+r.RequestURI, http.StatusTemporaryRedirect)
		},
		"a page":                  func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>Sign in to the network</html>") },
		"silence":                 func(_ http.ResponseWriter, r *http.Request) { <-released },
		"a body without end":      func(w http.ResponseWriter, r *http.Request) { endless(w, r, released) },
		"errcode 0 of wrong type": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"errcode":"0"}`) },
		"refused": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"errcode":40035,"errmsg":"缺少参数 %s"}`, r.RequestURI)
		},
		"too fast": func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"errcode":130101,"errmsg":"send too fast"}`)
		},
		"429": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "90")
			w.WriteHeader(http.StatusTooManyRequests)
		},
	}
	want := map[string]string{"500": "responded 500 Internal Server Error: out of order", "redirect": "redirect, which is not followed", "a page": "not that of the service",
		"silence": "did not respond in time", "a body without end": "did not respond in time", "errcode 0 of wrong type": "not that of the service",
		"refused": "refused the message with code 40035: 缺少参数 [URL]", "too fast": "code 130101", "429": "429 Too Many Requests"}
	waits := map[string]time.Duration{"too fast": time.Minute, "429": 90 * time.Second}
	t.Cleanup(func() { close(released) })
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(answer)
			t.Cleanup(server.CloseClientConnections)
			sender := &Sender{Kind: DingTalk, URL: server.URL + "/robot/send?access_token=token-of-dingtalk", Lang: lang.EN, Transport: newTransport(t, proxy.Env{}), Redact: func(s string) string { return s }}
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			began := time.Now()
			err := sender.Send(ctx, message(item(alert.New, unreachable)))
			require.ErrorContains(t, err, want[name])
			assert.NotContains(t, err.Error(), "token-of")
			assert.Less(t, time.Since(began), 5*time.Second)
			asked, _ := errors.AsType[*alert.RetryError](err)
			if waits[name] > 0 {
				require.NotNil(t, asked)
				assert.Equal(t, waits[name], asked.Wait)
			}
		})
	}
}

func endless(w http.ResponseWriter, r *http.Request, released chan struct{}) {
	for r.Context().Err() == nil {
		select {
		case <-released:
			return
		case <-time.After(10 * time.Millisecond):
		}
		if _, err := io.WriteString(w, " "); err != nil {
			return
		}
		w.(http.Flusher).Flush()
	}
}

// A proxy that is set and does not work is an error: nothing is sent directly.
func TestSender_Proxy(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	s := newService(t, Slack, "")
	sender := newSender(t, s, lang.EN)
	sender.Transport = newTransport(t, proxy.Env{OpenAI: []string{"http://" + closed.Addr().String()}})
	require.ErrorContains(t, sender.Send(t.Context(), message()), closed.Addr().String())
	assert.Empty(t, s.received())
}

func TestPinger(t *testing.T) {
	t.Parallel()
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, r.Method+" "+r.RequestURI+" "+string(body))
		if strings.HasSuffix(r.URL.Path, "/start") {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	p := Pinger{URL: server.URL + "/ping/key/slug?create=1", Transport: newTransport(t, proxy.Env{}), Redact: func(s string) string { return s }}
	err := p.Ping(t.Context(), PingStart, "")
	require.EqualError(t, err, "ping HEARTBEAT_PING_URL/start: the receiver responded 404 Not Found")
	require.NoError(t, p.Ping(t.Context(), PingSuccess, "fine"))
	require.NoError(t, p.Ping(t.Context(), PingFail, strings.Repeat("x", 20_000)))
	require.Len(t, got, 3)
	assert.Equal(t, "POST /ping/key/slug/start?create=1 ", got[0])
	assert.Equal(t, "POST /ping/key/slug?create=1 fine", got[1])
	assert.Contains(t, got[2], "POST /ping/key/slug/fail?create=1 xxx")
	assert.Less(t, len(got[2]), 10_100)
}
