package browser_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/browser"
)

const testPage = `<!DOCTYPE html><html lang="en"><head><title>t</title><link rel="icon" href="data:,"></head><body>
<h1>A page</h1><input id="field"><button id="go">Go</button><output></output>
<script>
document.getElementById("go").onclick = () => setTimeout(() => { document.querySelector("output").textContent = document.getElementById("field").value }, 50);
console.error("a line of the console");
</script></body></html>`

func TestBrowser(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(testPage))
	}))
	defer server.Close()
	b := browser.Start(t)
	b.Open(server.URL)
	assert.Equal(t, "A page", b.Text("h1"))
	assert.Equal(t, 1, b.Count("button"))
	console := b.Console()
	require.Len(t, console, 1)
	assert.Equal(t, "SEVERE", console[0].Level)
	assert.Contains(t, console[0].Message, "a line of the console")
	assert.Empty(t, b.Console())

	b.Type("#field", "任务 one")
	b.Click("#go")
	b.WaitText("output", "任务 one")
	b.Type("#field", "")
	b.Write("keys")
	b.Press(browser.Tab, browser.Enter)
	b.WaitText("output", "keys")
	b.Press(browser.Shift, browser.Tab)
	b.Wait("the focus to return", `document.activeElement.id === "field"`)

	for _, width := range []int{360, 1440} {
		b.Resize(width, 800)
		b.Wait("the width", `innerWidth === arguments[0]`, width)
	}
	b.Prefer("dark")
	b.Wait("the color scheme", `matchMedia("(prefers-color-scheme: dark)").matches`)
	b.Languages("zh-CN,zh")
	b.Open(server.URL)
	b.Wait("the language", `navigator.language === "zh-CN"`)
	assert.Equal(t, "\x89PNG", string(b.Screenshot()[:4]))
	var result map[string]int
	b.Eval(&result, `return Promise.resolve({n: arguments[0] + 1})`, 1)
	assert.Equal(t, map[string]int{"n": 2}, result)
}
