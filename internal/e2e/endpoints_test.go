package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/app"
)

// spareKey is the key of the second endpoint, in the env file.
const spareKey = "key-d41c0ffee2"

// withSpare gives the fixture two endpoints: main, the API behind the proxy, and spare, another API without a proxy, which needs its own key.
func (w *fixture) withSpare() *simapi.Server {
	w.t.Helper()
	spare, err := simapi.Start(simapi.Config{Key: spareKey})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = spare.Close() })
	w.env["MAIN_KEY"] = w.env["OPENAI_API_KEY"]
	delete(w.env, "OPENAI_API_KEY")
	delete(w.env, "OPENAI_BASE_URL")
	w.write(".env", "SPARE_KEY='"+spareKey+"'\n")
	w.tables(fmt.Sprintf(`
[[endpoint]]
name = "main"
base_url = "%s/images/generations"
key_env = "MAIN_KEY"
models = ["gpt-image-2"]

[[endpoint]]
name = "spare"
base_url = "%s"
key_env = "SPARE_KEY"
proxies = ["direct"]
models = { "gpt-image-2" = "gpt-image-1", "gpt-image-1-mini" = "gpt-image-1-mini" }
`, w.api.URL(), strings.TrimSuffix(spare.URL(), "/v1")))
	w.t.Cleanup(func() { assert.NotContains(w.t, w.outputs.String(), spareKey) })
	return spare
}

// refused runs a program that refuses its settings or its command line, and returns what it printed on stderr.
func (w *fixture) refused(name string, args ...string) string {
	w.t.Helper()
	r := w.run(name, args...)
	r.is(2)
	return r.stderr
}

func (w *fixture) write(name, text string) {
	w.t.Helper()
	require.NoError(w.t, os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600))
}

// tables writes the file with the endpoints.
func (w *fixture) tables(text string) {
	w.t.Helper()
	w.write(app.TablesName, text)
}

// simple-test and the monitor check each endpoint, and name it.
func TestEndpoints_Checks(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	spare := w.withSpare()
	var d struct {
		OK        bool
		Endpoints []struct {
			Endpoint string
			OK       bool
			Steps    []struct{ Step, Detail string }
		}
	}
	r := w.run("simple-test", "--json")
	r.is(0)
	r.json(&d)
	require.Len(t, d.Endpoints, 2)
	assert.True(t, d.OK && d.Endpoints[0].OK && d.Endpoints[1].OK)
	assert.Equal(t, "main", d.Endpoints[0].Endpoint)
	assert.Contains(t, d.Endpoints[0].Steps[0].Detail, "API "+w.api.URL()+", through http://"+w.proxy.Addr())
	assert.Equal(t, "spare", d.Endpoints[1].Endpoint)
	assert.Contains(t, d.Endpoints[1].Steps[0].Detail, "directly, without a proxy")
	assert.Contains(t, w.run("simple-test").ok(), "\n\nspare\n✓ settings")
	assert.NotContains(t, w.run("simple-test", "--endpoint", "spare").ok(), "main")
	assert.Len(t, w.diagnose(0, "--endpoint", "main").Steps, 9)
	assert.Contains(t, w.refused("simple-test", "--endpoint", "other"), `there is no endpoint "other"; there are: main, spare`)
	assert.Empty(t, spare.Calls())

	var status struct {
		Endpoints []struct{ Name, Address, Route string } `json:"api_endpoints"`
	}
	w.run("task-processor", "status", "--json").json(&status)
	require.Len(t, status.Endpoints, 2)
	assert.Equal(t, "spare", status.Endpoints[1].Name)
	assert.Equal(t, "directly, without a proxy", status.Endpoints[1].Route)

	// One of them is gone: that is no outage.
	require.NoError(t, spare.Close())
	var pass struct {
		API struct {
			OK        bool
			Endpoints []struct {
				Name, Error string
				OK          bool
			}
		}
		Problems []struct{ Code, Subject, Do string }
	}
	r = w.run("monitor-tasks", "--json")
	r.is(3)
	r.json(&pass)
	assert.True(t, pass.API.OK)
	require.Len(t, pass.API.Endpoints, 2)
	assert.True(t, pass.API.Endpoints[0].OK)
	assert.False(t, pass.API.Endpoints[1].OK)
	assert.NotEmpty(t, pass.API.Endpoints[1].Error)
	failing := 0
	for _, p := range pass.Problems {
		if p.Code == "endpoint_failing" {
			failing++
			assert.Equal(t, "spare", p.Subject)
			assert.Equal(t, bin+"/simple-test --endpoint spare", p.Do)
		}
	}
	assert.Equal(t, 1, failing)
	w.run("simple-test").is(3)
	w.run("simple-test", "--endpoint", "main").ok()
}

