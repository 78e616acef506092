package imageapi

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/task"
)

// sample is a response that a line of a table must apply to.
type sample struct {
	status int
	header http.Header
	body   string
}

func (s sample) response() *http.Response {
	header := s.header.Clone()
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: s.status, Header: header, Body: io.NopCloser(strings.NewReader(s.body)), ProtoMajor: 1, ProtoMinor: 1}
}

// transportFunc is a transport without a network.
type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

const sampleKey = "sk-sample0123456789wxyz"

func sampleClient(t testing.TB, answer func() *http.Response) *Client {
	t.Helper()
	c, err := New(Config{BaseURL: "https://api.example.com/v1", Key: sampleKey, Model: "gpt-image-2", MaxBytes: 1 << 20,
		Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
			if r.Body != nil {
				_, _ = io.Copy(io.Discard, r.Body)
			}
			response := answer()
			response.Request = r
			return response, nil
		})})
	require.NoError(t, err)
	return c
}

func errorBody(code, message string) string {
	return `{"error":{"message":"` + message + `","type":"new_api_error","param":"","code":"` + code + `"}}`
}

// answerSamples are samples for each line of the table of answers.
var answerSamples = map[string][]sample{
	"upstream's request": {{500, nil, errorBody("bad_response_status_code", "bad response status code 400")},
		{400, nil, errorBody("bad_response_status_code", "bad response status code 422 (request id: 2025)")}},
	"upstream's rate limit": {{500, nil, errorBody("bad_response_status_code", "bad response status code 429")}},
	"upstream's failure": {{500, nil, errorBody("bad_response_status_code", "bad response status code 401 (request id: 1)")},
		{401, nil, errorBody("bad_response_status_code", "bad response status code 401")},
		{403, nil, errorBody("bad_response_status_code", "bad response status code 403, message: forbidden, body: {}")},
		{500, nil, errorBody("", "bad response status code 502")}, {500, nil, errorBody("bad_response_status_code", "")}},
	"upstream's key": {{401, nil, `{"error":{"message":"Incorrect API key provided: sk-proj-****ABCD. You can find your API key at https://x.","type":"invalid_request_error","code":"invalid_api_key"}}`},
		{500, nil, errorBody("invalid_api_key", "Incorrect API key provided: sk-other****6789.")}},
	"channel":      {{500, nil, errorBody("channel:invalid_key", "x")}, {500, nil, errorBody("channel:no_available_key", "没有可用的渠道密钥")}},
	"channel lost": {{500, nil, errorBody("get_channel_failed", "分组 default 下模型 gpt-image-1 的可用渠道不存在（retry）")}},
	"account blocked": {{403, nil, `{"error":{"code":"Forbidden","message":"Your resource has been temporarily blocked because we detected behavior that may violate our content policy."}}`},
		{403, nil, `{"code":403,"msg":"账号因违规已被封禁"}`}},
	"moderation": {{400, nil, `{"error":{"code":"moderation_blocked","type":"image_generation_user_error","message":"Your request was rejected by the safety system."}}`},
		{500, nil, errorBody("moderation_blocked", "x")}, {400, nil, `{"error":{"code":"content_policy_violation"}}`},
		{500, nil, `{"error":{"message":"Your request was rejected as a result of our safety system."}}`},
		{500, nil, errorBody("sensitive_words_detected", "user sensitive words detected")}, {400, nil, errorBody("prompt_blocked", "x")},
		{200, nil, `{"code":"DataInspectionFailed","message":"Output data may contain inappropriate content."}`},
		{400, nil, `{"errors":["Your request was flagged by our content moderation system"],"name":"content_moderation"}`},
		{400, nil, `{"error":"输入包含敏感词"}`}, {200, nil, `{"choices":[{"finish_reason":"content_filter","message":{"content":""}}]}`}},
	"country": {{403, nil, `{"error":{"code":"unsupported_country_region_territory","message":"Country, region, or territory not supported","type":"request_forbidden"}}`},
		{403, nil, `{"error":{"message":"Country, region, or territory not supported"}}`}},
	"address": {{401, nil, `{"error":{"code":"ip_not_authorized","message":"Your IP is not authorized."}}`},
		{403, nil, errorBody("access_denied", "您的 IP 不在令牌允许访问的列表中")}},
	"quota": {{429, nil, `{"error":{"code":"insufficient_quota","type":"insufficient_quota","message":"You exceeded your current quota"}}`},
		{400, nil, `{"error":{"code":"billing_hard_limit_reached","message":"Billing hard limit has been reached"}}`},
		{403, nil, errorBody("insufficient_user_quota", "用户额度不足，剩余额度：＄0.000000")}, {403, nil, errorBody("insufficient_user_quota", "user quota is not enough")},
		{402, nil, errorBody("insufficient_user_quota", "x")}, {500, nil, errorBody("", "用户额度不足")},
		{403, nil, errorBody("pre_consume_token_quota_failed", "令牌额度不足")}, {403, nil, errorBody("", "预扣费额度失败, 用户剩余额度: 0.01")},
		{401, nil, errorBody("", "该令牌额度已用尽 TokenStatusExhausted[sk-abc***xyz]")},
		{401, nil, errorBody("", "This token quota is exhausted TokenStatusExhausted[sk-abc***xyz]")},
		{403, nil, `{"code":30011,"message":"Sorry, your account balance is insufficient","data":null}`}, {200, nil, `{"code":30011,"message":"x"}`},
		{400, nil, `{"error":{"message":"Your credit balance is too low"}}`}, {200, nil, `{"success":false,"message":"账户余额不足"}`}},
	"payment": {{402, nil, `{"detail":"Payment Required"}`}},
	"saturated": {{429, nil, errorBody("", "当前分组上游负载已饱和，请稍后再试")}, {429, nil, errorBody("model_price_error", "当前分组上游负载已饱和，请稍后再试")},
		{500, nil, errorBody("", "Current group upstream load is saturated, please try again later")}, {503, nil, `{"error":{"code":"slow_down","message":"Slow down"}}`},
		{400, nil, `{"error":{"code":"rate_limit_exceeded"}}`}},
	"key may use no model": {{403, nil, errorBody("", "该令牌无权访问任何模型")}, {403, nil, errorBody("", "This token has no access to any models")}},
	"group":                {{403, nil, errorBody("", "无权访问 vip 分组")}, {403, nil, errorBody("", "分组 vip 已被弃用")}, {403, nil, errorBody("", "No permission to access this group")}},
	"verification": {{403, nil, "{\"error\":{\"message\":\"Your organization must be verified to use the model `gpt-image-1`. Please go to: https://platform.openai.com/settings\",\"type\":\"invalid_request_error\",\"code\":null}}"},
		{404, nil, "{\"error\":{\"message\":\"Your organization must be verified to use the model `gpt-5`.\",\"code\":\"model_not_found\"}}"}},
	"model": {{403, nil, "{\"error\":{\"message\":\"Project `proj_x` does not have access to model `gpt-image-1`\",\"code\":\"model_not_found\"}}"},
		{404, nil, "{\"error\":{\"message\":\"The model `x` does not exist or you do not have access to it.\",\"code\":\"model_not_found\"}}"},
		{503, nil, errorBody("model_not_found", "分组 default 下模型 x 无可用渠道（distributor）")}, {503, nil, errorBody("model_not_found", "No available channel for model x under group default (distributor)")},
		{500, nil, errorBody("model_price_error", "模型 x 倍率或价格未配置，请联系管理员设置")}, {400, nil, errorBody("model_price_error", "x")},
		{403, nil, errorBody("", "该令牌无权访问模型 x")}, {403, nil, errorBody("", "该令牌无权使用模型：x")}, {403, nil, errorBody("", "This token has no access to model x")},
		{400, nil, `{"code":20012,"message":"Model does not exist. Please check it carefully.","data":null}`}, {400, nil, `{"code":"x","msg":"模型 x 不存在"}`}},
	"no channel": {{503, nil, errorBody("", "当前分组 default 下对于模型 x 无可用渠道")}, {500, nil, errorBody("", "no available channel")},
		{200, nil, `{"error":{"message":"No available channel for model x under group y","type":"x"}}`}},
	"no price": {{500, nil, errorBody("", "模型 x 倍率或价格未配置")}, {500, nil, errorBody("", "model ratio or price not set")}},
	"key": {{401, nil, `{"error":{"message":"Incorrect API key provided: sk-sampl***wxyz.","type":"invalid_request_error","code":"invalid_api_key"}}`},
		{401, nil, errorBody("", "无效的令牌")}, {401, nil, errorBody("", "该令牌已过期")}, {401, nil, errorBody("", "该令牌状态不可用")}, {401, nil, errorBody("", "Invalid token (request id: 1)")},
		{200, nil, `{"error":{"message":"无效的令牌","type":"one_api_error"}}`}, {200, nil, `{"code":401,"msg":"无效的令牌"}`}, {403, nil, errorBody("", "用户已被封禁")},
		{401, nil, `{"success":false,"code":"AUTH_UNAUTHORIZED","message":"x"}`}},
	"address of the API": {{400, nil, `{"code":"InvalidParameter","message":"url error, please check url!"}`}},
	"gateway's answer": {{502, nil, `{"error":{"code":502,"message":"Bad gateway.","param":null,"type":"cf_bad_gateway"}}`},
		{502, nil, `{"message":"An invalid response was received from the upstream server"}`}},
	"Cloudflare's answer":                {{520, nil, `{"error_code":520,"cloudflare_error":true}`}, {522, nil, `{"error":{"code":522,"message":"Connection timed out"}}`}},
	"Cloudflare's answer, not passed on": {{521, nil, `{"error_code":521,"detail":"x"}`}, {530, nil, `{"error_code":1033,"detail":"x"}`}},
	"key in use":                         {{409, nil, `{"error":{"message":"A request with this Idempotency-Key is in progress"}}`}, {409, nil, `{"error":{"code":"idempotency_key_in_use","message":"x"}}`}},
	"request": {{400, nil, `{"error":{"message":"Missing required parameter: 'prompt'.","code":"missing_required_parameter","type":"invalid_request_error"}}`},
		{500, nil, errorBody("invalid_request", "prompt is required")}, {500, nil, errorBody("", "json: cannot unmarshal string into Go struct field ImageRequest.n of type uint")},
		{400, nil, `{"error":{"type":"image_generation_user_error","message":"The image is too small","code":"invalid_image"}}`}},
	"server": {{500, nil, `{"error":{"message":"The server had an error while processing your request.","type":"server_error","code":null}}`},
		{503, nil, `{"error":{"message":"The engine is currently overloaded, please try again later"}}`}, {500, nil, errorBody("do_request_failed", "Post \\\"https://***\\\": EOF")},
		{500, nil, errorBody("bad_response_body", "invalid character '<' looking for beginning of value")}, {400, nil, errorBody("fail_to_fetch_task", "x")},
		{500, nil, `{"error":{"message":"x","type":"upstream_error"}}`}, {200, nil, `{"error":{"message":"x","type":"server_error"}}`}},
	"401": {{401, nil, `{"error":{"message":"You must be a member of an organization to use the API"}}`}, {401, nil, `{"detail":"Unauthorized"}`}},
	"403": {{403, nil, `{"error":{"message":"You are not allowed to generate from this view"}}`}, {200, nil, `{"code":403,"msg":"forbidden"}`}},
	"404": {{404, nil, `{"error":{"message":"Invalid URL (POST /images/generations)","type":"invalid_request_error"}}`}, {404, nil, `{"detail":"Not Found"}`},
		{405, nil, `{"detail":"Method Not Allowed"}`}, {501, nil, errorBody("api_not_implemented", "API not implemented")}},
	"407":     {{407, nil, `{"error":"login required"}`}},
	"timeout": {{408, nil, `{"error":{"message":"timeout"}}`}, {504, nil, `{"error":{"message":"upstream request timeout"}}`}, {524, nil, errorBody("", "timeout")}, {499, nil, `{"error":"closed"}`}, {200, nil, `{"code":504,"message":"upstream timeout"}`}},
	"409":     {{409, nil, `{"error":{"message":"conflict"}}`}},
	"429":     {{429, nil, `{"error":{"message":"slow"}}`}, {429, nil, `{"error":{"code":429,"message":"x","status":"UNAVAILABLE"}}`}},
	"5xx":     {{500, nil, `{"error":{"message":"oops"}}`}, {500, nil, `{"error":"oops"}`}, {503, nil, `{"message":"busy"}`}, {520, nil, `{"error":"x"}`}, {500, nil, `{"detail":["a"]}`}},
	"4xx": {{400, nil, `{"error":{"message":"no"}}`}, {422, nil, `{"detail":[{"loc":["body","n"],"msg":"value is not a valid integer","type":"type_error.integer"}]}`},
		{413, nil, `{"errors":[{"message":"too large"}]}`}, {400, nil, `{"code":"Bad","msg":"no"}`}, {200, nil, `{"code":400,"message":"no"}`}},
	"3xx": {{302, nil, `{"error":{"message":"moved"}}`}},
	"any": {{200, nil, `{"error":{"message":"busy"}}`}, {201, nil, `{"error":"busy"}`}, {200, nil, `{"success":false,"message":"busy"}`}, {200, nil, `{"code":1001,"message":"busy"}`},
		{200, nil, `{"code":"E1","msg":"busy"}`}, {200, http.Header{"Content-Type": {"text/event-stream"}}, "event: error\ndata: {\"error\":{\"message\":\"busy\"}}\n\n"},
		{200, nil, "data: {\"type\":\"error\",\"message\":\"busy\"}\n\ndata: [DONE]\n\n"}},
}

