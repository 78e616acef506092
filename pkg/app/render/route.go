package render

import (
	"strings"
	"time"

	"imagetasks/pkg/lang"
)

// Route describes the route to the API: the proxies in their order, or a direct connection.
func Route(via []string) lang.Message {
	if len(via) == 0 {
		return lang.NewMessage(textDirect)
	}
	return lang.NewMessage(textThrough, strings.Join(via, ", "))
}

var (
	textThrough = lang.Text{EN: "through %s", ZH: "经由代理 %s"}
	textDirect  = lang.Text{EN: "directly, without a proxy", ZH: "直连，未使用代理"}
)

// DateTime formats a time in the local time zone.
func DateTime(t time.Time) string { return t.Local().Format(time.DateTime) }
