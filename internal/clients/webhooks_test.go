package clients

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/proxy"
	"imagetasks/pkg/store"
	"imagetasks/pkg/webhook"
)

const webhooksDoc = "docs/webhooks.md"

// webhooksSnippet returns the only code block of docs/webhooks.md in that language that contains a text.
func webhooksSnippet(t *testing.T, language, containing string) string {
	t.Helper()
	var found []string
	for _, block := range codeBlocks(t, webhooksDoc) {
		if code, ok := strings.CutPrefix(block, language+"\n"); ok && strings.Contains(code, containing) {
			found = append(found, code)
		}
	}
	require.Len(t, found, 1, "code blocks with %q", containing)
	return found[0]
}

// The example of docs/webhooks.md verifies what is sent, with a library that is not ours.
func TestStandardWebhooks_DocumentedReceiver(t *testing.T) {
	const oldSecret, newSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	d := newDatabase(t)
	require.NoError(t, d.store.SetCompletionEvents(t.Context(), store.ReceiverWebhook))
	node := startNode(t, webhooksSnippet(t, "js", "standardwebhooks")+`
export async function receive(body, headers) {
  return (await POST(new Request('http://receiver.example/', { method: 'POST', headers, body }))).status
}`, "COMPLETION_WEBHOOK_SECRET="+oldSecret)
	var statuses []int
	var bodies []string
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if !assert.NoError(t, err) {
			return
		}
		headers := map[string]string{}
		for name := range r.Header {
			headers[strings.ToLower(name)] = r.Header.Get(name)
		}
		status := int(node.call("receive", string(body), headers).(float64))
		statuses, bodies = append(statuses, status), append(bodies, string(body))
		w.WriteHeader(status)
	}))
	defer receiver.Close()

	d.exec(`select imagetasks.grant_credits($1, 10, '', 'order-1')`, user)
	d.exec(`select imagetasks.enqueue($1, 'a lantern')`, user)
	taskID := d.text(`select task_id from imagetasks.tasks`)
	d.failNext(taskID)
	transport, err := proxy.New(proxy.Config{})
	require.NoError(t, err)
	defer transport.CloseIdleConnections()
	// The test of a secret with a key of another form too: an error message with characters of several bytes.
	d.exec(`update imagetasks.events set data = data || '{"error_message": "图片 “quoted” é"}'`)
	for _, test := range []struct {
		secrets string
		want    webhook.Report
		status  int
	}{
		{newSecret, webhook.Report{Failed: 1}, 401},
		{newSecret + "," + oldSecret, webhook.Report{Delivered: 1}, 204},
	} {
		secrets, err := webhook.ParseSecrets(test.secrets)
		require.NoError(t, err)
		d.exec(`update imagetasks.events set next_at = now()`)
		report, err := webhook.Pass(t.Context(), webhook.Config{Store: d.store, Transport: transport, URL: receiver.URL, Secrets: secrets, AllowPrivate: true, PerHost: 1})
		require.NoError(t, err)
		assert.Equal(t, test.want, report)
		require.NotEmpty(t, statuses)
		assert.Equal(t, test.status, statuses[len(statuses)-1])
	}
	assert.JSONEq(t, bodies[0], bodies[1])
	assert.Contains(t, bodies[0], taskID)
}

// The documented message has the fields of a real one.
func TestWebhooksDoc_Message(t *testing.T) {
	documented := jsonPaths(t, webhooksSnippet(t, "json", `"task.failed"`))
	d := newDatabase(t)
	require.NoError(t, d.store.SetCompletionEvents(t.Context(), store.ReceiverWebhook))
	d.exec(`select imagetasks.grant_credits($1, 10, '', 'order-1')`, user)
	d.exec(`select imagetasks.enqueue($1, 'a lantern')`, user)
	d.failNext(d.text(`select task_id from imagetasks.tasks`))
	var body string
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		body = string(content)
	}))
	defer receiver.Close()
	transport, err := proxy.New(proxy.Config{})
	require.NoError(t, err)
	defer transport.CloseIdleConnections()
	report, err := webhook.Pass(t.Context(), webhook.Config{Store: d.store, Transport: transport, URL: receiver.URL, AllowPrivate: true})
	require.NoError(t, err)
	require.Equal(t, webhook.Report{Delivered: 1}, report)
	assert.ElementsMatch(t, documented, jsonPaths(t, body))
}

// jsonPaths returns the names of the fields of a JSON object and of the objects in it.
func jsonPaths(t *testing.T, text string) []string {
	t.Helper()
	var out []string
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		object, _ := v.(map[string]any)
		for name, value := range object {
			out = append(out, prefix+name)
			walk(prefix+name+".", value)
		}
	}
	var v any
	require.NoError(t, json.Unmarshal([]byte(text), &v), text)
	walk("", v)
	return out
}