func markup(contentType, server string) http.Header {
	return http.Header{"Content-Type": {contentType}, "Server": {server}}
}

const nginxPage = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>"

// pageSamples are samples for each line of the table of pages.
var pageSamples = map[string][]sample{
	"proxy's login": {{407, markup("text/html", "squid/6.6"), "<html>Cache Access Denied</html>"}, {407, nil, "Proxy authentication required"}, {407, nil, ""}},
	"proxy, not passed on": {{503, http.Header{"X-Squid-Error": {"ERR_CONNECT_FAIL 111"}, "Server": {"squid"}}, "<html>The requested URL could not be retrieved</html>"}, {403, markup("text/html", ""), "<title>Request blocked by Privoxy (Privoxy@localhost)</title>"},
		{500, markup("text/html", "tinyproxy/1.11"), "<html>Unable to connect</html>"}},
	"proxy":              {{502, http.Header{"X-Squid-Error": {"ERR_READ_ERROR 104"}}, "<html>x</html>"}, {500, markup("text/html", "tinyproxy/1.11"), "<html>Internal error</html>"}},
	"network login":      {{511, markup("text/html", ""), "<html>Log in</html>"}},
	"redirect":           {{302, http.Header{"Location": {"https://login.example.com/x?token=secret"}}, ""}, {301, markup("text/html", "nginx"), nginxPage}},
	"origin not reached": {{521, markup("text/html", "cloudflare"), "<html>Web server is down</html>"}, {523, nil, "error code: 523"}, {525, nil, "error code: 525"}, {526, nil, "error code: 526"}, {530, markup("text/html", "cloudflare"), "error code: 1033"}},
	"no backend": {{503, nil, "no healthy upstream"}, {503, markup("text/html", ""), "<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>"},
		{503, nil, "upstream connect error or disconnect/reset before headers. reset reason: connection failure"}},
	"gateway timeout": {{504, markup("text/html", "openresty"), "<html><head><title>504 Gateway Time-out</title></head></html>"}, {524, markup("text/html", "cloudflare"), "<html>A timeout occurred</html>"},
		{408, nil, "upstream request timeout"}, {499, nil, ""}, {504, nil, "stream timeout"}},
	"Cloudflare":           {{520, markup("text/html", "cloudflare"), "<html>Web server is returning an unknown error</html>"}, {522, nil, "error code: 522"}},
	"gateway":              {{502, markup("text/html", "nginx"), nginxPage}, {503, markup("text/html", "awselb/2.0"), "<html>503 Service Temporarily Unavailable</html>"}, {502, markup("text/plain", "Caddy"), ""}, {500, nil, "Internal Server Error"}, {503, nil, "upstream connect error or disconnect/reset before headers. reset reason: connection termination"}, {500, nil, `{"foo":1}`}},
	"rate limit":           {{429, markup("text/html", "cloudflare"), "<html>You are being rate limited</html>"}},
	"address refused":      {{403, markup("text/html", "cloudflare"), "<html><title>Attention Required! | Cloudflare</title></html>"}, {451, markup("text/html", ""), "<html>Unavailable</html>"}, {403, nil, "error code: 1020"}},
	"page's login":         {{401, markup("text/html", "nginx"), "<html>401 Authorization Required</html>"}},
	"no such page":         {{404, markup("text/html", "nginx"), "<html>404 Not Found</html>"}, {404, nil, "404 page not found"}, {405, markup("text/html", ""), "<html>Not Allowed</html>"}},
	"bare 401":             {{401, nil, ""}},
	"bare 403":             {{403, nil, ""}},
	"too large":            {{413, markup("text/html", "nginx"), "<html>413 Request Entity Too Large</html>"}},
	"Cloudflare's refusal": {{400, nil, "error code: 1003"}, {409, nil, "error code: 1001\n"}},
	"refusing page":        {{400, markup("text/html", "nginx"), "<html>The plain HTTP request was sent to HTTPS port</html>"}},
	"bare refusal":         {{400, nil, ""}, {400, nil, "bad prompt"}},
	"page":                 {{200, markup("text/html", ""), "<!DOCTYPE html><html>Log in</html>"}, {200, nil, "<?xml version=\"1.0\"?><Error/>"}},
	"empty":                {{200, nil, ""}, {200, nil, " \n \n"}, {204, nil, ""}},
	"text":                 {{200, nil, "OK"}, {200, markup("text/plain", ""), "upstream error"}},
	"not JSON":             {{200, nil, `{"data":!}`}, {200, nil, "data: {!}\n\n"}},
}

