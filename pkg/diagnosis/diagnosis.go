// Package diagnosis finds the broken link between here and the API: settings, names, proxy, login, tunnel, TLS, key,
// models, and a picture where one is asked for. It changes nothing.
package diagnosis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"imagetasks/pkg/lang"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// API is what a diagnosis needs of the image API.
type API interface {
	ListModels(ctx context.Context) ([]string, error)
}

// Config says what to look into.
type Config struct {
	BaseURL   *url.URL
	Model     string
	Transport *proxy.Transport // the way that the settings name
	Direct    *proxy.Transport // without a proxy
	Other     *proxy.Transport // through a proxy that the settings have, or that this host seems to have; nil: there is none
	API       func(by *proxy.Transport) API
	AtV1      func(by *proxy.Transport) API                        // the API at BaseURL with /v1 behind it; nil: it ends so
	Image     func(ctx context.Context) (detail string, err error) // nil: none is asked for
	Lang      lang.Lang
	Redact    func(string) string
}

// Step is one link of the chain.
type Step struct {
	Proxy  string    `json:"proxy,omitempty"` // that it is about, where several are set
	Name   string    `json:"step"`
	OK     bool      `json:"ok"`
	Millis float64   `json:"ms"` // of the exchange that showed it; two steps may share one
	Detail string    `json:"detail"`
	Code   task.Code `json:"error_code,omitempty"`
	Cause  string    `json:"cause,omitempty"` // one plain sentence
	Fix    string    `json:"fix,omitempty"`   // what to do about it
}

// The steps, in their order.
const (
	StepSettings = "settings"
	StepDNS      = "dns"
	StepDirect   = "connection" // where there is no proxy
	StepProxy    = "proxy"
	StepLogin    = "login"
	StepTunnel   = "tunnel"
	StepTLS      = "tls"
	StepKey      = "key"
	StepModels   = "models"
	StepImage    = "image"
)

// Report is what was found.
type Report struct {
	OK    bool   `json:"ok"`
	Steps []Step `json:"steps"`
	// Note says what another way to the API came to, where the one of the settings failed.
	Note string `json:"note,omitempty"`
}

// Run goes along the chain until a link is broken.
func Run(ctx context.Context, conf Config) Report {
	d := &diagnosis{Config: conf}
	d.run(ctx)
	d.report.OK = !d.failed()
	return d.report
}

type diagnosis struct {
	Config
	report Report
	proxy  string // that is looked into, where several are set
}

func (d *diagnosis) run(ctx context.Context) {
	d.pass(StepSettings, 0, textSettings.In(d.Lang, d.BaseURL.Redacted(), d.route()))
	if !d.goAll(ctx) || d.Image == nil {
		return
	}
	began := time.Now()
	detail, err := d.Image(ctx)
	if err != nil {
		d.fail(StepImage, began, err)
		return
	}
	d.pass(StepImage, time.Since(began), detail)
}

// Refused is the report on settings that can't be used: nothing was tried.
func Refused(reason string, l lang.Lang) Report {
	d := &diagnosis{Config: Config{Lang: l, Redact: func(s string) string { return s }}}
	d.failWith(StepSettings, time.Now(), task.CodeSettings, reason)
	return d.report
}

func (d *diagnosis) route() string {
	if via := d.Transport.Via(d.BaseURL); len(via) > 0 {
		return textThrough.In(d.Lang, strings.Join(via, textElse.In(d.Lang)))
	}
	return textDirectly.In(d.Lang)
}

func (d *diagnosis) pass(name string, took time.Duration, detail string) {
	d.report.Steps = append(d.report.Steps, Step{Proxy: d.proxy, Name: name, OK: true, Millis: millis(took), Detail: d.Redact(detail)})
}

func (d *diagnosis) fail(name string, began time.Time, err error) {
	e := task.AsError(err)
	d.failWith(name, began, e.Code, e.Error())
}

