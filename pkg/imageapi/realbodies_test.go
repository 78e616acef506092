package imageapi

import (
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/task"
)

// Error bodies that services are known to send, beyond those of the tables' samples. What matters is what happens to the task: a wrong scope
// stops tasks that could be worked on, or refunds those that only have to wait.
func TestGenerate_ReadsRealErrorBodies(t *testing.T) {
	type want struct {
		code    task.Code
		do      task.Disposition
		scope   task.Scope
		unknown bool
	}
	var (
		moderated = want{task.CodeModeration, task.Fail, task.ScopeTask, false}
		refused   = want{task.CodeModelRefused, task.Pause, task.ScopeModel, false}
		noQuota   = want{task.CodeNoQuota, task.Pause, task.ScopeEndpoint, false}
		badKey    = want{task.CodeUnauthorized, task.Pause, task.ScopeEndpoint, false}
		blocked   = want{task.CodeForbidden, task.Pause, task.ScopeEndpoint, false}
		limited   = want{task.CodeRateLimited, task.Release, task.ScopeEndpoint, false}
		failed    = want{task.CodeServer, task.Retry, task.ScopeEndpoint, false}
		notFound  = want{task.CodeWrongAddress, task.Pause, task.ScopeEndpoint, false}
		request   = want{task.CodeBadRequest, task.Fail, task.ScopeTask, false}
		unclear   = want{task.CodeServer, task.Release, task.ScopeEndpoint, true}
		timeout   = want{task.CodeTimeout, task.Release, task.ScopeEndpoint, true}
		down      = want{task.CodeServer, task.Release, task.ScopeEndpoint, false}
	)
	for _, each := range []struct {
		from   string
		status int
		body   string
		want   want
	}{
		// OpenAI, and Cloudflare in front of it
		{"OpenAI", 502, `{"error":{"code":502,"message":"Bad gateway.","param":null,"type":"cf_bad_gateway"}}`, unclear},
		{"OpenAI", 503, `{"error":{"code":503,"message":"Service Unavailable.","param":null,"type":"cf_service_unavailable"}}`, failed},
		{"OpenAI", 524, `{"error":{"code":524,"message":"Gateway timeout.","param":null,"type":"cf_gateway_timeout"}}`, timeout},
		{"OpenAI", 500, `{"error":{"message":"The server had an error while processing your request. Sorry about that!","type":"image_generation_server_error","param":null,"code":null}}`, failed},
		{"OpenAI", 400, `{"error":{"message":"Billing hard limit has been reached.","type":"billing_limit_user_error","param":null,"code":"billing_hard_limit_reached"}}`, noQuota},
		{"OpenAI", 429, `{"error":{"message":"Rate limit reached for gpt-image-1 (for limit gpt-image) in organization org-x on input-images per min: Limit 5, Used 5, Requested 1.","type":"input-images","param":null,"code":"rate_limit_exceeded"}}`, limited},
		{"OpenAI", 400, `{"error":{"message":"The model 'gpt-image-9' does not exist.","type":"invalid_request_error","param":"model","code":"model_not_found"}}`, refused},
		{"OpenAI", 401, `{"error":{"message":"Your account has been deactivated.","type":"invalid_request_error","param":null,"code":"account_deactivated"}}`, badKey},
		{"Cloudflare", 520, `{"type":"https://developers.cloudflare.com/x","title":"Error 520: Web server returns an unknown error","status":520,"detail":"The origin returned an empty response.","error_code":520,"cloudflare_error":true,"retryable":true}`, unclear},
		{"Cloudflare", 522, `{"title":"Error 522: Connection timed out","status":522,"error_code":522,"cloudflare_error":true}`, unclear},
		{"Cloudflare", 521, `{"title":"Error 521: Web server is down","status":521,"error_code":521,"cloudflare_error":true}`, down},
		{"Cloudflare", 429, `{"title":"Error 1015: You are being rate limited","status":429,"detail":"You are being rate-limited by the website owner.","error_code":1015,"cloudflare_error":true}`, limited},
		// gateways that answer in JSON
		{"Kong", 502, `{"message":"An invalid response was received from the upstream server","request_id":"x"}`, unclear},
		{"Kong", 504, `{"message":"The upstream server is timing out"}`, timeout},
		{"API Gateway", 502, `{"message": "Internal server error"}`, unclear},
		{"API Gateway", 504, `{"message": "Endpoint request timed out"}`, timeout},
		{"API Gateway", 403, `{"message":"Missing Authentication Token"}`, blocked},
		// Azure OpenAI
		{"Azure", 404, `{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again."}}`, refused},
		{"Azure", 400, `{"error":{"code":"OperationNotSupported","message":"The imageGenerations operation does not work with the specified model, gpt-4o. Please choose different model and try again."}}`, refused},
		{"Azure", 400, `{"error":{"code":"contentFilter","message":"Your task failed as a result of our safety system.","inner_error":{"code":"ResponsibleAIPolicyViolation"}}}`, moderated},
		{"Azure", 429, `{"error":{"code":"429","message":"Requests to the ImageGenerations_Create Operation have exceeded call rate limit of your current OpenAI S0 pricing tier. Please retry after 16 seconds."}}`, limited},
		{"Azure", 401, `{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint."}}`, badKey},
		// Google's API in OpenAI's form
		{"Gemini", 400, `[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}]`, badKey},
		{"Gemini", 400, `[{"error":{"code":400,"message":"API key expired. Please renew the API key.","status":"INVALID_ARGUMENT"}}]`, badKey},
		{"Gemini", 404, `[{"error":{"code":404,"message":"models/imagen-9 is not found for API version v1main, or is not supported for predict.","status":"NOT_FOUND"}}]`, refused},
		// Alibaba Cloud
		{"DashScope", 400, `{"error":{"code":"Arrearage","param":null,"message":"Access denied, please make sure your account is in good standing.","type":"Arrearage"}}`, noQuota},
		{"DashScope", 403, `{"code":"Model.AccessDenied","message":"Model access denied.","request_id":"x"}`, refused},
		{"DashScope", 403, `{"code":"AccessDenied.Unpurchased","message":"Access to model denied. Please make sure you are eligible for using the model."}`, refused},
		{"DashScope", 400, `{"code":"InvalidParameter","message":"Model not exist.","request_id":"x"}`, refused},
		{"DashScope", 403, `{"error":{"code":"AllocationQuota.FreeTierOnly","message":"The free tier of the model has been exhausted. If you wish to continue access the model on a paid basis, please disable the use free tier only mode in the management console."}}`, refused},
		{"DashScope", 429, `{"code":"Throttling.RateQuota","message":"Requests rate limit exceeded, please try again later.","request_id":"x"}`, limited},
		{"DashScope", 401, `{"code":"InvalidApiKey","message":"Invalid API-key provided.","request_id":"x"}`, badKey},
		{"DashScope", 400, `{"code":"DataInspectionFailed","message":"Input data may contain inappropriate content.","request_id":"x"}`, moderated},
		{"DashScope", 400, `{"code":"InvalidParameter","message":"url error, please check url！","request_id":"x"}`, notFound},
		// Volcengine
		{"Ark", 404, `{"error":{"code":"ModelNotOpen","message":"Your account 21 has not activated the model doubao-seedream-4-0. Please activate the model service in the Ark Console.","param":"","type":"NotFound"}}`, refused},
		{"Ark", 404, `{"error":{"code":"InvalidEndpointOrModel.NotFound","message":"The model or endpoint x does not exist or you do not have access to it.","type":"NotFound"}}`, refused},
		{"Ark", 400, `{"error":{"code":"InvalidEndpoint.ClosedEndpoint","message":"The request targeted an endpoint that is currently closed or temporarily unavailable.","type":"BadRequest"}}`, refused},
		{"Ark", 403, `{"error":{"code":"AccountOverdueError","message":"The request failed because your account has an overdue balance.","type":"Forbidden"}}`, noQuota},
		{"Ark", 400, `{"error":{"code":"OutputImageSensitiveContentDetected","message":"The request failed because the output image may contain sensitive information.","type":"BadRequest"}}`, moderated},
		{"Ark", 400, `{"error":{"code":"InputTextRiskDetection","message":"The request could not be processed because the input text includes sensitive content that violates ContentSecurityDetection.","type":"BadRequest"}}`, moderated},
		{"Ark", 429, `{"error":{"code":"ServerOverloaded","message":"The service is currently unable to handle additional requests due to server overload.","type":"TooManyRequests"}}`, limited},
		// SiliconFlow
		{"SiliconFlow", 403, `{"code":30003,"message":"Model disabled.","data":null}`, refused},
		{"SiliconFlow", 401, `"Invalid token"`, badKey},
		{"SiliconFlow", 429, `{"message":"Request was rejected due to rate limiting. If you want more, please contact contact@siliconflow.cn","data":null}`, limited},
		{"SiliconFlow", 503, `{"code":50505,"message":"Model service overloaded. Please try again later.","data":null}`, failed},
		// OpenRouter
		{"OpenRouter", 403, `{"error":{"code":403,"message":"Your chosen model requires moderation and your input was flagged","metadata":{"reasons":["violence"],"flagged_input":"x"}}}`, moderated},
		{"OpenRouter", 404, `{"error":{"message":"No endpoints found for x/y.","code":404}}`, refused},
		{"OpenRouter", 400, `{"error":{"message":"x/y is not a valid model ID","code":400}}`, refused},
		{"OpenRouter", 402, `{"error":{"message":"Insufficient credits. Add more using https://openrouter.ai/settings/credits","code":402}}`, noQuota},
		{"OpenRouter", 403, `{"error":{"message":"Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys","code":403}}`, noQuota},
		// xAI
		{"xAI", 403, `{"code":"The caller does not have permission to execute the specified operation","error":"Your team x has either used all available credits or reached its monthly spending limit."}`, noQuota},
		{"xAI", 404, `{"code":"Some requested entity was not found","error":"The model grok-9-image does not exist or your team x does not have access to it."}`, refused},
		{"xAI", 400, `{"code":"Client specified an invalid argument","error":"Generated image rejected by content moderation."}`, moderated},
		// Zhipu
		{"Zhipu", 429, `{"error":{"code":"1113","message":"您的账户已欠费，请充值后重试。"}}`, noQuota},
		{"Zhipu", 400, `{"error":{"code":"1301","message":"系统检测到输入或生成内容可能包含不安全或敏感内容，请您避免输入易产生敏感内容的提示语，感谢您的配合"}}`, moderated},
		{"Zhipu", 400, `{"error":{"code":"1211","message":"模型不存在，请检查模型代码。"}}`, refused},
		{"Zhipu", 403, `{"error":{"code":"1121","message":"账户存违规行为，账号已被锁定"}}`, blocked},
		{"Zhipu", 429, `{"error":{"code":"1302","message":"您的账户已达到速率限制，请您控制请求频率"}}`, limited},
		// Baidu and Huawei
		{"Qianfan", 400, `{"error":{"code":"invalid_model","message":"The model does not exist or you do not have access to it.","type":"invalid_request_error"}}`, refused},
		{"Huawei", 404, `{"error_code":"ModelArts.81009","error_msg":"Invalid model."}`, refused},
		{"Huawei", 401, `{"error_code":"ModelArts.81005","error_msg":"The free quota has been used up."}`, noQuota},
		// relays
		{"one-api", 429, `{"error":{"message":"当前分组上游负载已饱和，请稍后再试 (request id: 2025)","type":"one_api_error","param":"","code":null}}`, limited},
		{"relay", 500, `{"error":{"message":"当前模型 gpt-image-1 负载已经达到上限，请稍后重试","type":"shell_api_error","code":""}}`, limited},
		{"relay", 400, `{"error":{"message":"图片检测系统认为内容可能违反了相关政策，请修改提示词","type":"shell_api_error"}}`, moderated},
		{"relay", 403, `{"error":{"message":"[sk-sampl***wxyz] 该令牌额度已用尽 !token.UnlimitedQuota && token.RemainQuota = -1","type":"new_api_error"}}`, noQuota},
		{"relay", 403, `{"error":{"message":"token quota is not enough, token remain quota: ＄0.02, need quota: ＄0.04","type":"new_api_error","code":"pre_consume_token_quota_failed"}}`, noQuota},
		{"relay", 503, `{"error":{"message":"No available channels for model gpt-image-1 under current group","type":"api_error"}}`, refused},
		{"sub2api", 502, `{"error":{"type":"upstream_error","message":"Upstream request failed"}}`, failed},
		{"sub2api", 503, `{"error":{"type":"api_error","message":"No available accounts"}}`, failed},
		{"relay", 200, `{"error":{"code":"upstream_error","message":"upstream error: do request failed","type":"upstream_error"}}`, failed},
		{"FastAPI", 422, `{"detail":[{"type":"missing","loc":["body","prompt"],"msg":"Field required","input":{},"url":"https://errors.pydantic.dev/2.5/v/missing"}]}`, request},
	} {
		c := sampleClient(t, sample{each.status, http.Header{"Content-Type": {"application/json"}}, each.body}.response)
		_, err := c.Generate(t.Context(), Request{Prompt: "a private wish"}, io.Discard)
		e, ok := err.(*task.Error) //nolint:errorlint // Generate promises the type
		require.True(t, ok, "%s %d %s: %v", each.from, each.status, each.body, err)
		assert.Equal(t, each.want, want{e.Code, e.Disposition, e.Scope, e.Unknown}, "%s %d %s: %v", each.from, each.status, each.body, e)
	}
}
