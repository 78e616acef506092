package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The rules and the example of a configuration are valid, and the tests of the rules pass.
func TestPrometheus_RulesHold(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"check", "config", "prometheus.yml"}, {"check", "rules", "imagetasks.rules.yml"}, {"test", "rules", "imagetasks.test.yml"}} {
		check := exec.Command("promtool", args...)
		check.Dir = filepath.Join(root, "deploy/prometheus")
		out, err := check.CombinedOutput()
		assert.NoError(t, err, "%s\n%s", args, out)
	}
	rules, err := os.ReadFile(filepath.Join(root, "deploy/prometheus/imagetasks.rules.yml"))
	require.NoError(t, err)
	tests, err := os.ReadFile(filepath.Join(root, "deploy/prometheus/imagetasks.test.yml"))
	require.NoError(t, err)
	for _, found := range regexp.MustCompile(`- (?:alert|record): (\S+)`).FindAllStringSubmatch(string(rules), -1) {
		assert.Contains(t, string(tests), found[1], "a rule without a test")
	}
}

// prometheusServer is a Prometheus that scrapes the programs of a fixture.
type prometheusServer struct {
	w   *fixture
	url string
}

// startPrometheus starts a Prometheus that scrapes a processor and a monitor, with the rules of the project.
func (w *fixture) startPrometheus(processor, monitor string) *prometheusServer {
	w.t.Helper()
	dir := w.t.TempDir()
	config := fmt.Sprintf(`
global: {scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 500ms}
rule_files: [%q]
scrape_configs:
  - job_name: imagetasks
    static_configs: [{targets: [%q]}]
  - job_name: imagetasks-monitor
    static_configs: [{targets: [%q]}]
`, filepath.Join(root, "deploy/prometheus/imagetasks.rules.yml"), processor, monitor)
	file := filepath.Join(dir, "prometheus.yml")
	require.NoError(w.t, os.WriteFile(file, []byte(config), 0o600))
	path, err := exec.LookPath("prometheus")
	require.NoError(w.t, err)
	p := w.start(path, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")
	address := regexp.MustCompile(`msg="Listening on" address=(127\.0\.0\.1:\d+)`)
	w.waitFor("Prometheus", func() bool { return address.MatchString(p.stderr.String()) })
	return &prometheusServer{w: w, url: "http://" + address.FindStringSubmatch(p.stderr.String())[1]}
}

func (p *prometheusServer) get(path string, into any) error {
	answer, err := http.Get(p.url + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	var document struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(answer.Body).Decode(&document); err != nil {
		return err
	}
	if document.Status != "success" {
		return fmt.Errorf("%s: %s", path, document.Error)
	}
	return json.Unmarshal(document.Data, into)
}

// query returns the values of an expression.
func (p *prometheusServer) query(expr string) ([]float64, error) {
	var data struct {
		Result []struct{ Value [2]any }
	}
	if err := p.get("/api/v1/query?query="+url.QueryEscape(expr), &data); err != nil {
		return nil, err
	}
	var values []float64
	for _, r := range data.Result {
		n, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
		if err != nil {
			return nil, err
		}
		values = append(values, n)
	}
	return values, nil
}

// is reports whether an expression has one value, and it is this one.
func (p *prometheusServer) is(expr string, want float64) bool {
	values, err := p.query(expr)
	return err == nil && len(values) == 1 && values[0] == want
}

// dashboardQueries returns the expressions of the dashboard, as Grafana sends them.
func dashboardQueries(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "deploy/grafana/imagetasks.json"))
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct {
			Type, Title, Description string
			Datasource               struct{ UID string }
			FieldConfig              struct{ Defaults struct{ Unit string } }
			Targets                  []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(text, &dashboard))
	var queries []string
	for _, p := range dashboard.Panels {
		if p.Type == "row" {
			continue
		}
		assert.NotEmpty(t, p.Description, p.Title)
		assert.NotEmpty(t, p.FieldConfig.Defaults.Unit, p.Title)
		assert.Equal(t, "${datasource}", p.Datasource.UID, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			queries = append(queries, strings.NewReplacer("$job", "imagetasks", "$__rate_interval", "1m").Replace(target.Expr))
		}
	}
	return queries
}

// withoutData are the metrics that a processor without a bridge, and whose API sends no rate limits, does not have.
var withoutData = regexp.MustCompile(`imagetasks_bridge_|imagetasks_api_rate_limit`)

