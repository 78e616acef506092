package imageapi

import (
	"net/http"
	"slices"
	"strings"

	"imagetasks/pkg/pattern"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// outcome is what a failed request means for its task.
type outcome struct {
	code    task.Code
	do      task.Disposition
	scope   task.Scope
	unknown bool // the request may have been passed on and billed
	working bool // the API is still working on the request that was sent with this key before
	message string
}

// line is a line of a table. It applies to a response with one of the statuses and one of the codes or one of the texts; what is empty applies to
// each.
type line struct {
	name     string // for the tests
	statuses []int
	codes    []string        // of the API's error: its code or its type, in lower case
	text     pattern.Pattern // of the API's error's message, in lower case
	outcome
}

// Statuses that are not in net/http.
const (
	statusClientClosed   = 499 // of nginx
	statusUnknownError   = 520 // these are Cloudflare's
	statusDown           = 521
	statusConnectTimeout = 522
	statusUnreachable    = 523
	statusTimeout        = 524
	statusTLSFailed      = 525
	statusBadCertificate = 526
	statusOriginError    = 530
)

func words(alternatives ...string) pattern.Pattern {
	return pattern.New(strings.Join(alternatives, "|"))
}

// answers classifies the errors that an API reports as JSON: the first line that applies counts. The status of an error with status
// 2xx or 3xx is its code, if that is a status. What the status says about the outcome's being unknown comes on top: see classify.
//
// The sources are OpenAI's documentation and observed answers, and those of one-api and new-api (middleware, relay, types and i18n) in Chinese and
// English. Their texts differ between versions, so that a line names what the versions have in common.
var answers = []line{
	// A relay reports what its own upstream answered: it says nothing about our key.
	{"upstream's request", nil, nil, words(`bad response status code (400|413|422)\b`),
		outcome{code: task.CodeBadRequest, do: task.Fail, scope: task.ScopeTask, message: "the relay's upstream refused the request"}},
	{"upstream's rate limit", nil, nil, words(`bad response status code 429\b`),
		outcome{code: task.CodeRateLimited, do: task.Release, scope: task.ScopeEndpoint, message: "the rate limit of the relay's upstream is reached"}},
	{"upstream's failure", nil, []string{"bad_response_status_code"}, words(`bad response status code \d`),
		outcome{code: task.CodeServer, do: task.Retry, scope: task.ScopeEndpoint, message: "the relay's upstream failed"}},
	{"upstream's key", nil, []string{foreignKey}, nil,
		outcome{code: task.CodeServer, do: task.Retry, scope: task.ScopeEndpoint, message: "the relay's upstream refuses the relay's key"}},
	{"channel", nil, []string{"channel:no_available_key", "channel:param_override_invalid", "channel:header_override_invalid",
		"channel:model_mapped_error", "channel:aws_client_error", "channel:invalid_key", "channel:response_time_exceeded"}, nil,
		outcome{code: task.CodeServer, do: task.Retry, scope: task.ScopeEndpoint, message: "a channel of the relay failed"}},
	{"channel lost", nil, []string{"get_channel_failed"}, nil, // it had one, which failed
		outcome{code: task.CodeServer, do: task.Retry, scope: task.ScopeEndpoint, message: "the relay has no other channel to try"}},

	{"account blocked", nil, nil, words(`resource has been temporarily blocked`, `(账户|账号).{0,20}(封禁|冻结|停用|锁定)`),
		outcome{code: task.CodeForbidden, do: task.Pause, scope: task.ScopeEndpoint, message: "the API has blocked the account"}},
	{"moderation", nil, []string{"moderation_blocked", "content_policy_violation", "content_filter", "prompt_blocked", "sensitive_words_detected",
		"violation_fee.grok.csam", "datainspectionfailed", "data_inspection_failed", "content_moderation"},
		words(`safety system`, `content policy`, `content management policy`, `content moderation`, `敏感词`, `sensitive words?\b`, `内容审核`, `内容安全`, `违规`,
			`敏感(内容|信息)`, `sensitive (content|information)`, `违反.{0,12}(政策|规定|规范|法规|条款)`, `(input|output|prompt|content) (was|is|has been) flagged`),
		outcome{code: task.CodeModeration, do: task.Fail, scope: task.ScopeTask, message: "moderation refused the prompt"}},

	{"country", nil, []string{"unsupported_country_region_territory", "unsupported_country"},
		words(`country, region, or territory not supported`, `user location is not supported`),
		outcome{code: task.CodeWrongCountry, do: task.Pause, scope: task.ScopeProxy,
			message: "the API does not serve the country of this IP address; use a proxy in another country"}},
	{"address", []int{401, 403}, []string{"ip_not_authorized"}, words(`your ip (address )?is not`, `ip 不在`, `ip not in`),
		outcome{code: task.CodeForbidden, do: task.Pause, scope: task.ScopeProxy, message: "the key may not be used from this IP address"}},

	{"quota", nil, []string{"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_user_quota",
		"pre_consume_token_quota_failed", "insufficient_balance", "insufficient_credits", "quota_exhausted", "free_quota_exhausted",
		"entitlement_required", "entitlement_inactive", "entitlement_daily_limit_exceeded", "entitlement_total_limit_exceeded", "30001", "30011",
		"arrearage", "accountoverdueerror"},
		words(`额度不足`, `额度已用尽`, `额度已用完`, `预扣费额度失败`, `余额不足`, `欠费`, `quota is not enough`, `quota is exhausted`, `insufficient (user )?(quota|balance|credit)`,
			`(balance|credits?) (is|are) insufficient`, `exceeded your current quota`, `billing hard limit`, `credit balance is too low`,
			`overdue (balance|payment)`, `account is in good standing`, `quota has been used up`, `used all available credits`, `key limit exceeded \(`),
		outcome{code: task.CodeNoQuota, do: task.Pause, scope: task.ScopeEndpoint, message: "the API account has no quota left; add credit to it"}},
	{"payment", []int{402}, nil, nil,
		outcome{code: task.CodeNoQuota, do: task.Pause, scope: task.ScopeEndpoint, message: "the API requires a payment (402); add credit to the account"}},

	{"saturated", nil, []string{"rate_limit_exceeded", "rate_limit_error", "too_many_requests", "slow_down", "token_concurrency_limit_reached",
		"resource_exhausted"}, words(`负载.{0,6}(饱和|上限|过高)`, `load is saturated`, `rate limit reached`, `too many requests`, `请求过于频繁`, `请求数限制`),
		outcome{code: task.CodeRateLimited, do: task.Release, scope: task.ScopeEndpoint, message: "the API's rate limit is reached"}},

	{"key may use no model", nil, nil, words(`无权访问任何模型`, `no access to any models`),
		outcome{code: task.CodeForbidden, do: task.Pause, scope: task.ScopeEndpoint, message: "the key may not use any model"}},
	{"group", nil, nil, words(`无权访问.{0,40}分组`, `分组.{0,40}已被弃用`, `no permission to access this group`),
		outcome{code: task.CodeForbidden, do: task.Pause, scope: task.ScopeEndpoint, message: "the key's group can't be used"}},
	{"verification", []int{400, 401, 403, 404}, nil, words(`must be verified`),
		outcome{code: task.CodeModelRefused, do: task.Pause, scope: task.ScopeModel,
			message: "the API makes pictures with this model for verified organizations only"}},
	{"model", nil, []string{"model_not_found", "model_price_error", "model_not_available", "model_not_allowed", "unsupported_model", "invalid_model", "20012",
		"30003", "deploymentnotfound", "model.accessdenied", "accessdenied.unpurchased", "allocationquota.freetieronly", "modelnotopen",
		"invalidendpoint.closedendpoint", "invalidendpoint.notfound", "modelarts.81009"},
		words(`not have access to (the )?model`, `not have access to it`, `no access to model`, `无权(访问|使用)模型`,
			`\bmodels?\b.{0,200} (does not exist|not exist|not found)`, `模型.{0,100}不存在`, `not a valid model`, `not work with the specified model`,
			`no endpoints found`),
		outcome{code: task.CodeModelRefused, do: task.Pause, scope: task.ScopeModel, message: modelRefusedMessage}},
	{"no channel", nil, nil, words(`no available channel`, `无可用渠道`, `可用渠道(不存在|失败)`, `available channels? for model`),
		outcome{code: task.CodeModelRefused, do: task.Pause, scope: task.ScopeModel, message: "the relay has no channel for this model"}},
	{"no price", nil, nil, words(`(倍率|价格).{0,20}未配置`, `(ratio|price)s?.{0,20} not (set|configured)`),
		outcome{code: task.CodeModelRefused, do: task.Pause, scope: task.ScopeModel, message: "the relay has no price for this model"}},

	{"key", nil, []string{"invalid_api_key", "invalid_token", "authentication_error", "account_deactivated", "auth_unauthorized",
		"auth_token_expired", "auth_user_disabled"},
		words(`无效的令牌`, `令牌已过期`, `令牌状态不可用`, `未提供令牌`, `未提供.{0,20}access token`, `用户已被(封禁|禁用)`, `invalid (access )?token`, `token (has )?expired`,
			`token status is unavailable`, `token not provided`, `user has been (banned|disabled)`, `(incorrect|invalid) api key`, `api key (has |is )?(not valid|expired)`),
		outcome{code: task.CodeUnauthorized, do: task.Pause, scope: task.ScopeEndpoint, message: "the API refuses the key; check OPENAI_API_KEY"}},

	{"key in use", []int{409}, []string{"idempotency_error", "idempotency_key_in_use"}, words(`idempoten`, `key.{0,20}in use`, `still (being processed|in progress)`),
		outcome{code: task.CodeServer, do: task.Release, scope: task.ScopeTask, unknown: true, working: true,
			message: "the API is still working on the request that was sent with this key before (409)"}},

	{"address of the API", nil, nil, words(`url error, please check url`),
		outcome{code: task.CodeWrongAddress, do: task.Pause, scope: task.ScopeEndpoint,
			message: "there is no Images API at this address; check OPENAI_BASE_URL, which ends in /v1"}},
	// Gateways that answer in JSON, and relays that pass on what Cloudflare answered.
	{"gateway's answer", nil, []string{"cf_bad_gateway"}, words(`invalid response was received from the upstream`),
		outcome{code: task.CodeServer, do: task.Release, scope: task.ScopeEndpoint, unknown: true, message: "a gateway before the API got no usable response from it"}},
	{"Cloudflare's answer", []int{statusUnknownError, statusConnectTimeout}, []string{"520", "522"}, nil,
		outcome{code: task.CodeServer, do: task.Release, scope: task.ScopeEndpoint, unknown: true, message: "Cloudflare got no usable response from the API's server"}},
	{"Cloudflare's answer, not passed on", []int{statusDown, statusUnreachable, statusTLSFailed, statusBadCertificate, statusOriginError},
		[]string{"521", "523", "525", "526", "530", "1033"}, nil,
		outcome{code: task.CodeServer, do: task.Release, scope: task.ScopeEndpoint, message: "Cloudflare can't reach the API's server"}},

	{"request", nil, []string{"invalid_request", "invalid_value", "invalid_type", "invalid_size", "missing_required_parameter", "unknown_parameter",
		"integer_below_min_value", "string_above_max_length", "array_above_max_length", "invalid_image_request", "prompt_missing", "prompt_too_long",
		"size_not_supported", "n_not_within_range", "invalid_image_file", "invalid_image_format", "invalid_mask_image_format",
		"unsupported_file_mimetype", "image_generation_user_error", "bad_request_body", "read_request_body_failed", "20015"},
		words(`cannot unmarshal`, `prompt is required`, `missing (required )?(parameter|field).{0,10}prompt`, `prompt.{0,8}不能为空`),
		outcome{code: task.CodeBadRequest, do: task.Fail, scope: task.ScopeTask, message: "the API refused the request"}},
	{"server", nil, []string{"server_error", "internal_error", "internal_server_error", "engine_overloaded", "overloaded_error", "do_request_failed",
		"bad_response_body", "bad_response", "read_response_body_failed", "empty_response", "fail_to_fetch_task", "aws_invoke_error", "query_data_error",
		"update_data_error", "count_token_failed", "convert_request_failed", "gen_relay_info_failed", "upstream_error", "token_concurrency_unavailable",
		"50505", "50603"}, words(`currently overloaded`, `server had an error`),
		outcome{code: task.CodeServer, do: task.Retry, scope: task.ScopeEndpoint, message: "the API failed"}},

	{"401", []int{401}, nil, nil,
		outcome{code: task.CodeUnauthorized, do: task.Pause, scope: task.ScopeEndpoint, message: "the API refuses the key (401); check OPENAI_API_KEY"}},
	{"403", []int{403, 451}, nil, nil,
		outcome{code: task.CodeForbidden, do: task.Pause, scope: task.ScopeEndpoint, message: "the API refuses access (403)"}},
	{"404", []int{404, 405, 501}, nil, nil,
		outcome{code: task.CodeWrongAddress, do: task.Pause, scope: task.ScopeEndpoint,
			message: "there is no Images API at this address; check OPENAI_BASE_URL, which ends in /v1"}},
	{"407", []int{407}, nil, nil,
		outcome{code: task.CodeProxyLoginMissing, do: task.Pause, scope: task.ScopeProxy, message: "the proxy requires a login or refuses it (407)"}},
	{"timeout", []int{408, statusClientClosed, 504, statusTimeout}, nil, nil,
		outcome{code: task.CodeTimeout, do: task.Release, scope: task.ScopeEndpoint, unknown: true, message: "the API timed out"}},
	{"409", []int{409}, nil, nil,
		outcome{code: task.CodeServer, do: task.Retry, scope: task.ScopeEndpoint, message: "the API reports a conflict (409)"}},
	{"429", []int{429}, nil, nil,
		outcome{code: task.CodeRateLimited, do: task.Release, scope: task.ScopeEndpoint, message: "the API's rate limit is reached (429)"}},
	{"5xx", statuses(500, 599), nil, nil,
		outcome{code: task.CodeServer, do: task.Retry, scope: task.ScopeEndpoint, message: "the API failed"}},
	{"4xx", statuses(400, 499), nil, nil,
		outcome{code: task.CodeBadRequest, do: task.Fail, scope: task.ScopeTask, message: "the API refused the request"}},
	{"3xx", statuses(300, 399), nil, nil,
		outcome{code: task.CodeWrongAddress, do: task.Pause, scope: task.ScopeEndpoint, message: "the API's address redirects; check OPENAI_BASE_URL and the proxy"}},
	{"any", nil, nil, nil, // an error with a status of success, and without a code that tells whose it is
		outcome{code: task.CodeServer, do: task.Retry, scope: task.ScopeEndpoint, message: "the API returned an error with a status of success"}},
}

// modelRefusedMessage is the message where the API's text says that a model can't be used.
const modelRefusedMessage = "the API does not make pictures with this model for this account"

// foreignKey is the code of an error about a key that is not ours.
const foreignKey = "another_key"

// statuses returns the statuses from first to last.
func statuses(first, last int) []int {
	var all []int
	for s := first; s <= last; s++ {
		all = append(all, s)
	}
	return all
}

// page is what a response without an answer of the API consists of.
type page struct {
	status int
	form   bodyForm
	header http.Header
	said   string // its beginning
	text   string // the same in lower case
}

// pageLine is a line of the table of pages. It applies to a response with one of the statuses, forms and texts; what is empty applies to each.
type pageLine struct {
	name     string // for the tests
	statuses []int
	forms    []bodyForm
	text     pattern.Pattern
	is       func(page) bool
	outcome
}

var markupForm = []bodyForm{formPage}

// pages classifies responses that are not the API's: of a proxy, a gateway, a login page or another server. The first line that applies counts.
var pages = []pageLine{
	{"proxy's login", []int{407}, nil, nil, nil,
		outcome{code: task.CodeProxyLoginMissing, do: task.Pause, scope: task.ScopeProxy, message: "the proxy requires a login or refuses it (407)"}},
	{"proxy, not passed on", nil, nil, nil, isProxysRefusal,
		outcome{code: task.CodeWebPage, do: task.Pause, scope: task.ScopeProxy, message: "the proxy responded with a page of its own and did not pass the request on"}},
	{"proxy", statuses(500, 599), nil, nil, isProxysPage,
		outcome{code: task.CodeWebPage, do: task.Release, scope: task.ScopeProxy, unknown: true, message: "the proxy responded with a page of its own"}},
	{"network login", []int{511}, nil, nil, nil,
		outcome{code: task.CodeWebPage, do: task.Pause, scope: task.ScopeProxy, message: "the network requires a login (511)"}},
	{"redirect", statuses(300, 399), nil, nil, nil,
		outcome{code: task.CodeWrongAddress, do: task.Pause, scope: task.ScopeEndpoint, message: "the API's address redirects; check OPENAI_BASE_URL and the proxy"}},

	{"origin not reached", []int{statusDown, statusUnreachable, statusTLSFailed, statusBadCertificate, statusOriginError}, nil, nil, nil,
		outcome{code: task.CodeServer, do: task.Release, scope: task.ScopeEndpoint, message: "Cloudflare can't reach the API's server"}},
	{"no backend", []int{502, 503}, nil, words(`no healthy upstream`, `no server is available to handle this request`,
		`reset reason: (remote )?connection failure`, `reset reason: connection timeout`), nil,
		outcome{code: task.CodeServer, do: task.Release, scope: task.ScopeEndpoint, message: "the gateway before the API can't reach it"}},
	{"gateway timeout", []int{408, statusClientClosed, 504, statusTimeout}, nil, nil, nil,
		outcome{code: task.CodeTimeout, do: task.Release, scope: task.ScopeEndpoint, unknown: true, message: "a gateway before the API timed out"}},
	{"Cloudflare", []int{statusUnknownError, statusConnectTimeout, 527}, nil, nil, nil,
		outcome{code: task.CodeServer, do: task.Release, scope: task.ScopeEndpoint, unknown: true, message: "Cloudflare got no usable response from the API's server"}},
	{"gateway", statuses(500, 599), nil, nil, nil,
		outcome{code: task.CodeServer, do: task.Release, scope: task.ScopeEndpoint, unknown: true,
			message: "a gateway before the API failed, or the API without saying why"}},
	{"rate limit", []int{429}, nil, nil, nil,
		outcome{code: task.CodeRateLimited, do: task.Release, scope: task.ScopeEndpoint, message: "the rate limit of the API or a gateway before it is reached (429)"}},

	{"address refused", []int{403, 451}, []bodyForm{formPage, formText}, nil, nil,
		outcome{code: task.CodeWebPage, do: task.Pause, scope: task.ScopeProxy,
			message: "a page, not the API, refuses access: the proxy, or a gateway that refuses the address of the proxy's exit"}},
	{"page's login", []int{401}, []bodyForm{formPage, formText}, nil, nil,
		outcome{code: task.CodeWebPage, do: task.Pause, scope: task.ScopeEndpoint, message: "a page, not the API, requires a login (401); check OPENAI_BASE_URL and the proxy"}},
	{"no such page", []int{404, 405, 410}, nil, nil, nil,
		outcome{code: task.CodeWrongAddress, do: task.Pause, scope: task.ScopeEndpoint,
			message: "there is no Images API at this address; check OPENAI_BASE_URL, which ends in /v1"}},
	{"bare 401", []int{401}, nil, nil, nil,
		outcome{code: task.CodeUnauthorized, do: task.Pause, scope: task.ScopeEndpoint, message: "the API refuses the key (401); check OPENAI_API_KEY"}},
	{"bare 403", []int{403, 451}, nil, nil, nil,
		outcome{code: task.CodeForbidden, do: task.Pause, scope: task.ScopeEndpoint, message: "the API refuses access (403)"}},
	{"too large", []int{413}, nil, nil, nil,
		outcome{code: task.CodeBadRequest, do: task.Fail, scope: task.ScopeTask, message: "the request is too large for a gateway before the API (413)"}},
	{"Cloudflare's refusal", statuses(400, 499), nil, words(`^error code: \d{3,4}\b`), nil,
		outcome{code: task.CodeWebPage, do: task.Retry, scope: task.ScopeEndpoint, message: "Cloudflare, not the API, refused the request"}},
	{"refusing page", statuses(400, 499), markupForm, nil, nil,
		outcome{code: task.CodeWebPage, do: task.Retry, scope: task.ScopeEndpoint, message: "a page, not the API, refused the request"}},
	{"bare refusal", statuses(400, 499), nil, nil, nil,
		outcome{code: task.CodeBadRequest, do: task.Fail, scope: task.ScopeTask, message: "the API refused the request"}},

	// What has a status of success is no answer of the API either.
	{"page", nil, markupForm, nil, nil,
		outcome{code: task.CodeWebPage, do: task.Release, scope: task.ScopeEndpoint, unknown: true, message: webPageMessage}},
	{"empty", nil, []bodyForm{formEmpty}, nil, nil,
		outcome{code: task.CodeCutOff, do: task.Release, scope: task.ScopeEndpoint, unknown: true, message: "the API's response is empty"}},
	{"text", nil, []bodyForm{formText}, nil, nil,
		outcome{code: task.CodeBadAnswer, do: task.Release, scope: task.ScopeEndpoint, unknown: true,
			message: "the response is plain text: a gateway between this host and the API responded"}},
	{"not JSON", nil, nil, nil, nil,
		outcome{code: task.CodeBadAnswer, do: task.Release, scope: task.ScopeEndpoint, unknown: true, message: "the API's response can't be parsed"}},
}

const webPageMessage = "the response is a web page: a device or page between this host and the API responded, or OPENAI_BASE_URL is wrong"

// isProxysPage reports whether a page is that of a forward proxy. Transport knows those of the proxies that it uses; this one is between.
func isProxysPage(p page) bool {
	own, _ := proxy.OwnResponse(p.status, p.header, p.said)
	return own
}

// isProxysRefusal reports whether the page of a proxy says that it did not pass the request on.
func isProxysRefusal(p page) bool {
	own, forwarded := proxy.OwnResponse(p.status, p.header, p.said)
	return own && !forwarded
}

// matches reports whether the line applies to an error of the API with its message in lower case.
func (l line) matches(status int, e apiError) bool {
	if len(l.statuses) > 0 && !slices.Contains(l.statuses, status) {
		return false
	}
	if len(l.codes) == 0 && l.text == nil {
		return true
	}
	return slices.Contains(l.codes, e.Code) || slices.Contains(l.codes, e.Type) || (l.text != nil && l.text().MatchString(e.Message))
}

func (l pageLine) matches(p page) bool {
	return (len(l.statuses) == 0 || slices.Contains(l.statuses, p.status)) && (len(l.forms) == 0 || slices.Contains(l.forms, p.form)) &&
		(l.text == nil || l.text().MatchString(p.text)) && (l.is == nil || l.is(p))
}