// What can't be used in the file is named with file, endpoint and key. Programs that do not need the API work.
func TestEndpoints_Refused(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	w.withSpare()
	w.write(".env", "")
	want := app.TablesName + `: endpoint "spare": key_env: the environment variable SPARE_KEY is not set; set it in the env file`
	assert.Contains(t, w.refused("task-processor", "run", "--once"), want)
	d := w.diagnose(2)
	assert.Equal(t, "bad_settings", d.Steps[0].Code)
	assert.Contains(t, d.Steps[0].Detail, want)
	w.tables("[[endpoint]]\nname = 'main'\nbase_url = 'https://a.example'\nkey_env = '" + apiKey + "'\n")
	assert.Contains(t, w.refused("task-processor", "run", "--once"), `endpoint "main": key_env: must be the name of the environment variable`)
	w.run("fix-stuck-tasks").ok()
	w.run("task-processor", "tasks", "list").ok()

	// A processor that runs goes on with the endpoints that it has read, and a restart would fail: the programs that watch it say so.
	w.tables("[[endpoint]]\nname = 'main'\nname = 'spare'\n")
	for _, r := range []result{w.run("task-processor", "status", "--json"), w.run("monitor-tasks", "--json")} {
		var found struct {
			Problems []struct{ Code, Reason, Do string }
		}
		r.is(3)
		r.json(&found)
		require.NotEmpty(t, found.Problems)
		assert.Equal(t, "endpoints_invalid", found.Problems[0].Code)
		assert.Contains(t, found.Problems[0].Reason, app.TablesName+": line 3 is not valid TOML")
		assert.Equal(t, bin+"/simple-test", found.Problems[0].Do)
		assert.False(t, slices.ContainsFunc(found.Problems, func(p struct{ Code, Reason, Do string }) bool { return p.Code == "api_unreachable" }), "it is reported once")
	}

	// What is refused is named as it stands in the file.
	w.write("relay.tmpl", "{{.Promt}}")
	endpoint := fmt.Sprintf("[[endpoint]]\nname = 'main'\nbase_url = '%s/models'\nkey_env = 'MAIN_KEY'\n", w.api.URL())
	w.tables(endpoint + "mode = 'chat'\ntemplate = 'relay.tmpl'\n")
	assert.Contains(t, w.diagnose(2).Steps[0].Detail, app.TablesName+`: endpoint "main": the chat template relay.tmpl can't be used`)
	w.tables(endpoint)
	wrong := w.run("simple-test").is(3)
	assert.Contains(t, wrong, "check base_url of main in imagetasks.toml, which ends in /v1 (404)")
	assert.Contains(t, wrong, "→ Check base_url in imagetasks.toml: it usually ends with /v1.")
	assert.Contains(t, w.run("simple-test", "--lang", "zh").is(3), "→ 请检查 imagetasks.toml 中的 base_url")
	w.tables(strings.Replace(endpoint, "/models", "", 1))
	w.api.SetKey("another")
	wrong = w.run("simple-test").is(3)
	assert.Contains(t, wrong, "the API refuses the key; check MAIN_KEY (401)")
	assert.Contains(t, wrong, "→ Check MAIN_KEY: is it complete")
	assert.NotContains(t, wrong, "OPENAI_")
	require.NoError(t, os.Remove(filepath.Join(w.dir, app.TablesName))) // it holds the key
}