func (d *diagnosis) failWith(name string, began time.Time, code task.Code, detail string) {
	s := Step{Proxy: d.proxy, Name: name, Millis: millis(time.Since(began)), Code: code, Detail: d.Redact(detail)}
	if hint, ok := HintFor(code); ok {
		s.Cause, s.Fix = hint.Cause.In(d.Lang), hint.Fix.In(d.Lang)
	}
	d.report.Steps = append(d.report.Steps, s)
}

func millis(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// goAll goes every way that is set, and reports whether one leads to an API that takes the key. Where none even leads
// there, it tries those that aren't set.
func (d *diagnosis) goAll(ctx context.Context) bool {
	ways := d.Transport.Upstreams()
	var serves string
	var leads, reaches bool
	var first *proxy.Error
	for _, way := range ways {
		via := strings.Join(way.Via(d.BaseURL), "")
		if len(ways) > 1 {
			d.proxy = via
		}
		fault, ok := d.connect(ctx, way)
		reaches = reaches || ok
		if first == nil {
			first = fault
		}
		if ok && d.ask(ctx, way) && !leads {
			serves, leads = via, true
		}
		way.CloseIdleConnections()
	}
	d.proxy = ""
	switch {
	case leads && d.failed():
		d.report.Note = textServes.In(d.Lang, serves)
	case !reaches && first != nil:
		d.compare(ctx, first)
	}
	return leads
}

// failed reports whether a step failed.
func (d *diagnosis) failed() bool {
	return slices.ContainsFunc(d.report.Steps, func(s Step) bool { return !s.OK })
}

// connect makes a connection to the API and tells of its steps. It reports whether the last was reached.
func (d *diagnosis) connect(ctx context.Context, way *proxy.Transport) (fault *proxy.Error, ok bool) {
	began := time.Now()
	trace, err := way.Probe(ctx, d.BaseURL)
	d.tellTrace(trace)
	if err == nil {
		return nil, true
	}
	fault, ok = errors.AsType[*proxy.Error](err)
	if !ok {
		d.fail(StepProxy, began, err)
		return nil, false
	}
	detail := fault.Error()
	if issuer := fault.Issuer(); issuer != "" {
		detail += textIssuer.In(d.Lang, issuer)
	}
	d.failWith(failedStep(fault), began, fault.Code(), detail)
	return fault, false
}

// failedStep is the link that a fault broke.
func failedStep(fault *proxy.Error) string {
	switch code := fault.Code(); {
	case code == task.CodeDirectName || code == task.CodeProxyName:
		return StepDNS
	case code == task.CodeProxyLoginMissing || code == task.CodeProxyLoginRefused:
		return StepLogin
	case fault.Op == proxy.OpTLS:
		return StepTLS
	case fault.Op == proxy.OpConnect:
		return StepTunnel
	case fault.Proxy == "":
		return StepDirect
	}
	return StepProxy
}

// tellTrace tells of the steps that were done.
func (d *diagnosis) tellTrace(trace proxy.Trace) {
	if took, ok := trace.Took(proxy.OpResolve); ok || len(trace.Resolved) > 0 {
		detail := textAddress.In(d.Lang, trace.Host)
		if ok {
			detail = textResolved.In(d.Lang, trace.Host, strings.Join(trace.Resolved[:min(3, len(trace.Resolved))], ", "))
		}
		d.pass(StepDNS, took, detail)
	}
	if took, ok := trace.Took(proxy.OpDial); ok && trace.Proxy != "" {
		d.pass(StepProxy, took, textProxyAnswers.In(d.Lang, trace.Proxy))
	} else if ok {
		d.pass(StepDirect, took, textDirectAnswers.In(d.Lang))
	}
	if took, ok := trace.Took(proxy.OpConnect); ok {
		login := textNoLogin
		if trace.Login {
			login = textLogin
		}
		d.pass(StepLogin, took, login.In(d.Lang))
		d.pass(StepTunnel, took, textTunnel.In(d.Lang, d.BaseURL.Host))
	}
	if took, ok := trace.Took(proxy.OpTLS); ok && trace.TLS != nil && len(trace.TLS.PeerCertificates) > 0 {
		leaf := trace.TLS.PeerCertificates[0]
		d.pass(StepTLS, took, textTLS.In(d.Lang, tls.VersionName(trace.TLS.Version), name(leaf), proxy.IssuerOf(leaf), leaf.NotAfter.Format(time.DateOnly)))
	}
}

func name(c *x509.Certificate) string {
	switch {
	case c.Subject.CommonName != "":
		return c.Subject.CommonName
	case len(c.DNSNames) > 0:
		return c.DNSNames[0]
	}
	return c.Subject.String()
}

// compare tries another way, and says what that tells.
func (d *diagnosis) compare(ctx context.Context, fault *proxy.Error) {
	if fault.Proxy != "" {
		_, err := d.Direct.Probe(ctx, d.BaseURL)
		if err == nil {
			d.report.Note = textDirectWorks.In(d.Lang)
			return
		}
		d.report.Note = textDirectFails.In(d.Lang, codeOf(err))
		return
	}
	if d.Other == nil {
		d.report.Note = textNoOther.In(d.Lang)
		return
	}
	via := strings.Join(d.Other.Via(d.BaseURL), "")
	if _, err := d.Other.Probe(ctx, d.BaseURL); err != nil {
		d.report.Note = textOtherFails.In(d.Lang, via, codeOf(err))
		return
	}
	d.report.Note = textOtherWorks.In(d.Lang, via)
}

func codeOf(err error) task.Code {
	if fault, ok := errors.AsType[*proxy.Error](err); ok {
		return fault.Code()
	}
	return task.AsError(err).Code
}

// ask asks the API for its models by one way, which shows whether it takes the key.
func (d *diagnosis) ask(ctx context.Context, way *proxy.Transport) bool {
	began := time.Now()
	models, err := d.API(way).ListModels(ctx)
	took := time.Since(began)
	if err != nil {
		step, code := StepModels, task.AsError(err).Code
		if code == task.CodeUnauthorized {
			step = StepKey
		}
		d.fail(step, began, err)
		if (code == task.CodeWrongAddress || code == task.CodeWebPage) && d.AtV1 != nil {
			d.tryV1(ctx, way)
		}
		return false
	}
	d.pass(StepKey, took, textKey.In(d.Lang))
	switch {
	case len(models) == 0:
		d.pass(StepModels, took, textNoModels.In(d.Lang))
	case slices.Contains(models, d.Model):
		d.pass(StepModels, took, textModel.In(d.Lang, len(models), d.Model))
	default:
		d.pass(StepModels, took, textNotModel.In(d.Lang, len(models), d.Model))
	}
	return true
}

// tryV1 looks whether the base URL lacks nothing but its /v1.
func (d *diagnosis) tryV1(ctx context.Context, way *proxy.Transport) {
	if _, err := d.AtV1(way).ListModels(ctx); err == nil {
		d.report.Note = textV1.In(d.Lang, d.BaseURL.JoinPath("v1").Redacted())
	}
}

// Print writes a report for people.
func (r Report) Print(printf func(format string, args ...any), l lang.Lang) {
	about := ""
	for _, s := range r.Steps {
		if s.Proxy != about && s.Proxy != "" {
			printf("%s\n", s.Proxy)
		}
		about = s.Proxy
		mark := "✓"
		if !s.OK {
			mark = "✗"
		}
		printf("%s %s %8.1f ms  %s\n", mark, lang.Pad(titles[s.Name].In(l), 10), s.Millis, s.Detail)
		if s.Cause != "" {
			printf("  %s\n  → %s\n", s.Cause, s.Fix)
		}
		if s.Code != "" {
			printf("  (%s)\n", s.Code)
		}
	}
	if r.Note != "" {
		printf("  %s\n", r.Note)
	}
}
