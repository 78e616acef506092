package diagnosis_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/realproxy"
	"imagetasks/internal/simproxy"
	"imagetasks/pkg/diagnosis"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// fakeAPI answers without a network.
type fakeAPI struct {
	check, list error
	models      []string
}

func (f fakeAPI) Check(context.Context, string) error { return f.check }

func (f fakeAPI) ListModels(context.Context) ([]string, error) { return f.models, f.list }

func steps(r diagnosis.Report) string {
	var out []string
	for _, s := range r.Steps {
		mark := string(s.Name)
		if !s.OK {
			mark = "!" + mark
		}
		out = append(out, mark)
	}
	return strings.Join(out, " ")
}

// The endpoint that makes pictures decides, not the list of models.
func TestRun_JudgesByTheEndpoint(t *testing.T) {
	refused := &task.Error{Code: task.CodeForbidden, Message: "the key may not list models"}
	for name, c := range map[string]struct {
		api    fakeAPI
		ok     bool
		steps  string
		detail diagnosis.DetailCode // of the last step
		code   task.Code
	}{
		"works":              {fakeAPI{models: []string{"gpt-image-1"}}, true, "key endpoint models", diagnosis.DetailModelListed, ""},
		"may not list":       {fakeAPI{list: refused}, true, "key endpoint models", diagnosis.DetailModelsRefused, ""},
		"list is down":       {fakeAPI{list: &task.Error{Code: task.CodeServer}}, true, "key endpoint models", diagnosis.DetailModelsRefused, ""},
		"key may not list":   {fakeAPI{list: &task.Error{Code: task.CodeUnauthorized}}, true, "key endpoint models", diagnosis.DetailModelsRefused, ""},
		"list without it":    {fakeAPI{models: []string{"other"}}, true, "key endpoint models", diagnosis.DetailModelMissing, ""},
		"can't be checked":   {fakeAPI{check: task.ErrUncheckable}, true, "endpoint models", diagnosis.DetailNoModelList, ""},
		"server error":       {fakeAPI{check: &task.Error{Code: task.CodeServer, Err: task.ErrUncheckable}}, false, "!endpoint", diagnosis.DetailError, task.CodeServer},
		"list but no key":    {fakeAPI{check: &task.Error{Code: task.CodeUnauthorized}, models: []string{"gpt-image-1"}}, false, "!key", diagnosis.DetailError, task.CodeUnauthorized},
		"model refused":      {fakeAPI{check: &task.Error{Code: task.CodeModelRefused, Scope: task.ScopeModel}, models: []string{"gpt-image-1"}}, false, "key !model", diagnosis.DetailError, task.CodeModelRefused},
		"scope model":        {fakeAPI{check: &task.Error{Code: task.CodeBadRequest, Scope: task.ScopeModel}}, false, "key !model", diagnosis.DetailError, task.CodeBadRequest},
		"no quota":           {fakeAPI{check: &task.Error{Code: task.CodeNoQuota, Scope: task.ScopeEndpoint}}, false, "!endpoint", diagnosis.DetailError, task.CodeNoQuota},
		"a page":             {fakeAPI{check: &task.Error{Code: task.CodeWebPage}}, false, "!endpoint", diagnosis.DetailError, task.CodeWebPage},
		"login":              {fakeAPI{check: &task.Error{Code: task.CodeProxyLoginMissing}}, false, "!login", diagnosis.DetailError, task.CodeProxyLoginMissing},
		"no *task.Error":     {fakeAPI{check: errors.New("broken")}, false, "!endpoint", diagnosis.DetailError, task.CodeInternal},
		"connection refused": {fakeAPI{check: &proxy.Error{Op: proxy.OpDial, Err: io.EOF}}, false, "!connection", diagnosis.DetailError, task.CodeDirectFailed},
	} {
		t.Run(name, func(t *testing.T) {
			api, roots := startAPI(t, "https")
			conf := config(t, api.URL(), "", roots)
			conf.API = func(*proxy.Transport) diagnosis.API { return c.api }
			report := diagnosis.Run(t.Context(), conf)
			assert.Equal(t, c.ok, report.OK)
			want := "settings dns connection tls " + c.steps
			if strings.Contains(c.steps, "!connection") {
				want = "settings dns tls !connection"
			}
			assert.Equal(t, want, steps(report))
			last := report.Steps[len(report.Steps)-1]
			assert.Equal(t, c.detail, last.Detail.Code)
			assert.Equal(t, c.code, last.Code)
		})
	}
}

