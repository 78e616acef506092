package simpletest

import (
	"strings"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/render"
	"imagetasks/pkg/diagnosis"
	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/task"
)

// endpointReport is the diagnosis of one endpoint.
type endpointReport struct {
	Endpoint string // its name; empty: the settings can't be used
	diagnosis.Report
	names nameSet
}

// nameSet is what texts call the settings of an endpoint; the zero value is for that of the environment variables.
type nameSet struct{ keyEnv string }

// in returns a text with the names of the settings where they are: OPENAI_BASE_URL is base_url for an endpoint of imagetasks.toml.
func (n nameSet) in(text string, l lang.Lang) string {
	if n.keyEnv == "" {
		return text
	}
	key := func(name string) string { return textKeyOfFile.In(l, name) }
	return strings.NewReplacer("OPENAI_BASE_URL", key("base_url"), "OPENAI_MODEL", key("models"), "OPENAI_API_KEY", n.keyEnv).Replace(text)
}

var textKeyOfFile = lang.Text{EN: "%s in " + app.TablesName, ZH: app.TablesName + " 中的 %s"}

// document is a diagnosis as --json prints it, in English. That of several endpoints has only OK, and one document for each.
type document struct {
	OK        bool           `json:"ok"`
	Endpoint  string         `json:"endpoint,omitempty"`
	Steps     []stepDocument `json:"steps,omitempty"`
	Note      string         `json:"note,omitempty"` // what another route showed, after a step failed
	Endpoints []document     `json:"endpoints,omitempty"`
}

// stepDocument is a step of a document.
type stepDocument struct {
	Proxy  string    `json:"proxy,omitempty"`
	Name   string    `json:"step"`
	OK     bool      `json:"ok"`
	Millis float64   `json:"ms"`
	Detail string    `json:"detail"`
	Code   task.Code `json:"error_code,omitempty"`
	Cause  string    `json:"cause,omitempty"`
	Fix    string    `json:"fix,omitempty"`
}

// newDocument returns the document for the reports, at least one.
func newDocument(reports []endpointReport) document {
	if len(reports) == 1 {
		return reports[0].document()
	}
	all := document{OK: true}
	for _, r := range reports {
		all.OK = all.OK && r.OK
		all.Endpoints = append(all.Endpoints, r.document())
	}
	return all
}

func (r endpointReport) document() document {
	d := document{OK: r.OK, Endpoint: r.Endpoint}
	for _, s := range r.Steps {
		step := stepDocument{Proxy: s.Proxy, Name: string(s.Name), OK: s.OK, Millis: s.Millis, Detail: r.names.detail(s.Detail, lang.EN), Code: s.Code}
		if hint, ok := finding.HintFor(s.Code); ok {
			step.Cause, step.Fix = r.names.in(hint.Cause.In(lang.EN), lang.EN), r.names.in(hint.Fix.In(lang.EN), lang.EN)
		}
		d.Steps = append(d.Steps, step)
	}
	if r.Note != nil {
		d.Note = r.names.detail(*r.Note, lang.EN)
	}
	return d
}

// printReport prints a report for people.
func printReport(printf func(format string, args ...any), r endpointReport, l lang.Lang) {
	proxy := ""
	for _, s := range r.Steps {
		if s.Proxy != proxy && s.Proxy != "" {
			printf("%s\n", s.Proxy)
		}
		proxy = s.Proxy
		mark := "✓"
		if !s.OK {
			mark = "✗"
		}
		printf("%s %s %8.1f ms  %s\n", mark, lang.Pad(stepTitles[s.Name].In(l), 10), s.Millis, r.names.detail(s.Detail, l))
		if s.OK {
			continue
		}
		if hint, ok := finding.HintFor(s.Code); ok {
			printf("  %s\n  → %s\n", r.names.in(hint.Cause.In(l), l), r.names.in(hint.Fix.In(l), l))
		}
		printf("  (%s)\n", s.Code)
	}
	if r.Note != nil {
		printf("  %s\n", r.names.detail(*r.Note, l))
	}
}

