package finding

import (
	"imagetasks/pkg/lang"
	"imagetasks/pkg/task"
)

// Hint is what a failure means in one plain sentence, and what to do about it in another.
type Hint struct{ Cause, Fix lang.Text }

// HintFor returns the hint for a cause; false: it has none.
func HintFor(code task.Code) (Hint, bool) {
	h, ok := hints()[code]
	return h, ok
}

func hints() map[task.Code]Hint {
	hint := func(cause, mend, causeZH, mendZH string) Hint {
		return Hint{Cause: lang.Text{EN: cause, ZH: causeZH}, Fix: lang.Text{EN: mend, ZH: mendZH}}
	}
	return map[task.Code]Hint{
		task.CodeSettings: hint(
			"A setting is missing, or can't be used.",
			"Correct it in .env, or in the environment, which wins over it; .env.example describes each.",
			"有一项设置缺失或无法使用。",
			"在 .env 或环境变量中改正（环境变量优先）；.env.example 说明了每一项。"),
		task.CodeDirectName: hint(
			"No proxy is set, and the API's name is not known here.",
			"Check OPENAI_BASE_URL and this host's DNS; where names are filtered, set OPENAI_PROXY to a socks5h or http proxy, which looks them up itself.",
			"没有设置代理，而本机解析不到 API 的域名。",
			"检查 OPENAI_BASE_URL 和本机的 DNS；如果域名解析受到干扰，请把 OPENAI_PROXY 设为 socks5h 或 http 代理，由代理解析域名。"),
		task.CodeDirectRefused: hint(
			"No proxy is set, and nothing listens at the API's address.",
			"Check the host and port in OPENAI_BASE_URL, or set OPENAI_PROXY.",
			"没有设置代理，而 API 的地址上没有服务在监听。",
			"检查 OPENAI_BASE_URL 中的主机和端口，或设置 OPENAI_PROXY。"),
		task.CodeDirectTimeout: hint(
			"No proxy is set, and the API can't be reached directly from here: the packets vanish.",
			"Set OPENAI_PROXY, for example http://127.0.0.1:7890.",
			"没有设置代理，而从这里无法直接到达 API：数据包没有回音。",
			"设置 OPENAI_PROXY，例如 http://127.0.0.1:7890。"),
		task.CodeDirectFailed: hint(
			"No proxy is set, and the direct connection to the API failed.",
			"Check this host's network, or set OPENAI_PROXY.",
			"没有设置代理，而与 API 的直接连接失败。",
			"检查本机网络，或设置 OPENAI_PROXY。"),

		task.CodeProxyName: hint(
			"The proxy's name is not known.",
			"Check the host name in the proxy's URL.",
			"解析不到代理的主机名。",
			"检查代理地址中的主机名。"),
		task.CodeProxyRefused: hint(
			"Nothing listens at the proxy's address.",
			"Start the proxy, or check the port: Clash usually listens on 7890.",
			"代理的地址上没有服务在监听。",
			"启动代理，或检查端口：Clash 通常监听 7890。"),
		task.CodeProxyTimeout: hint(
			"The proxy's host does not answer.",
			"Check that it is up and that no firewall stands between, and the address in the proxy's URL.",
			"代理所在的主机没有响应。",
			"检查该主机是否在线、中间是否有防火墙，以及代理地址是否正确。"),
		task.CodeProxyFailed: hint(
			"The proxy took the connection and closed it without an answer.",
			"Look at the proxy's log; check that the scheme in its URL (http, https, socks5, socks5h) is the one it speaks.",
			"代理接受了连接，却没有回答就关闭了。",
			"查看代理的日志；检查地址中的协议（http、https、socks5、socks5h）是否与代理一致。"),
		task.CodeProxyTLS: hint(
			"TLS with the proxy itself failed.",
			"If it speaks plain HTTP, write http:// in its URL; most proxies do.",
			"与代理本身的 TLS 握手失败。",
			"如果代理使用普通 HTTP，请把地址写成 http://；大多数代理都是如此。"),
		task.CodeProxyLoginMissing: hint(
			"The proxy wants a login, and its URL has none.",
			"Write it into the URL: http://user:password@host:port, special characters as %XX.",
			"代理要求登录，而地址中没有用户名和密码。",
			"把它们写进地址：http://user:password@host:port，特殊字符写成 %XX。"),
		task.CodeProxyLoginRefused: hint(
			"The proxy refuses the login.",
			"Check user and password in its URL; special characters must be written as %XX.",
			"代理拒绝了用户名或密码。",
			"检查地址中的用户名和密码；特殊字符要写成 %XX。"),
		task.CodeProxyForbids: hint(
			"The proxy forbids connections to the API.",
			"Allow the API's host and port 443 in the proxy's rules, or use another proxy.",
			"代理禁止连接到 API。",
			"在代理的规则中放行 API 的主机和 443 端口，或换一个代理。"),
		task.CodeProxyTarget: hint(
			"The proxy works, but can't reach the API itself.",
			"Check the proxy's own way out: its upstream, node or subscription.",
			"代理本身正常，但它到不了 API。",
			"检查代理自己的出口：上游、节点或订阅。"),
		task.CodeProxyNoAnswer: hint(
			"The proxy took the connection and never answered the request for a tunnel.",
			"The proxy hangs, or the port speaks another protocol: restart it, and check the scheme in its URL.",
			"代理接受了连接，却一直没有回答建立隧道的请求。",
			"代理可能卡住了，或该端口使用的是另一种协议：重启代理，并检查地址中的协议。"),
		task.CodeProxyNoProxy: hint(
			"What listens at the proxy's address is no such proxy.",
			"Check the port and the scheme in its URL (http, https, socks5, socks5h).",
			"代理地址上的服务不是这种代理。",
			"检查端口和地址中的协议（http、https、socks5、socks5h）。"),

		task.CodeSOCKSFailure: hint(
			"The SOCKS proxy reports a general failure.",
			"Look at the proxy's log, and check its way out.",
			"SOCKS 代理报告一般性故障。",
			"查看代理的日志，并检查它的出口。"),
		task.CodeSOCKSNotAllowed: hint(
			"The SOCKS proxy's rules forbid connections to the API.",
			"Allow the API's host in the proxy's rules, or use another proxy.",
			"SOCKS 代理的规则禁止连接到 API。",
			"在代理的规则中放行 API 的主机，或换一个代理。"),
		task.CodeSOCKSNetwork: hint(
			"The SOCKS proxy can't reach the API's network.",
			"Check the proxy's way out; with socks5:// try socks5h://, so that the proxy looks the name up.",
			"SOCKS 代理到不了 API 所在的网络。",
			"检查代理的出口；如果用的是 socks5://，试试 socks5h://，让代理解析域名。"),
		task.CodeSOCKSHost: hint(
			"The SOCKS proxy can't reach the API's host.",
			"Check the proxy's way out; with socks5:// try socks5h://, so that the proxy looks the name up.",
			"SOCKS 代理到不了 API 的主机。",
			"检查代理的出口；如果用的是 socks5://，试试 socks5h://，让代理解析域名。"),
		task.CodeSOCKSRefused: hint(
			"The SOCKS proxy was refused by the API's address.",
			"Check host and port in OPENAI_BASE_URL, and the proxy's way out.",
			"API 的地址拒绝了 SOCKS 代理的连接。",
			"检查 OPENAI_BASE_URL 中的主机和端口，以及代理的出口。"),
		task.CodeSOCKSExpired: hint(
			"The SOCKS proxy's packets to the API expire on their way.",
			"Check the proxy's way out.",
			"SOCKS 代理发往 API 的数据包在途中过期。",
			"检查代理的出口。"),
		task.CodeSOCKSCommand: hint(
			"The SOCKS proxy doesn't know CONNECT.",
			"Use another proxy, or its http port.",
			"SOCKS 代理不支持 CONNECT。",
			"换一个代理，或使用它的 http 端口。"),
		task.CodeSOCKSAddressType: hint(
			"The SOCKS proxy doesn't take this kind of address.",
			"Write socks5h:// instead of socks5://, or the reverse.",
			"SOCKS 代理不接受这种地址。",
			"把 socks5:// 改为 socks5h://，或反过来。"),

		task.CodeTLSAuthority: hint(
			"The certificate is signed by an authority that this host doesn't know: something between intercepts TLS, or a certificate is missing.",
			"If the issuer named is your own company's or proxy's, put its certificate into a file and set SSL_CERT_FILE to it; if not, use another proxy.",
			"证书由本机不认识的机构签发：中间有设备在拦截 TLS，或缺少证书。",
			"如果上面的签发者是您自己公司或代理的，请把它的证书存为文件，并把 SSL_CERT_FILE 设为该文件；否则请换一个代理。"),
		task.CodeTLSHost: hint(
			"The certificate is another host's: what answers is not the API.",
			"Check the host in OPENAI_BASE_URL; if it is right, something between answers in its place: use another proxy.",
			"证书属于另一台主机：应答的不是 API。",
			"检查 OPENAI_BASE_URL 中的主机；如果没错，就是中间有设备代答：请换一个代理。"),
		task.CodeTLSExpired: hint(
			"The certificate has expired, or is not valid yet.",
			"Check this host's clock; if it is right, the API's certificate is at fault.",
			"证书已过期，或尚未生效。",
			"检查本机的时间；如果时间正确，就是 API 的证书有问题。"),
		task.CodeTLSReset: hint(
			"The connection was cut in the TLS handshake, which is the usual sign of filtering.",
			"Set OPENAI_PROXY to a proxy outside the filter, or use another one.",
			"连接在 TLS 握手中被切断，这通常是遭到过滤的迹象。",
			"把 OPENAI_PROXY 设为过滤范围之外的代理，或换一个代理。"),
		task.CodeTLSTimeout: hint(
			"The TLS handshake got no answer in time.",
			"The way is very slow, or what answers speaks no TLS: try another proxy, or raise TLS_TIMEOUT.",
			"TLS 握手没有在时限内得到回答。",
			"线路很慢，或对方不使用 TLS：换一个代理，或调大 TLS_TIMEOUT。"),
		task.CodeTLSNotSpoken: hint(
			"What answers at the API's address speaks no TLS.",
			"Check OPENAI_BASE_URL: is it http:// rather than https://, or another port?",
			"API 地址上的服务不使用 TLS。",
			"检查 OPENAI_BASE_URL：是否应为 http:// 而不是 https://，或端口不对？"),
		task.CodeTLSFailed: hint(
			"The TLS handshake with the API failed.",
			"Try another proxy; where the API is your own, look at its TLS settings.",
			"与 API 的 TLS 握手失败。",
			"换一个代理；如果 API 是您自己的，请检查它的 TLS 设置。"),

		task.CodeUnauthorized: hint(
			"The API refuses the key.",
			"Check OPENAI_API_KEY: is it whole, still valid, and of this API?",
			"API 拒绝了密钥。",
			"检查 OPENAI_API_KEY：是否完整、仍然有效，并且属于这个 API？"),
		task.CodeForbidden: hint(
			"The API refuses access.",
			"Check what the key is allowed to do, and the proxy's exit.",
			"API 拒绝访问。",
			"检查密钥的权限，以及代理的出口。"),
		task.CodeWrongCountry: hint(
			"The proxy's exit is in a country that the API doesn't serve.",
			"Use a proxy, or a node of it, with its exit elsewhere.",
			"代理的出口位于 API 不提供服务的国家或地区。",
			"换用出口在别处的代理或节点。"),
		task.CodeWrongAddress: hint(
			"There is no such API at this address.",
			"Check OPENAI_BASE_URL: it ends in /v1.",
			"这个地址上没有这样的 API。",
			"检查 OPENAI_BASE_URL：它以 /v1 结尾。"),
		task.CodeNoQuota: hint(
			"The API's account has no quota left.",
			"Add credit to the account, or raise its limit.",
			"API 账户的额度已用尽。",
			"给账户充值，或提高限额。"),
		task.CodeRateLimited: hint(
			"The API's rate limit is reached.",
			"Wait; lower TASK_CONCURRENCY, or have the limit raised.",
			"达到了 API 的速率限制。",
			"稍候；调低 TASK_CONCURRENCY，或申请提高限制。"),
		task.CodeServer: hint(
			"The API itself has failed.",
			"Wait and try again.",
			"API 自身出错。",
			"稍后再试。"),
		task.CodeBadRequest: hint(
			"The API refused the request.",
			"Check OPENAI_MODEL and OPENAI_BASE_URL.",
			"API 拒绝了请求。",
			"检查 OPENAI_MODEL 和 OPENAI_BASE_URL。"),
		task.CodeModeration: hint(
			"The prompt was refused by moderation.",
			"Use another prompt.",
			"提示词未通过内容审核。",
			"换一个提示词。"),
		task.CodeBadAnswer: hint(
			"The API's answer can't be understood.",
			"Is what stands at OPENAI_BASE_URL an Images API? Check OPENAI_MODEL too.",
			"无法理解 API 的回答。",
			"OPENAI_BASE_URL 上的是图像 API 吗？也请检查 OPENAI_MODEL。"),
		task.CodeWebPage: hint(
			"A web page came where JSON was expected: something between answers in the API's place, or the address is wrong.",
			"Check OPENAI_BASE_URL; look at what the proxy or the network's login page says.",
			"应当是 JSON 的地方来了一个网页：中间有设备代替 API 应答，或地址有误。",
			"检查 OPENAI_BASE_URL；看看代理或网络的登录页说了什么。"),
		task.CodeCutOff: hint(
			"The answer was cut off.",
			"The connection is unstable: try another proxy.",
			"回答被中途切断。",
			"连接不稳定：换一个代理。"),
		task.CodeTimeout: hint(
			"The answer did not come in time.",
			"Try again; raise FIRST_BYTE_TIMEOUT or TASK_TIMEOUT, or use a faster proxy.",
			"回答没有在时限内到达。",
			"再试一次；调大 FIRST_BYTE_TIMEOUT 或 TASK_TIMEOUT，或使用更快的代理。"),
		task.CodeNetwork: hint(
			"The connection broke while the API was at work.",
			"The connection is unstable: try again, or use another proxy.",
			"API 工作期间连接中断。",
			"连接不稳定：再试一次，或换一个代理。"),
		task.CodeNotAPicture: hint(
			"What the API made is not a picture.",
			"Check OPENAI_MODEL: does it make pictures?",
			"API 生成的不是图片。",
			"检查 OPENAI_MODEL：它能生成图片吗？"),
		task.CodeTooLarge: hint(
			"The picture is larger than allowed.",
			"Raise IMAGE_MAX_BYTES.",
			"图片超过了允许的大小。",
			"调大 IMAGE_MAX_BYTES。"),
		task.CodePictureStore: hint(
			"The picture can't be written.",
			"Check the disk and the directory's permissions.",
			"图片无法写入。",
			"检查磁盘空间和目录权限。"),
		task.CodeInternal: hint(
			"Something went wrong that has no name here.",
			"The line above says what; look at the log, too.",
			"发生了没有专门名称的错误。",
			"上面一行说明了原因；也请查看日志。"),
	}
}