// A server error may be how an endpoint refuses an incomplete request: the picture decides.
func TestRun_ServerErrorAndPicture(t *testing.T) {
	api, roots := startAPI(t, "https")
	conf := config(t, api.URL(), "", roots)
	conf.API = func(*proxy.Transport) diagnosis.API {
		return fakeAPI{check: &task.Error{Code: task.CodeServer, Err: task.ErrUncheckable}}
	}
	conf.Image = func(context.Context) (diagnosis.Detail, error) {
		return diagnosis.Detail{Code: diagnosis.DetailPicture}, nil
	}
	assert.Equal(t, "settings dns connection tls endpoint models image", steps(diagnosis.Run(t.Context(), conf)))
	conf.Image = func(context.Context) (diagnosis.Detail, error) {
		return diagnosis.Detail{}, &task.Error{Code: task.CodeServer}
	}
	assert.Equal(t, "settings dns connection tls endpoint models !image", steps(diagnosis.Run(t.Context(), conf)))
}

// What the other route showed, and what follows from both.
func TestRun_Notes(t *testing.T) {
	api, roots := startAPI(t, "https")
	resets := listen(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 64)); _ = conn.(*net.TCPConn).SetLinger(0) })
	down := "https://" + realproxy.ClosedAddr(t) + "/v1"
	filtered := "https://" + resets + "/v1"
	closed := "http://" + realproxy.ClosedAddr(t)
	open := startProxy(t, simproxy.Serve)
	early := startProxy(t, simproxy.Early)
	forbids := startProxy(t, simproxy.Refuse)
	for name, c := range map[string]struct {
		base, via, other string
		withoutDirect    bool
		note             diagnosis.DetailCode
	}{
		"the proxy is down, the API is not":            {api.URL(), closed, "", false, diagnosis.NoteDirectWorks},
		"no direct connection":                         {api.URL(), closed, "", true, diagnosis.NoteNotDirect},
		"the proxy forbids":                            {api.URL(), forbids, "", false, diagnosis.NoteDirectWorks},
		"the proxy's node is down":                     {api.URL(), early, "", false, diagnosis.NoteNodeFails},
		"down both ways":                               {down, open, "", false, diagnosis.NoteDownBothWays},
		"down both ways, closed tunnel":                {down, early, "", false, diagnosis.NoteDownBothWays},
		"unknown both ways":                            {"https://nowhere.invalid/v1", open, "", false, diagnosis.NoteDownBothWays},
		"the proxy is down, the API too":               {down, closed, "", false, diagnosis.NoteDirectUnclear},
		"the proxy is down, the network filters":       {filtered, closed, "", false, diagnosis.NoteDirectFiltered},
		"the node is down, the network filters":        {filtered, early, "", false, diagnosis.NoteDirectFiltered},
		"filtered, another works not either":           {filtered, "", open, false, diagnosis.NoteAlternativeFails},
		"down, through another too":                    {down, "", open, false, diagnosis.NoteAlternativeDown},
		"down, another proxy is down":                  {down, "", closed, false, diagnosis.NoteAlternativeFails},
		"down, and no other":                           {down, "", "", false, diagnosis.NoteNoAlternative},
		"http: the proxy's node is down":               {"http://" + realproxy.ClosedAddr(t) + "/v1", early, "", false, diagnosis.NoteDownBothWays},
		"http: down, another forwards without tunnels": {"http://" + realproxy.ClosedAddr(t) + "/v1", "", forbids, false, diagnosis.NoteAlternativeUnclear},
	} {
		t.Run(name, func(t *testing.T) {
			conf := config(t, c.base, c.via, roots)
			if c.withoutDirect {
				conf.Direct = nil
			}
			if c.other != "" {
				conf.Alternative = config(t, c.base, c.other, roots).Transport
			}
			report := diagnosis.Run(t.Context(), conf)
			assert.False(t, report.OK)
			require.NotNil(t, report.Note, "%+v", report.Steps)
			assert.Equal(t, c.note, report.Note.Code, "%+v", report)
		})
	}
}

// Where a proxy is set, the target sees no connection but the proxy's.
func TestRun_NoDirectConnection(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		seen := make(chan string, 10)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for { // one after the other, so that the order is that of the connections
				conn, err := l.Accept()
				if err != nil {
					return
				}
				seen <- conn.RemoteAddr().String()
				_ = conn.Close()
			}
		}()
		target := l.Addr().String()
		// direct reports whether a connection was made before one of the test's own.
		direct := func(conf diagnosis.Config) bool {
			assert.False(t, diagnosis.Run(t.Context(), conf).OK)
			conn, err := net.Dial("tcp", target)
			require.NoError(t, err)
			defer conn.Close()
			others := 0
			for remote := range seen {
				if remote == conn.LocalAddr().String() {
					break
				}
				others++
			}
			return others > 0
		}
		conf := config(t, scheme+"://"+target+"/v1", startProxy(t, simproxy.Refuse), nil)
		with := conf.Direct
		conf.Direct = nil
		assert.False(t, direct(conf))
		conf.Direct = with
		assert.True(t, direct(conf), "the test sees direct connections")
	}
}