func (n nameSet) detail(d diagnosis.Detail, l lang.Lang) string {
	args := make([]any, len(d.Args))
	for i, arg := range d.Args {
		if via, ok := arg.([]string); ok {
			arg = render.Route(via)
		}
		args[i] = arg
	}
	if d.Code == diagnosis.DetailError {
		return detailTexts[d.Code].In(l, args...) // the client's own words, which name them already
	}
	return n.in(detailTexts[d.Code].In(l, args...), l)
}

var stepTitles = map[diagnosis.StepName]lang.Text{
	diagnosis.StepSettings: {EN: "settings", ZH: "设置"},
	diagnosis.StepDNS:      {EN: "DNS", ZH: "DNS"},
	diagnosis.StepDirect:   {EN: "connection", ZH: "连接"},
	diagnosis.StepProxy:    {EN: "proxy", ZH: "代理"},
	diagnosis.StepLogin:    {EN: "login", ZH: "代理认证"},
	diagnosis.StepTunnel:   {EN: "tunnel", ZH: "隧道"},
	diagnosis.StepTLS:      {EN: "TLS", ZH: "TLS"},
	diagnosis.StepKey:      {EN: "key", ZH: "密钥"},
	diagnosis.StepEndpoint: {EN: "endpoint", ZH: "图片接口"},
	diagnosis.StepModel:    {EN: "model", ZH: "模型权限"},
	diagnosis.StepModels:   {EN: "models", ZH: "模型"},
	diagnosis.StepImage:    {EN: "image", ZH: "图片"},
}

