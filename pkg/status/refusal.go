package status

import (
	"encoding/json"
	"net/http"
	"strings"

	"imagetasks/pkg/lang"
)

// refusal is why a request was not done.
type refusal struct {
	status int
	code   string
	text   lang.Text
}

// message is a text in both languages.
type message struct {
	EN string `json:"en"`
	ZH string `json:"zh"`
}

func newMessage(m lang.Message) message { return message{m.In(lang.EN), m.In(lang.ZH)} }

// errorDocument is the answer to a request that was not done.
type errorDocument struct {
	Error errorBody `json:"error"`
}

type errorBody struct {
	Code    string  `json:"code"`
	Message message `json:"message"`
}

func writeJSON(w http.ResponseWriter, status int, document any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(document)
}

// refuse answers as JSON under /api/, and with a text elsewhere.
func refuse(w http.ResponseWriter, r *http.Request, why refusal) {
	switch why.status {
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", "60")
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="imagetasks"`)
	}
	if !strings.HasPrefix(r.URL.Path, "/api/") {
		http.Error(w, why.text.In(lang.EN), why.status)
		return
	}
	writeJSON(w, why.status, errorDocument{errorBody{why.code, newMessage(lang.NewMessage(why.text))}})
}

var (
	textForeignOrigin = lang.Text{EN: "the request was sent by a page of another site; behind a reverse proxy, add the page's host name to STATUS_HOSTS",
		ZH: "请求来自其他站点的页面；如使用反向代理，请将页面的主机名加入 STATUS_HOSTS"}
	textSignInRequired = lang.Text{EN: "sign in with the token first (STATUS_TOKEN); programs send it as Authorization: Bearer TOKEN",
		ZH: "请先使用令牌（STATUS_TOKEN）登录；程序可通过 Authorization: Bearer TOKEN 发送令牌"}
	textNoToken = lang.Text{EN: "no token is set, so nothing can be changed here; set STATUS_TOKEN and restart the program",
		ZH: "未设置令牌，此处不能执行操作；请设置 STATUS_TOKEN 并重启程序"}
	textTooManyTries  = lang.Text{EN: "too many wrong tokens; try again in a minute", ZH: "令牌错误次数过多，请一分钟后再试"}
	textWrongToken    = lang.Text{EN: "the token is wrong; it is STATUS_TOKEN in the settings of the program", ZH: "令牌错误；正确的令牌是程序设置中的 STATUS_TOKEN"}
	textCSRF          = lang.Text{EN: "the page is out of date; load it again", ZH: "页面已过期，请重新加载"}
	textInternal      = lang.Text{EN: "the request failed; the log of the program says why", ZH: "请求失败，原因见程序日志"}
	textUnknownAction = lang.Text{EN: "there is no such action; the page may be that of another version: load it again", ZH: "没有此操作；页面可能属于其他版本，请重新加载"}
	textBusy          = lang.Text{EN: "other actions are being done; try again in a moment", ZH: "正在执行其他操作，请稍后再试"}
	textNoPicture     = lang.Text{EN: "there is no picture that can be shown", ZH: "没有可显示的图片"}
	textStopping      = lang.Text{EN: "the program is stopping; nothing was done", ZH: "程序正在停止，未执行操作"}
	textNotJSON       = lang.Text{EN: "the request is not JSON of the documented form", ZH: "请求不是约定格式的 JSON"}
)
