package finding

import (
	"imagetasks/pkg/lang"
	"imagetasks/pkg/task"
)

// Hint explains a failure: what it means, and how to fix it.
type Hint struct{ Cause, Fix lang.Text }

// HintFor returns the hint for an error code, and false if there is none.
func HintFor(code task.Code) (Hint, bool) {
	h, ok := hints()[code]
	return h, ok
}

func hints() map[task.Code]Hint {
	hint := func(cause, fix, causeZH, fixZH string) Hint {
		return Hint{Cause: lang.Text{EN: cause, ZH: causeZH}, Fix: lang.Text{EN: fix, ZH: fixZH}}
	}
	return map[task.Code]Hint{
		task.CodeSettings: hint(
			"A setting is missing or invalid.",
			"Correct it in .env or in the environment, which takes precedence, or in the file that the message names. .env.example and imagetasks.example.toml describe every setting.",
			"有设置项缺失或无效。",
			"请在 .env、环境变量（优先于 .env）或消息所指的文件中更正。各设置项的说明见 .env.example 和 imagetasks.example.toml。"),
		task.CodeDirectName: hint(
			"No proxy is set, and this host can't resolve the API's host name.",
			"Check OPENAI_BASE_URL and this host's DNS. If the network filters DNS, set OPENAI_PROXY to a socks5h or http proxy: these resolve the name themselves.",
			"未设置代理，且本机无法解析 API 的域名。",
			"请检查 OPENAI_BASE_URL 和本机的 DNS。如果网络干扰域名解析，请将 OPENAI_PROXY 设为 socks5h 或 http 代理，由代理解析域名。"),
		task.CodeDirectRefused: hint(
			"No proxy is set, and the API's address refuses connections.",
			"Check the host and port in OPENAI_BASE_URL, or set OPENAI_PROXY.",
			"未设置代理，且 API 的地址拒绝连接。",
			"请检查 OPENAI_BASE_URL 中的主机和端口，或设置 OPENAI_PROXY。"),
		task.CodeDirectTimeout: hint(
			"No proxy is set, and the API does not respond to a direct connection: packets are dropped on the network.",
			"Set OPENAI_PROXY, for example to http://127.0.0.1:7890.",
			"未设置代理，且直连 API 超时：数据包在网络中被丢弃。",
			"请设置 OPENAI_PROXY，例如 http://127.0.0.1:7890。"),
		task.CodeDirectFailed: hint(
			"No proxy is set, and the direct connection to the API failed.",
			"Check this host's network, or set OPENAI_PROXY.",
			"未设置代理，且直连 API 失败。",
			"请检查本机网络，或设置 OPENAI_PROXY。"),

		task.CodeProxyName: hint(
			"The proxy's host name can't be resolved.",
			"Check the host name in the proxy URL.",
			"无法解析代理的主机名。",
			"请检查代理地址中的主机名。"),
		task.CodeProxyRefused: hint(
			"The proxy's address refuses connections: no program listens there.",
			"Start the proxy, or check the port in its URL. Clash listens on 7890 by default.",
			"代理地址拒绝连接：没有程序在监听。",
			"请启动代理，或检查代理地址中的端口。Clash 默认监听 7890 端口。"),
		task.CodeProxyTimeout: hint(
			"The proxy's host does not respond.",
			"Check that the host is running, that no firewall blocks it, and that the address in the proxy URL is correct.",
			"代理所在的主机没有响应。",
			"请检查该主机是否正常运行、是否被防火墙拦截，以及代理地址是否正确。"),
		task.CodeProxyFailed: hint(
			"The proxy accepted the connection and closed it without a response.",
			"Check the proxy's log. Check that the scheme in the proxy URL (http, https, socks5, socks5h) matches the proxy.",
			"代理接受了连接，但没有响应就将其关闭。",
			"请查看代理的日志，并检查代理地址中的协议（http、https、socks5、socks5h）是否与代理一致。"),
		task.CodeProxyTLS: hint(
			"The program at the address of the https proxy does not speak TLS.",
			"If the proxy uses plain HTTP, as most do, write http:// in its URL. Otherwise check the port.",
			"https 代理的地址上的程序不使用 TLS。",
			"如果代理使用普通 HTTP（多数代理如此），请在代理地址中使用 http://。否则请检查端口。"),
		task.CodeProxyCertificate: hint(
			"The certificate of the https proxy is not accepted: its authority is unknown, it belongs to another host, or it has expired.",
			"If the authority is your own, save its certificate in a file and set SSL_CERT_FILE to that file, in .env. "+
				"Otherwise write the host name of the certificate in the proxy URL, and check this host's clock.",
			"https 代理的证书未被接受：签发机构不受信任、证书属于其他主机，或证书已过期。",
			"如果签发机构是您自己的，请将其证书保存为文件，并在 .env 中将 SSL_CERT_FILE 设为该文件。否则请在代理地址中使用证书中的主机名，并检查本机的系统时间。"),
		task.CodeProxyTLSRefused: hint(
			"The https proxy refuses the TLS handshake: it requires a client certificate, or only supports versions before TLS 1.2.",
			"Check the proxy's log and its TLS settings.",
			"https 代理拒绝 TLS 握手：代理要求客户端证书，或仅支持 TLS 1.2 之前的版本。",
			"请查看代理的日志和 TLS 设置。"),
		task.CodeProxyNeedsTLS: hint(
			"The program at the address of the http proxy speaks TLS: it is an https proxy, or a web server.",
			"If it is an https proxy, write https:// in its URL. Otherwise check the port.",
			"http 代理的地址上的程序使用 TLS：它是 https 代理，或者是 Web 服务器。",
			"如果它是 https 代理，请在代理地址中使用 https://。否则请检查端口。"),
		task.CodeProxyLoginMissing: hint(
			"The proxy requires a login, and its URL has none.",
			"Add the login to the URL: http://user:password@host:port. Write special characters as %XX.",
			"代理要求认证，但代理地址中没有用户名和密码。",
			"请在代理地址中填写用户名和密码：http://user:password@host:port，特殊字符写成 %XX。"),
		task.CodeProxyLoginRefused: hint(
			"The proxy rejects the login.",
			"Check the user and password in the proxy URL. Special characters must be written as %XX.",
			"代理认证失败。",
			"请检查代理地址中的用户名和密码，特殊字符必须写成 %XX。"),
		task.CodeProxyForbids: hint(
			"The proxy does not allow connections to the API.",
			"Allow the API's host and port 443 in the proxy's rules, or use another proxy.",
			"代理不允许连接 API。",
			"请在代理的规则中放行 API 的主机和 443 端口，或更换代理。"),
		task.CodeProxyTarget: hint(
			"The proxy is running, but can't reach the API.",
			"Check the proxy's upstream: its node, its subscription, or its own network.",
			"代理运行正常，但无法连接 API。",
			"请检查代理的上游：节点、订阅或代理所在的网络。"),
		task.CodeProxyNoAnswer: hint(
			"The proxy accepted the connection and did not respond to the request.",
			"The proxy may be hung, its node may not respond, or the port may use another protocol. Restart the proxy, and check the scheme in its URL.",
			"代理接受了连接，但没有响应请求。",
			"代理可能已挂起，其节点可能没有响应，或该端口使用其他协议。请重启代理，并检查代理地址中的协议。"),
		task.CodeProxyTunnelClosed: hint(
			"The proxy opened the tunnel and closed it before the API responded. Clash, sing-box and v2ray open a tunnel before they have connected, "+
				"and close it when the node that their rules choose does not reach the API.",
			"Check which node the proxy's rules choose for the API's host, whether this node works, and the proxy's log. "+
				"If the proxy is remote and not https, the network may have cut the connection: use another proxy.",
			"代理建立了隧道，但在 API 响应之前将其关闭。Clash、sing-box 和 v2ray 在连接目标之前就建立隧道，如果规则选择的节点无法连接 API，则将其关闭。",
			"请检查代理的规则为 API 的主机选择了哪个节点、该节点是否可用，以及代理的日志。如果代理在远端且不是 https 代理，也可能是网络切断了连接，请更换代理。"),
		task.CodeProxyNoProxy: hint(
			"The program at the proxy's address is not a proxy of this type: a web server, for example.",
			"Check the port and the scheme in the proxy URL (http, https, socks5, socks5h). An http proxy must allow CONNECT if the API is at https://. "+
				"If it redirects to the login page of a network, log in there.",
			"代理地址上的程序不是这种类型的代理，例如是 Web 服务器。",
			"请检查代理地址中的端口和协议（http、https、socks5、socks5h）。如果 API 的地址是 https://，http 代理必须允许 CONNECT。如果它重定向到网络的登录页，请先登录。"),

		task.CodeSOCKSFailure: hint(
			"The SOCKS proxy reports a general failure.",
			"Check the proxy's log, and its upstream: its node, its subscription, or its own network.",
			"SOCKS 代理返回一般性错误。",
			"请查看代理的日志，并检查代理的上游：节点、订阅或代理所在的网络。"),
		task.CodeSOCKSNotAllowed: hint(
			"The rules of the SOCKS proxy do not allow connections to the API.",
			"Allow the API's host in the proxy's rules, or use another proxy.",
			"SOCKS 代理的规则不允许连接 API。",
			"请在代理的规则中放行 API 的主机，或更换代理。"),
		task.CodeSOCKSNetwork: hint(
			"The SOCKS proxy can't reach the API's network.",
			"Check the proxy's upstream. If the URL has socks5://, try socks5h://, so that the proxy resolves the name.",
			"SOCKS 代理无法到达 API 所在的网络。",
			"请检查代理的上游。如果代理地址使用 socks5://，可以改为 socks5h://，由代理解析域名。"),
		task.CodeSOCKSHost: hint(
			"The SOCKS proxy can't reach the API's host.",
			"Check the proxy's upstream. If the URL has socks5://, try socks5h://, so that the proxy resolves the name.",
			"SOCKS 代理无法到达 API 的主机。",
			"请检查代理的上游。如果代理地址使用 socks5://，可以改为 socks5h://，由代理解析域名。"),
		task.CodeSOCKSRefused: hint(
			"The API's address refused the connection of the SOCKS proxy.",
			"Check the host and port in OPENAI_BASE_URL, and the proxy's upstream.",
			"API 的地址拒绝了 SOCKS 代理的连接。",
			"请检查 OPENAI_BASE_URL 中的主机和端口，以及代理的上游。"),
		task.CodeSOCKSExpired: hint(
			"The TTL of the SOCKS proxy's packets expired before they reached the API.",
			"Check the proxy's upstream.",
			"SOCKS 代理发往 API 的数据包在途中 TTL 超时。",
			"请检查代理的上游。"),
		task.CodeSOCKSCommand: hint(
			"The SOCKS proxy does not support CONNECT.",
			"Use another proxy, or the HTTP port of this one.",
			"SOCKS 代理不支持 CONNECT。",
			"请更换代理，或使用该代理的 HTTP 端口。"),
		task.CodeSOCKSAddressType: hint(
			"The SOCKS proxy does not support this type of address.",
			"Replace socks5:// with socks5h:// in the proxy URL, or the reverse.",
			"SOCKS 代理不支持这种地址类型。",
			"请将代理地址中的 socks5:// 改为 socks5h://，或反之。"),

		task.CodeTLSAuthority: hint(
			"The certificate is signed by an authority that this host does not trust: a device on the network intercepts TLS, or a root certificate is missing.",
			"If the issuer is your company or your proxy, save its certificate in a file and set SSL_CERT_FILE to that file, in .env. Otherwise use another proxy.",
			"证书由本机不信任的机构签发：网络中有设备拦截 TLS，或本机缺少根证书。",
			"如果签发者是您的公司或代理，请将其证书保存为文件，并在 .env 中将 SSL_CERT_FILE 设为该文件。否则请更换代理。"),
		task.CodeTLSHost: hint(
			"The certificate belongs to another host: the server that responds is not the API.",
			"Check the host in OPENAI_BASE_URL. If it is correct, a device on the network responds in place of the API: use another proxy.",
			"证书属于其他主机：响应的服务器不是 API。",
			"请检查 OPENAI_BASE_URL 中的主机。如果主机正确，则网络中有设备冒充 API 响应，请更换代理。"),
		task.CodeTLSExpired: hint(
			"The certificate has expired or is not yet valid.",
			"Check this host's clock. If it is correct, the API's certificate is invalid.",
			"证书已过期或尚未生效。",
			"请检查本机的系统时间。如果时间正确，则是 API 的证书无效。"),
		task.CodeTLSReset: hint(
			"The connection was reset during the TLS handshake. Without a proxy this usually means that the network filters connections to the API.",
			"Set OPENAI_PROXY to a proxy outside the filtered network, or use another proxy.",
			"连接在 TLS 握手期间被重置。未使用代理时，这通常表示网络对 API 的连接进行了过滤。",
			"请将 OPENAI_PROXY 设为受过滤网络之外的代理，或更换代理。"),
		task.CodeTLSTimeout: hint(
			"The TLS handshake did not complete in time.",
			"The proxy's node does not reach the API, the connection is very slow, or the server does not use TLS. Check the node, use another proxy, or raise TLS_TIMEOUT.",
			"TLS 握手超时。",
			"代理的节点无法连接 API、网络很慢，或对方不使用 TLS。请检查节点、更换代理，或调大 TLS_TIMEOUT。"),
		task.CodeTLSNotSpoken: hint(
			"The server at the API's address does not use TLS.",
			"Check OPENAI_BASE_URL: is it http:// instead of https://, or is the port wrong?",
			"API 地址上的服务器不使用 TLS。",
			"请检查 OPENAI_BASE_URL：是否应使用 http:// 而不是 https://，或端口有误？"),
		task.CodeTLSFailed: hint(
			"The TLS handshake with the API failed.",
			"Use another proxy. If the API is your own, check its TLS settings.",
			"与 API 的 TLS 握手失败。",
			"请更换代理。如果 API 由您自己部署，请检查其 TLS 设置。"),

		task.CodeUnauthorized: hint(
			"The API rejects the key.",
			"Check OPENAI_API_KEY: is it complete, still valid, and a key of this API?",
			"API 拒绝了密钥。",
			"请检查 OPENAI_API_KEY：是否完整、是否仍然有效、是否属于该 API？"),
		task.CodeForbidden: hint(
			"The API denies access.",
			"Check the permissions of the key, and the exit address of the proxy.",
			"API 拒绝访问。",
			"请检查密钥的权限，以及代理的出口地址。"),
		task.CodeWrongCountry: hint(
			"The exit of the proxy is in a country or region that the API does not serve.",
			"Use a proxy, or a node of this proxy, whose exit is in another country.",
			"代理的出口位于 API 不提供服务的国家或地区。",
			"请更换代理或节点，使出口位于其他国家或地区。"),
		task.CodeWrongAddress: hint(
			"There is no such API at this address.",
			"Check OPENAI_BASE_URL: it usually ends with /v1.",
			"该地址上没有此 API。",
			"请检查 OPENAI_BASE_URL：通常以 /v1 结尾。"),
		task.CodeNoQuota: hint(
			"The quota of the API account is used up.",
			"Add credit to the account, or raise its limit.",
			"API 账户的额度已用尽。",
			"请为账户充值，或提高限额。"),
		task.CodeModelRefused: hint(
			"The API does not make pictures with this model for this account.",
			"Check OPENAI_MODEL: does the API have this model? For some models the account's organization must be verified, or a relay needs a channel.",
			"该 API 不为此账户提供此模型的图片生成。",
			"请检查 OPENAI_MODEL：API 是否有该模型？部分模型要求账户的组织通过验证，或要求中转站配置相应的渠道。"),
		task.CodeRateLimited: hint(
			"The rate limit of the API is reached.",
			"Wait. If it happens often, lower TASK_CONCURRENCY or ask for a higher limit.",
			"已达到 API 的速率限制。",
			"请稍候。如果频繁出现，请调低 TASK_CONCURRENCY，或申请提高限制。"),
		task.CodeServer: hint(
			"The API returned a server error.",
			"Wait, and try again.",
			"API 返回服务器错误。",
			"请稍后重试。"),
		task.CodeBadRequest: hint(
			"The API rejected the request.",
			"Check OPENAI_MODEL and OPENAI_BASE_URL.",
			"API 拒绝了请求。",
			"请检查 OPENAI_MODEL 和 OPENAI_BASE_URL。"),
		task.CodeModeration: hint(
			"The API's content moderation rejected the prompt.",
			"Use another prompt.",
			"提示词未通过 API 的内容审核。",
			"请更换提示词。"),
		task.CodeBadAnswer: hint(
			"The API's response can't be parsed.",
			"Check OPENAI_BASE_URL and OPENAI_MODEL: is this an Images API?",
			"无法解析 API 的响应。",
			"请检查 OPENAI_BASE_URL 和 OPENAI_MODEL：该地址是图像 API 吗？"),
		task.CodeWebPage: hint(
			"The response is a web page instead of JSON: a device on the network responds in place of the API, or the address is wrong.",
			"Check OPENAI_BASE_URL. Check the proxy, and whether the network has a login page. If the page is a check for browsers or a block, use a proxy with another exit.",
			"响应是网页而不是 JSON：网络中有设备代替 API 响应，或地址有误。",
			"请检查 OPENAI_BASE_URL、代理，以及网络是否有登录页。如果网页是浏览器验证或拦截页，请更换出口不同的代理。"),
		task.CodeCutOff: hint(
			"The response was cut off.",
			"The connection is unstable. Use another proxy.",
			"响应不完整，传输中断。",
			"连接不稳定，请更换代理。"),
		task.CodeTimeout: hint(
			"The response did not arrive in time.",
			"Try again. If it happens often, raise FIRST_BYTE_TIMEOUT or TASK_TIMEOUT, or use a faster proxy.",
			"响应超时。",
			"请重试。如果频繁出现，请调大 FIRST_BYTE_TIMEOUT 或 TASK_TIMEOUT，或使用更快的代理。"),
		task.CodeNetwork: hint(
			"The connection broke while a request was in progress.",
			"The connection is unstable. Try again, or use another proxy.",
			"请求处理期间连接中断。",
			"连接不稳定，请重试或更换代理。"),
		task.CodeNotAPicture: hint(
			"The API returned data that is not a picture.",
			"Check OPENAI_MODEL: does this model make pictures?",
			"API 返回的数据不是图片。",
			"请检查 OPENAI_MODEL：该模型能否生成图片？"),
		task.CodePictureLost: hint(
			"The API made the picture at a URL, and its host does not deliver it.",
			"Check that the proxy carries the host that the message names. For http:// URLs set IMAGE_DOWNLOAD_HTTP=on; to go without a proxy, NO_PROXY or IMAGE_DOWNLOAD_DIRECT=on.",
			"API 返回了图片的 URL，但该主机没有提供图片。",
			"请检查代理能否访问消息中的主机。http:// 地址请设置 IMAGE_DOWNLOAD_HTTP=on；不经代理下载请设置 NO_PROXY 或 IMAGE_DOWNLOAD_DIRECT=on。"),
		task.CodeDownload: hint(
			"The API made the picture at a URL, and it could not be fetched yet.",
			"Check that the proxy carries the host that the message names. For http:// URLs set IMAGE_DOWNLOAD_HTTP=on; to go without a proxy, NO_PROXY or IMAGE_DOWNLOAD_DIRECT=on.",
			"API 返回了图片的 URL，但暂时无法下载。",
			"请检查代理能否访问消息中的主机。http:// 地址请设置 IMAGE_DOWNLOAD_HTTP=on；不经代理下载请设置 NO_PROXY 或 IMAGE_DOWNLOAD_DIRECT=on。"),
		task.CodeTooLarge: hint(
			"The picture is larger than IMAGE_MAX_BYTES.",
			"Raise IMAGE_MAX_BYTES.",
			"图片大小超过 IMAGE_MAX_BYTES。",
			"请调大 IMAGE_MAX_BYTES。"),
		task.CodePictureStore: hint(
			"The picture can't be written.",
			"Check the free space on the disk and the permissions of the picture directory.",
			"无法写入图片。",
			"请检查磁盘剩余空间和图片目录的权限。"),
		task.CodeOutcomeUnknown: hint(
			"Requests for the picture were sent, and no whole answer of the API arrived.",
			"Check what breaks the connections: the proxy and its log. If the API is slow, raise FIRST_BYTE_TIMEOUT and TASK_TIMEOUT.",
			"图片请求已发送，但未收到 API 的完整响应。",
			"请检查连接中断的原因：代理及其日志。如果 API 响应较慢，请调大 FIRST_BYTE_TIMEOUT 和 TASK_TIMEOUT。"),
		task.CodeWorkerLost: hint(
			"The processor ended, or lost the database, each time that it had the task.",
			"Look for the cause in task-processor.out, task-processor.log and the kernel's log (out of memory).",
			"处理器每次处理该任务时都退出，或与数据库断开连接。",
			"请在 task-processor.out、task-processor.log 和内核日志（内存不足）中查找原因。"),
		task.CodeBadRow: hint(
			"The database refused to change the task's row.",
			"error_message has the SQLSTATE. Check triggers and constraints that were added to the schema.",
			"数据库拒绝修改该任务的数据行。",
			"error_message 中有 SQLSTATE。请检查为该 schema 添加的触发器和约束。"),
		task.CodeInternal: hint(
			"An error occurred that has no code.",
			"The error message states the reason. Check the log too.",
			"发生了意外错误。",
			"错误信息中有具体原因，也请查看日志。"),
	}
}