var detailTexts = map[diagnosis.DetailCode]lang.Text{
	diagnosis.DetailRoute:         {EN: "API %s, %s", ZH: "API 地址 %s，%s"},
	diagnosis.DetailResolved:      {EN: "%s resolves to %s", ZH: "%s 解析为 %s"},
	diagnosis.DetailNoLookup:      {EN: "%s is an IP address", ZH: "%s 是 IP 地址，无需解析"},
	diagnosis.DetailProxyAccepts:  {EN: "%s accepts connections", ZH: "%s 接受连接"},
	diagnosis.DetailAPIAccepts:    {EN: "the API accepts connections, without a proxy", ZH: "API 接受连接，未使用代理"},
	diagnosis.DetailLoginAccepted: {EN: "the proxy accepted the login", ZH: "代理认证通过"},
	diagnosis.DetailNoLogin:       {EN: "no login is set, and the proxy requires none", ZH: "未设置用户名和密码，代理也不要求认证"},
	diagnosis.DetailTunnel:        {EN: "the proxy opened a tunnel to %s", ZH: "代理已建立到 %s 的隧道"},
	diagnosis.DetailTLS:           {EN: "%s; certificate for %s, issued by %s, valid until %s", ZH: "%s；证书主体 %s，签发者 %s，有效期至 %s"},
	diagnosis.DetailKeyAccepted:   {EN: "the API accepted the key", ZH: "API 接受密钥"},
	diagnosis.DetailEndpoint: {EN: "the endpoint that makes pictures refuses an incomplete request, as one that works does",
		ZH: "图片接口拒绝了不完整的请求，与正常接口的行为一致"},
	diagnosis.DetailChatEndpoint: {EN: "the chat endpoint, which makes pictures in this mode, refuses an incomplete request, as one that works does",
		ZH: "聊天接口（该模式下由它生成图片）拒绝了不完整的请求，与正常接口的行为一致"},
	diagnosis.DetailUncheckable: {EN: "the endpoint that makes pictures can't be checked without a paid request; verify with --image",
		ZH: "不发送付费请求就无法检查图片接口；请用 --image 验证"},
	diagnosis.DetailModelsRefused: {EN: "the list of models is not available, which is not needed: %s", ZH: "无法获取模型列表（不影响使用）：%s"},
	diagnosis.DetailModelListed:   {EN: "%d models, including %s", One: "%d model, %s", ZH: "共 %d 个模型，包括 %s"},
	diagnosis.DetailModelMissing: {EN: "%d models, without %s; a relay's list may be incomplete: verify with --image",
		One: "%d model, not %s; a relay's list may be incomplete: verify with --image", ZH: "共 %d 个模型，不包括 %s；中转站的列表可能不完整，请用 --image 验证"},
	diagnosis.DetailNoModelList: {EN: "the API does not list models; verify with --image", ZH: "API 不提供模型列表；请用 --image 验证"},
	diagnosis.DetailPicture:     {EN: "%s, %d x %d pixels", ZH: "%s，%d x %d 像素"},
	diagnosis.DetailError:       {EN: "%s"},
	diagnosis.DetailCertificate: {EN: "%s; the certificate was issued by: %s", ZH: "%s；证书签发者：%s"},

	diagnosis.NoteServes: {EN: "The API works through %s, which serves all requests meanwhile.", ZH: "经由 %s 可以使用 API；目前请求由它转发。"},
	diagnosis.NoteV1:     {EN: "An API responds at %s: set OPENAI_BASE_URL to this URL.", ZH: "%s 上有 API 响应：请将 OPENAI_BASE_URL 设为该地址。"},
	diagnosis.NoteNotDirect: {EN: "No direct connection was tried, because a proxy is set. To compare with one, use --direct.",
		ZH: "已设置代理，因此未尝试直连。如需与直连比较，请使用 --direct。"},
	diagnosis.NoteDirectWorks: {EN: "Without the proxy the API can be reached from here: the proxy is the problem.",
		ZH: "不使用代理可以连接 API：问题出在代理上。"},
	diagnosis.NoteNodeFails: {EN: "Without the proxy the API can be reached from here: the proxy responds, but its node or its rules do not lead to the API.",
		ZH: "不使用代理可以连接 API：代理有响应，但其节点或规则无法到达 API。"},
	diagnosis.NoteDirectFiltered: {
		EN: "Without the proxy the API can't be reached either (%s), and this network seems to filter or intercept connections to it: a proxy is required, so this one has to be fixed.",
		ZH: "不使用代理也无法连接 API（%s），该网络似乎过滤或拦截对 API 的连接：必须使用代理，请修复该代理。"},
	diagnosis.NoteDownBothWays: {
		EN: "Without the proxy the API can't be reached either (%s): it is down, or OPENAI_BASE_URL is wrong. Check these first; another proxy would not help.",
		ZH: "不使用代理也无法连接 API（%s）：API 不可用，或 OPENAI_BASE_URL 有误。请先检查这两项，更换代理没有帮助。"},
	diagnosis.NoteDirectUnclear: {
		EN: "Without the proxy the API can't be reached either (%s), which does not show whether a proxy is required. Fix the proxy first; if it still fails, check OPENAI_BASE_URL.",
		ZH: "不使用代理也无法连接 API（%s），但这不能说明是否必须使用代理。请先修复该代理；如果仍然失败，请检查 OPENAI_BASE_URL。"},
	diagnosis.NoteAlternativeWorks: {EN: "Through %s the API can be reached: set OPENAI_PROXY to it.", ZH: "经由 %s 可以连接 API：请将 OPENAI_PROXY 设为该代理。"},
	diagnosis.NoteAlternativeUnclear: {EN: "The proxy %s responds. Whether it reaches the API shows only when OPENAI_PROXY is set to it.",
		ZH: "代理 %s 有响应。只有将 OPENAI_PROXY 设为该代理，才能确定它能否连接 API。"},
	diagnosis.NoteAlternativeDown: {
		EN: "Through %s the API can't be reached either (%s): it is down, or OPENAI_BASE_URL is wrong. A proxy would not help.",
		ZH: "经由 %s 也无法连接 API（%s）：API 不可用，或 OPENAI_BASE_URL 有误。使用代理没有帮助。"},
	diagnosis.NoteAlternativeFails: {EN: "Through %s the API can't be reached either (%s).", ZH: "经由 %s 也无法连接 API（%s）。"},
	diagnosis.NoteNoAlternative: {EN: "No proxy is set, and none listens on port 7890 of this host: no other route could be tried.",
		ZH: "未设置代理，本机 7890 端口也没有代理在监听：没有其他线路可以尝试。"},
}
