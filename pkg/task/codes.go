package task

// Code is a stable, machine-readable cause, as it stands in the error_code column.
type Code string

// What can become of a task besides its picture.
const (
	CodeInternal       Code = "internal"
	CodeStuck          Code = "stuck"
	CodeLeaseExpired   Code = "lease_expired"
	CodePendingTimeout Code = "pending_timeout" // due for too long, and not begun
	CodeCancelled      Code = "cancelled"
	CodeShutdown       Code = "shutdown"
	CodePictureStore   Code = "picture_store"
	CodeNotAPicture    Code = "not_a_picture"
	CodeTooLarge       Code = "picture_too_large"
	CodeBadInput       Code = "bad_input_picture"
	CodeInputTooLarge  Code = "input_picture_too_large"
)

// CodeSettings is a setting that can't be used: nothing was tried.
const CodeSettings Code = "bad_settings"

// What the API answers.
const (
	CodeUnauthorized Code = "api_unauthorized"
	CodeForbidden    Code = "api_forbidden"
	CodeWrongCountry Code = "api_wrong_country" // the API doesn't serve where the proxy's exit is
	CodeWrongAddress Code = "api_wrong_address" // there is no such API at OPENAI_BASE_URL
	CodeNoQuota      Code = "insufficient_quota"
	CodeRateLimited  Code = "rate_limited"
	CodeServer       Code = "api_server_error"
	CodeModeration   Code = "moderation_blocked"
	CodeBadRequest   Code = "api_bad_request"
	CodeBadAnswer    Code = "api_bad_answer"
	CodeWebPage      Code = "api_web_page"   // HTML where JSON was expected
	CodeCutOff       Code = "api_cut_off"    // an answer that ends too soon
	CodeTimeout      Code = "api_too_slow"   // an answer that doesn't come in time
	CodeNetwork      Code = "network_broken" // a connection that broke under a request
)

// Why the API could not be reached without a proxy.
const (
	CodeDirectName    Code = "direct_name_unknown"
	CodeDirectRefused Code = "direct_refused"
	CodeDirectTimeout Code = "direct_timeout" // the packets vanish
	CodeDirectFailed  Code = "direct_failed"
)

// Why the proxy could not be used.
const (
	CodeProxyName         Code = "proxy_name_unknown"
	CodeProxyRefused      Code = "proxy_refused" // nothing listens there
	CodeProxyTimeout      Code = "proxy_timeout"
	CodeProxyFailed       Code = "proxy_failed"
	CodeProxyTLS          Code = "proxy_tls_failed"
	CodeProxyLoginMissing Code = "proxy_login_missing"
	CodeProxyLoginRefused Code = "proxy_login_refused"
	CodeProxyForbids      Code = "proxy_forbids_target"
	CodeProxyTarget       Code = "proxy_cannot_reach_target"
	CodeProxyNoAnswer     Code = "proxy_no_answer" // to CONNECT or SOCKS
	CodeProxyNoProxy      Code = "proxy_is_no_proxy"
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
