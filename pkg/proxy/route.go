package proxy

import (
	"strings"

	"imagetasks/pkg/lang"
)

var (
	textThrough  = lang.Text{EN: "through %s", ZH: "经由代理 %s"}
	textDirectly = lang.Text{EN: "directly, without a proxy", ZH: "直连，未使用代理"}
)

// RouteMessage renders the result of Transport.Via: the proxies in order of preference, or a direct connection.
func RouteMessage(via []string) lang.Message {
	if len(via) == 0 {
		return lang.NewMessage(textDirectly)
	}
	return lang.NewMessage(textThrough, strings.Join(via, ", "))
}