// TestTables_EveryLineHasSamples holds each line of both tables to its samples: they reach that line and no other, and what Generate returns is
// what the line says.
func TestTables_EveryLineHasSamples(t *testing.T) {
	names := map[string]bool{}
	for _, l := range answers {
		require.False(t, names[l.name], "two lines %q", l.name)
		names[l.name] = true
		require.NotEmpty(t, answerSamples[l.name], "the line %q has no sample", l.name)
		for _, s := range answerSamples[l.name] {
			e, a := generateSample(t, s)
			status := errorStatus(s.status, a.apiError)
			assert.Equal(t, l.name, answerLine(status, a.apiError, sampleKey).name, "%d %s", s.status, s.body)
			want := l.outcome
			if isTimeout(status) {
				want.unknown = true
			}
			assertOutcome(t, want, e, s)
		}
	}
	assert.Len(t, answerSamples, len(answers))
	names = map[string]bool{}
	for _, l := range pages {
		require.False(t, names[l.name], "two lines %q", l.name)
		names[l.name] = true
		require.NotEmpty(t, pageSamples[l.name], "the line %q has no sample", l.name)
		for _, s := range pageSamples[l.name] {
			e, a := generateSample(t, s)
			assert.Equal(t, l.name, pageOf(newPage(s.response(), a.form, a.said)).name, "%d %s", s.status, s.body)
			assertOutcome(t, l.outcome, e, s)
		}
	}
	assert.Len(t, pageSamples, len(pages))
}

