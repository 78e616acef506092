package render_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"imagetasks/pkg/app/render"
	"imagetasks/pkg/lang"
)

func TestRoute(t *testing.T) {
	assert.Equal(t, "through http://a:1, socks5h://b:2", render.Route([]string{"http://a:1", "socks5h://b:2"}).In(lang.EN))
	assert.Equal(t, "经由代理 http://a:1", render.Route([]string{"http://a:1"}).In(lang.ZH))
	assert.Equal(t, "直连，未使用代理", render.Route(nil).In(lang.ZH))
}