// A proxy that opens tunnels and hangs on requests is told from an API that hangs.
func TestRun_ForwardedRequestHangs(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	// The proxy tunnels through another, and never responds to plain requests.
	inner := startProxy(t, simproxy.Serve)
	halfHung := "http://" + listen(t, func(conn net.Conn) {
		reader := bufio.NewReader(conn)
		if head, err := reader.Peek(7); err != nil || string(head) != "CONNECT" {
			<-ended
			return
		}
		to, err := net.Dial("tcp", strings.TrimPrefix(inner, "http://"))
		if err != nil {
			return
		}
		defer to.Close()
		go func() { _, _ = io.Copy(to, reader); _ = to.(*net.TCPConn).CloseWrite() }()
		_, _ = io.Copy(conn, to)
	})
	hung := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-ended }))
	t.Cleanup(hung.CloseClientConnections)
	api, _ := startAPI(t, "http")
	t.Run("the proxy", func(t *testing.T) {
		t.Parallel()
		last, _ := run(t, config(t, api.URL(), halfHung, nil))
		assert.Equal(t, want{diagnosis.StepProxy, task.CodeProxyNoAnswer}, failure(last), "%+v", last)
	})
	t.Run("the API", func(t *testing.T) {
		t.Parallel()
		last, _ := run(t, config(t, hung.URL+"/v1", inner, nil))
		assert.Equal(t, want{diagnosis.StepEndpoint, task.CodeTimeout}, failure(last), "%+v", last)
	})
}

// A web server at the proxy's address is named as one, over http too.
func TestRun_WebServerInPlaceOfAProxy(t *testing.T) {
	for name, h := range map[string]http.Handler{
		"404":      http.NotFoundHandler(),
		"redirect": http.RedirectHandler("https://login.example/?token=hunter2", http.StatusFound),
		"page":     http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>It works!</html>") }),
		"405":      http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusMethodNotAllowed) }),
		"400":      http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadRequest) }),
	} {
		for _, scheme := range []string{"http", "https"} {
			t.Run(name+" "+scheme, func(t *testing.T) {
				server := httptest.NewServer(h)
				defer server.Close()
				api, roots := startAPI(t, scheme)
				last, _ := run(t, config(t, api.URL(), server.URL, roots))
				assert.Equal(t, task.CodeProxyNoProxy, last.Code, "%+v", last)
				assert.Contains(t, last.Detail.Args[0], "web server")
				if name == "redirect" {
					assert.Contains(t, last.Detail.Args[0], "login.example")
				}
			})
		}
	}
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for _, scheme := range []string{"http", "https"} {
		api, roots := startAPI(t, scheme)
		last, _ := run(t, config(t, api.URL(), strings.Replace(secure.URL, "https", "http", 1), roots))
		assert.Equal(t, task.CodeProxyNeedsTLS, last.Code, "%+v", last)
		last, _ = run(t, config(t, api.URL(), strings.Replace(plain.URL, "http", "https", 1), roots))
		assert.Equal(t, task.CodeProxyTLS, last.Code, "%+v", last)
		last, _ = run(t, config(t, api.URL(), secure.URL, roots))
		assert.Equal(t, task.CodeProxyCertificate, last.Code, "%+v", last)
		assert.Equal(t, diagnosis.DetailCertificate, last.Detail.Code, "the issuer is named")
	}
}

// A base URL without its /v1 is found by the endpoint that makes pictures, whatever the list of models says.
func TestRun_BaseURLLacksV1(t *testing.T) {
	api, roots := startAPI(t, "https")
	conf := config(t, api.URL(), "", roots)
	conf.BaseURL, _ = url.Parse(strings.TrimSuffix(api.URL(), "/v1"))
	conf.API = func(*proxy.Transport) diagnosis.API { return fakeAPI{check: &task.Error{Code: task.CodeWrongAddress}} }
	conf.APIAtV1 = func(*proxy.Transport) diagnosis.API { return fakeAPI{list: errors.New("no list")} }
	report := diagnosis.Run(t.Context(), conf)
	require.NotNil(t, report.Note)
	assert.Equal(t, diagnosis.NoteV1, report.Note.Code)
	assert.True(t, slices.Contains([]string{api.URL()}, report.Note.Args[0].(string)))
}

func startProxy(t *testing.T, mode simproxy.Mode) string {
	t.Helper()
	p, err := simproxy.Start(simproxy.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.Close()) })
	p.SetMode(mode)
	return p.URL()
}

// listen serves connections and returns its address.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); serve(conn) }()
		}
	}()
	return l.Addr().String()
}