func generateSample(t *testing.T, s sample) (*task.Error, answer) {
	t.Helper()
	_, err := sampleClient(t, s.response).Generate(t.Context(), Request{Prompt: "a private wish"}, io.Discard)
	e, ok := err.(*task.Error) //nolint:errorlint // Generate promises the type
	require.True(t, ok, "%d %s: %v", s.status, s.body, err)
	a, _ := readAnswer(s.response(), strings.NewReader(s.body), 1<<20, &bytes.Buffer{}, nil, source{})
	return e, a
}

func assertOutcome(t *testing.T, want outcome, e *task.Error, s sample) {
	t.Helper()
	assert.Equal(t, want.code, e.Code, "%d %s: %v", s.status, s.body, e)
	assert.Equal(t, want.do, e.Disposition, "%d %s: %v", s.status, s.body, e)
	assert.Equal(t, want.scope, e.Scope, "%d %s: %v", s.status, s.body, e)
	assert.Equal(t, want.unknown, e.Unknown, "%d %s: %v", s.status, s.body, e)
	assert.True(t, strings.HasPrefix(e.Message, want.message), "%d %s: %v", s.status, s.body, e)
	assert.False(t, e.NotSent || e.Paid)
}

// What the tables say about scopes and dispositions as a whole.
func TestTables_AreConsistent(t *testing.T) {
	check := func(name string, o outcome) {
		assert.NotEmpty(t, o.message, name)
		switch o.scope {
		case task.ScopeTask:
			assert.NotEqual(t, task.Pause, o.do, "%s: one task must not stop others", name)
		default:
			assert.NotEqual(t, task.Fail, o.do, "%s: a failure that is not the task's must not end it", name)
		}
		if o.unknown {
			assert.Equal(t, task.Release, o.do, "%s: an unknown outcome uses no attempt", name)
		}
		assert.Equal(t, o.code == task.CodeModelRefused, o.scope == task.ScopeModel, name)
	}
	for _, l := range answers {
		check(l.name, l.outcome)
	}
	for _, l := range pages {
		check(l.name, l.outcome)
	}
}
