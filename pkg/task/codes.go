package task

// Code is a stable, machine-readable cause, as in the column error_code.
type Code string

// Causes in this program, the queue and the picture.
const (
	CodeInternal       Code = "internal"
	CodeStuck          Code = "stuck"
	CodeWorkerLost     Code = "worker_lost"     // its processor ended again and again while it had the task
	CodeOutcomeUnknown Code = "outcome_unknown" // requests were sent whose outcome is unknown, and no other may be
	CodeBadRow         Code = "bad_row"         // the database refused to change the task
	CodePendingTimeout Code = "pending_timeout" // due for too long without being claimed
	CodeCancelled      Code = "cancelled"
	CodeSuperseded     Code = "superseded"  // the application has closed or deleted the task's row
	CodeHandedBack     Code = "handed_back" // the bridge was removed, and the application works the task itself
	CodeShutdown       Code = "shutdown"
	CodePictureStore   Code = "picture_store"
	CodePictureLost    Code = "picture_lost"            // it was made, and its host does not deliver it any more
	CodeDownload       Code = "picture_download_failed" // it was made, and could not be fetched yet
	CodeNotAPicture    Code = "not_a_picture"
	CodeTooLarge       Code = "picture_too_large"
	CodeBadInput       Code = "bad_input_picture"
	CodeInputTooLarge  Code = "input_picture_too_large"
	CodeBadOptions     Code = "bad_options" // the task's options can't be used with its model; nothing was sent
	// CodeInputUnavailable means that an input picture could not be fetched from its URL. Nothing was sent.
	CodeInputUnavailable Code = "input_picture_unavailable"
)

// CodeSettings means that a setting can't be used. Nothing was tried.
const CodeSettings Code = "bad_settings"

// Causes in the API's response.
const (
	CodeUnauthorized Code = "api_unauthorized"
	CodeForbidden    Code = "api_forbidden"
	CodeWrongCountry Code = "api_wrong_country" // the API does not serve the country of the proxy's exit
	CodeWrongAddress Code = "api_wrong_address" // there is no such API at OPENAI_BASE_URL
	CodeNoQuota      Code = "insufficient_quota"
	CodeModelRefused Code = "api_model_refused" // the API does not make pictures with the model for this account
	CodeRateLimited  Code = "rate_limited"
	CodeServer       Code = "api_server_error"
	CodeModeration   Code = "moderation_blocked"
	CodeBadRequest   Code = "api_bad_request"
	CodeBadAnswer    Code = "api_bad_answer"
	CodeWebPage      Code = "api_web_page"   // HTML where JSON was expected
	CodeCutOff       Code = "api_cut_off"    // an incomplete response
	CodeTimeout      Code = "api_too_slow"   // no response in time
	CodeNetwork      Code = "network_broken" // the connection broke during a request
)

// Why the API could not be reached without a proxy.
const (
	CodeDirectName    Code = "direct_name_unknown"
	CodeDirectRefused Code = "direct_refused"
	CodeDirectTimeout Code = "direct_timeout" // no response to the packets
	CodeDirectFailed  Code = "direct_failed"
)

// Why the proxy could not be used.
const (
	CodeProxyName         Code = "proxy_name_unknown"
	CodeProxyRefused      Code = "proxy_refused" // nothing listens at its address
	CodeProxyTimeout      Code = "proxy_timeout"
	CodeProxyFailed       Code = "proxy_failed"
	CodeProxyTLS          Code = "proxy_tls_failed"  // an https proxy does not speak TLS
	CodeProxyCertificate  Code = "proxy_certificate" // the certificate of an https proxy is not accepted
	CodeProxyTLSRefused   Code = "proxy_tls_refused" // an https proxy speaks TLS and refuses the handshake
	CodeProxyNeedsTLS     Code = "proxy_needs_tls"   // the program at an http proxy's address speaks TLS
	CodeProxyLoginMissing Code = "proxy_login_missing"
	CodeProxyLoginRefused Code = "proxy_login_refused"
	CodeProxyForbids      Code = "proxy_forbids_target"
	CodeProxyTarget       Code = "proxy_cannot_reach_target"
	CodeProxyNoAnswer     Code = "proxy_no_answer"     // no response to CONNECT, SOCKS or a plain request
	CodeProxyTunnelClosed Code = "proxy_tunnel_closed" // the proxy opened a tunnel and closed it before the API sent a byte
	CodeProxyNoProxy      Code = "proxy_is_no_proxy"   // a web server or another program is at the proxy's address
)

// The replies of a SOCKS proxy, 1 to 8 (RFC 1928, section 6).
const (
	CodeSOCKSFailure     Code = "socks_general_failure"
	CodeSOCKSNotAllowed  Code = "socks_not_allowed"
	CodeSOCKSNetwork     Code = "socks_network_unreachable"
	CodeSOCKSHost        Code = "socks_host_unreachable"
	CodeSOCKSRefused     Code = "socks_connection_refused"
	CodeSOCKSExpired     Code = "socks_ttl_expired"
	CodeSOCKSCommand     Code = "socks_command_not_supported"
	CodeSOCKSAddressType Code = "socks_address_type_not_supported"
)

// Why TLS with the API failed.
const (
	CodeTLSAuthority Code = "tls_unknown_authority" // the usual sign of interception
	CodeTLSHost      Code = "tls_wrong_host"
	CodeTLSExpired   Code = "tls_certificate_expired"
	CodeTLSReset     Code = "tls_reset" // the usual sign of filtering
	CodeTLSTimeout   Code = "tls_timeout"
	CodeTLSNotSpoken Code = "tls_not_spoken"
	CodeTLSFailed    Code = "tls_failed"
)

// Codes returns every Code.
func Codes() []Code {
	return []Code{
		CodeInternal, CodeStuck, CodeWorkerLost, CodeOutcomeUnknown, CodeBadRow, CodePendingTimeout, CodeCancelled,
		CodeSuperseded, CodeHandedBack, CodeShutdown, CodePictureStore, CodePictureLost, CodeDownload,
		CodeNotAPicture, CodeTooLarge, CodeBadInput, CodeInputTooLarge, CodeBadOptions, CodeInputUnavailable,
		CodeSettings, CodeUnauthorized, CodeForbidden, CodeWrongCountry, CodeWrongAddress, CodeNoQuota,
		CodeModelRefused, CodeRateLimited, CodeServer, CodeModeration, CodeBadRequest, CodeBadAnswer, CodeWebPage,
		CodeCutOff, CodeTimeout, CodeNetwork, CodeDirectName, CodeDirectRefused, CodeDirectTimeout, CodeDirectFailed,
		CodeProxyName, CodeProxyRefused, CodeProxyTimeout, CodeProxyFailed, CodeProxyTLS, CodeProxyCertificate,
		CodeProxyTLSRefused, CodeProxyNeedsTLS, CodeProxyLoginMissing, CodeProxyLoginRefused, CodeProxyForbids,
		CodeProxyTarget, CodeProxyNoAnswer, CodeProxyTunnelClosed, CodeProxyNoProxy, CodeSOCKSFailure,
		CodeSOCKSNotAllowed, CodeSOCKSNetwork, CodeSOCKSHost, CodeSOCKSRefused, CodeSOCKSExpired, CodeSOCKSCommand,
		CodeSOCKSAddressType, CodeTLSAuthority, CodeTLSHost, CodeTLSExpired, CodeTLSReset, CodeTLSTimeout,
		CodeTLSNotSpoken, CodeTLSFailed,
	}
}
