package diagnosis

import "imagetasks/pkg/lang"

// titles are the steps as people read them.
var titles = map[string]lang.Text{
	StepSettings: {EN: "settings", ZH: "设置"},
	StepDNS:      {EN: "DNS", ZH: "域名"},
	StepDirect:   {EN: "connection", ZH: "连接"},
	StepProxy:    {EN: "proxy", ZH: "代理"},
	StepLogin:    {EN: "login", ZH: "登录"},
	StepTunnel:   {EN: "tunnel", ZH: "隧道"},
	StepTLS:      {EN: "TLS", ZH: "TLS"},
	StepKey:      {EN: "key", ZH: "密钥"},
	StepModels:   {EN: "models", ZH: "模型"},
	StepImage:    {EN: "image", ZH: "图片"},
}

var (
	textSettings = lang.Text{EN: "the API at %s is reached %s", ZH: "API 地址 %s，%s"}
	textThrough  = lang.Text{EN: "through %s", ZH: "经由代理 %s"}
	textElse     = lang.Text{EN: ", else ", ZH: "，否则 "}
	textDirectly = lang.Text{EN: "directly, without a proxy", ZH: "直接连接，不经代理"}
	textResolved = lang.Text{EN: "%s is %s", ZH: "%s 的地址是 %s"}
	textAddress  = lang.Text{EN: "%s needs no look-up", ZH: "%s 无需解析"}

	textProxyAnswers  = lang.Text{EN: "%s takes connections", ZH: "%s 接受连接"}
	textDirectAnswers = lang.Text{EN: "the API's address takes connections, without a proxy", ZH: "API 的地址接受连接，不经代理"}
	textLogin         = lang.Text{EN: "the proxy accepts the login", ZH: "代理接受了用户名和密码"}
	textNoLogin       = lang.Text{EN: "no login is set, and none is wanted", ZH: "没有设置登录，代理也不要求"}
	textTunnel        = lang.Text{EN: "the proxy opens a tunnel to %s", ZH: "代理建立了到 %s 的隧道"}
	textTLS           = lang.Text{EN: "%s; certificate of %s, issued by %s, good until %s", ZH: "%s；证书属于 %s，由 %s 签发，有效期至 %s"}
	textIssuer        = lang.Text{EN: "; the certificate was issued by: %s", ZH: "；证书的签发者：%s"}

	textKey      = lang.Text{EN: "the API takes the key", ZH: "API 接受了密钥"}
	textModel    = lang.Text{EN: "%d models, %s among them", ZH: "共 %d 个模型，其中有 %s"}
	textNotModel = lang.Text{EN: "%d models; %s is not among them, which may be a relay's list: see with --image", ZH: "共 %d 个模型，其中没有 %s；中转站的列表可能不全，可用 --image 验证"}
	textNoModels = lang.Text{EN: "the API has no list of models; see with --image", ZH: "API 没有模型列表；可用 --image 验证"}

	textServes      = lang.Text{EN: "Through %s the API can be used: it serves meanwhile.", ZH: "经由 %s 可以使用 API：目前由它服务。"}
	textV1          = lang.Text{EN: "At %s there is one: set OPENAI_BASE_URL to it.", ZH: "%s 上有：请把 OPENAI_BASE_URL 设为它。"}
	textDirectWorks = lang.Text{EN: "Without the proxy the API can be reached from here: it is the proxy that is at fault.",
		ZH: "不经代理可以从这里到达 API：问题出在代理上。"}
	textDirectFails = lang.Text{EN: "Without the proxy the API can't be reached either (%s): a proxy is needed, and this one has to be mended.",
		ZH: "不经代理也到不了 API（%s）：需要代理，而这个代理需要修复。"}
	textOtherWorks = lang.Text{EN: "Through %s the API can be reached: set OPENAI_PROXY to it.", ZH: "经由 %s 可以到达 API：请把 OPENAI_PROXY 设为它。"}
	textOtherFails = lang.Text{EN: "Through %s the API can't be reached either (%s).", ZH: "经由 %s 也到不了 API（%s）。"}
	textNoOther    = lang.Text{EN: "No proxy is set, and none listens on this host's port 7890: there is no other way to try.",
		ZH: "没有设置代理，本机的 7890 端口也没有代理：没有别的路可试。"}
)