// Work moves to the second endpoint within one request, and back when the first one works again. What only the second has goes there at once.
func TestEndpoints_Fallback(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	spare := w.withSpare()
	withDaemon(w)
	w.env["HUNG_AFTER"] = "8s" // heartbeats, which report the state, come each second
	w.grant(20)
	w.api.Refuse(&simapi.Refusal{Status: 429, Code: "insufficient_quota"})
	w.run("task-processor", "start").ok()
	const each = 4
	for i := range each {
		w.enqueue(fmt.Sprintf("lantern %d", i))
	}
	w.waitFor("the pictures of the second endpoint", func() bool { return w.count("completed") == each })
	assert.Len(t, spare.Calls(), each)
	for _, c := range spare.Calls() {
		assert.Equal(t, "gpt-image-1", c.Model, "its name there")
	}
	refused := len(w.api.Calls())
	assert.LessOrEqual(t, refused, 3, "those that were in flight")
	assert.Equal(t, each, w.number(`select count(*) from imagetasks.tasks where attempt_count = 0 and endpoint = 'spare'`))
	var status struct {
		Processors []struct {
			Report struct {
				Endpoints []struct{ Name string }
				Routes    []struct{ Name, Mode string } `json:"api_endpoints"`
			}
		}
		Problems []struct{ Code, Subject string }
	}
	w.waitFor("the report of the endpoint that fails", func() bool {
		w.run("task-processor", "status", "--json").json(&status)
		return slices.ContainsFunc(status.Problems, func(p struct{ Code, Subject string }) bool {
			return p.Code == "endpoint_failing" && p.Subject == "main"
		})
	})
	require.Len(t, status.Processors, 1)
	assert.Len(t, status.Processors[0].Report.Endpoints, 2)
	assert.Len(t, status.Processors[0].Report.Routes, 2)
	screen := w.run("task-processor", "status").is(3)
	assert.Contains(t, screen, "api          2 endpoints; last response")
	assert.Contains(t, screen, "✗ main  through http://"+w.proxy.Addr())
	assert.Contains(t, screen, "✓ spare  directly, without a proxy, 0 in flight here")
	assert.Contains(t, w.run("task-processor", "status", "--lang", "zh").is(3), "2 个端点")

	w.api.Refuse(nil)
	w.waitFor("the first endpoint", func() bool {
		w.run("task-processor", "status", "--json").json(&status)
		return !slices.ContainsFunc(status.Problems, func(p struct{ Code, Subject string }) bool { return p.Code == "endpoint_failing" })
	})
	w.enqueue("back again")
	w.waitFor("the picture", func() bool { return w.count("completed") == each+1 })
	assert.Len(t, spare.Calls(), each)
	w.enqueue("of a model that only the second has", "--model", "gpt-image-1-mini")
	w.waitFor("the picture", func() bool { return w.count("completed") == each+2 })
	assert.Equal(t, "gpt-image-1-mini", spare.Calls()[each].Model)
	w.enqueue("of a model that none has", "--model", "gpt-image-1.5")
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(w.file("task-processor.log"))
		}
	})
	w.waitFor("the failure", func() bool { return w.count("failed") == 1 })
	assert.Equal(t, 1, w.number(`select count(*) from imagetasks.tasks where status = 'failed' and credits_refunded = 1`))
	w.run("fix-stuck-tasks", "audit").ok()
	w.run("task-processor", "stop").ok()
}

// A key of an endpoint is changed while the processor runs; other changes are named.
func TestEndpoints_Reload(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	spare := w.withSpare()
	withDaemon(w)
	w.env["HUNG_AFTER"] = "8s"
	w.grant(2)
	w.run("task-processor", "start").ok()
	spare.SetKey(spareKey + "2")
	w.write(".env", "SPARE_KEY='"+spareKey+"2'\n")
	assert.Contains(t, w.run("task-processor", "reload").ok(), "endpoint spare (its key) changed, in use from now on")
	w.enqueue("with the new key", "--model", "gpt-image-1-mini")
	w.waitFor("the picture", func() bool { return w.count("completed") == 1 })
	text := w.file(app.TablesName)
	w.tables(strings.Replace(text, `name = "main"`, "name = \"main\"\nrate = 5", 1))
	assert.Contains(t, w.run("task-processor", "reload").is(3), "not in use until a restart: endpoint main")
	w.tables(strings.Replace(text, "SPARE_KEY", "OTHER_KEY", 1))
	r := w.run("task-processor", "reload")
	assert.NotZero(t, r.code)
	assert.Contains(t, r.stdout+r.stderr, `endpoint "spare": key_env: the environment variable OTHER_KEY is not set`)
	w.run("task-processor", "stop").ok()
}