// A real Prometheus scrapes a processor that works tasks. Each query of the dashboard and of the rules has data, and the figures are those of the database.
func TestPrometheus_DashboardAndRulesHaveData(t *testing.T) {
	t.Parallel()
	w := newFixture(t)
	receiver := newHookReceiver(t)
	w.env["COMPLETION_WEBHOOK_URL"], w.env["COMPLETION_WEBHOOK_SECRET"] = "http://"+receiver.address+"/", webhookSecret
	w.env["COMPLETION_WEBHOOK_ALLOW_PRIVATE"] = "on"
	w.secrets = append(w.secrets, webhookSecret)
	p := w.start("task-processor", "run", "--status-addr", "127.0.0.1:0")
	w.statusOf(p)
	m := w.start("monitor-tasks", "--watch", "--interval", "1s", "--watch-addr", "127.0.0.1:0")
	w.waitFor("the address of the monitor", func() bool { return statusAddress.MatchString(m.stderr.String()) })
	prometheus := w.startPrometheus(strings.TrimPrefix(statusAddress.FindString(p.stderr.String()), "http://"),
		strings.TrimPrefix(statusAddress.FindString(m.stderr.String()), "http://"))
	// A rate needs a sample from before.
	w.waitFor("a scrape of both", func() bool {
		return prometheus.is("sum(up)", 2) && prometheus.is(`sum(imagetasks_tasks_total{step="claimed"})`, 0)
	})

	w.grant(9)
	w.enqueue("a picture for the dashboard", "--count", "4", "--cost", "2")
	w.enqueue("[moderation] a picture for the dashboard")
	w.waitFor("the ends of the tasks", func() bool { return w.count("completed") == 4 && w.count("failed") == 1 })
	w.waitFor("the scrape after them", func() bool {
		return prometheus.is(`sum(imagetasks_webhook_delivery_duration_seconds_count{result="delivered"})`, 5)
	})
	for expr, want := range map[string]float64{
		`sum(imagetasks_task_outcomes_total{outcome="completed"})`:                        4,
		`sum(imagetasks_task_outcomes_total{outcome="failed",code="moderation_blocked"})`: 1,
		`sum(imagetasks_paid_requests_total{outcome="success"})`:                          4,
		`sum(imagetasks_paid_requests_total{outcome="error"})`:                            1,
		`sum(imagetasks_api_request_duration_seconds_count{outcome="success"})`:           4,
		`sum(imagetasks_queue_wait_seconds_count)`:                                        5,
		`sum(imagetasks_completed_credits_total)`:                                         8,
		`sum(imagetasks_refunded_credits_total)`:                                          float64(w.number(`select coalesce(sum(amount), 0) from imagetasks.ledger where kind = 'refund'`)),
		`sum(imagetasks_stored_picture_bytes_total) > bool 0`:                             1,
		`max(imagetasks_queue_tasks{job="imagetasks",state="due"})`:                       0,
		`max(imagetasks_queue_tasks{job="imagetasks-monitor",state="due"})`:               0,
		`max(imagetasks_database_up{job="imagetasks-monitor"})`:                           1,
		`max(imagetasks_circuit_open{scope="endpoint"})`:                                  0,
	} {
		values, err := prometheus.query(expr)
		require.NoError(t, err, expr)
		assert.Equal(t, []float64{want}, values, expr)
	}

	for _, expr := range dashboardQueries(t) {
		values, err := prometheus.query(expr)
		assert.NoError(t, err, expr)
		assert.True(t, len(values) > 0 || withoutData.MatchString(expr), "no data: %s", expr)
	}
	var groups struct {
		Groups []struct {
			Rules []struct{ Name, Query, Health, LastError, Type string }
		}
	}
	w.waitFor("the rules to be evaluated", func() bool {
		require.NoError(t, prometheus.get("/api/v1/rules", &groups))
		return prometheus.is("count(imagetasks:tasks_completed:rate5m > 0)", 1) && prometheus.is("count(imagetasks:queue_wait_seconds:p95_15m > 0)", 1) &&
			prometheus.is("count(imagetasks:api_request_duration_seconds:p95_15m > 0)", 1)
	})
	rules := 0
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			rules++
			assert.Empty(t, r.LastError, r.Name)
			// An alert has data only while it fires. Without its comparison, its metric has.
			expr := regexp.MustCompile(` (==|>) [0-9.]+`).ReplaceAllString(r.Query, "")
			values, err := prometheus.query(expr)
			assert.NoError(t, err, expr)
			assert.True(t, len(values) > 0 || withoutData.MatchString(expr) || strings.Contains(expr, "imagetasks_problems"), "no data: %s", expr)
		}
	}
	assert.Positive(t, rules)
	m.stop(syscall.SIGTERM).ok()
	p.stop(syscall.SIGTERM).ok()
}
