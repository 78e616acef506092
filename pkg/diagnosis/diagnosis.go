// Package diagnosis checks each step of the connection to the image API and reports which one fails, and why: settings,
// DNS, proxy, login, tunnel, TLS, key, models, and a picture if one is requested. It changes nothing.
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

	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// API is what a diagnosis needs of the image API's client.
type API interface {
	ListModels(ctx context.Context) ([]string, error)
}

// Config configures a diagnosis.
type Config struct {
	BaseURL   *url.URL
	Model     string
	Transport *proxy.Transport // the route of the settings
	Direct    *proxy.Transport // without a proxy
	// Alternative goes through a proxy that is configured but not used for the base URL, or that this host seems to run;
	// nil: there is none.
	Alternative *proxy.Transport
	API         func(by *proxy.Transport) API
	APIAtV1     func(by *proxy.Transport) API                        // the API at BaseURL + /v1; nil: BaseURL ends in /v1
	Image       func(ctx context.Context) (detail Detail, err error) // nil: no picture is requested
	Redact      func(string) string
}

// Detail says what a step found: a code and its arguments, to be rendered in the reader's language.
type Detail struct {
	Code DetailCode
	Args []any
}

// DetailCode identifies a detail.
type DetailCode string

// The details, with their arguments.
const (
	DetailRoute         DetailCode = "route"          // base URL, proxies ([]string)
	DetailResolved      DetailCode = "resolved"       // host, addresses
	DetailNoLookup      DetailCode = "no_lookup"      // host
	DetailProxyAccepts  DetailCode = "proxy_accepts"  // proxy
	DetailAPIAccepts    DetailCode = "api_accepts"    //
	DetailLoginAccepted DetailCode = "login_accepted" //
	DetailNoLogin       DetailCode = "no_login"       //
	DetailTunnel        DetailCode = "tunnel"         // host
	DetailTLS           DetailCode = "tls"            // version, subject, issuer, last day
	DetailKeyAccepted   DetailCode = "key_accepted"   //
	DetailModelListed   DetailCode = "model_listed"   // number of models, model
	DetailModelMissing  DetailCode = "model_missing"  // number of models, model
	DetailNoModelList   DetailCode = "no_model_list"  //
	DetailPicture       DetailCode = "picture"        // path, width, height
	DetailError         DetailCode = "error"          // message
	DetailCertificate   DetailCode = "certificate"    // message, issuer of the refused certificate

	// Notes on other routes, after a step failed.
	NoteServes           DetailCode = "proxy_serves"      // proxy
	NoteV1               DetailCode = "base_url_lacks_v1" // URL
	NoteDirectWorks      DetailCode = "direct_works"      //
	NoteDirectFails      DetailCode = "direct_fails"      // error code
	NoteAlternativeWorks DetailCode = "alternative_works" // proxy
	NoteAlternativeFails DetailCode = "alternative_fails" // proxy, error code
	NoteNoAlternative    DetailCode = "no_alternative"    //
)

// Step is one checked step of the connection.
type Step struct {
	Proxy  string // the proxy that the step is about, if several are configured
	Name   StepName
	OK     bool
	Millis float64 // of the exchange that showed the result; two steps may share one
	Detail Detail
	Code   task.Code // empty if OK
}

// StepName identifies a step.
type StepName string

// The steps, in their order.
const (
	StepSettings StepName = "settings"
	StepDNS      StepName = "dns"
	StepDirect   StepName = "connection" // without a proxy
	StepProxy    StepName = "proxy"
	StepLogin    StepName = "login"
	StepTunnel   StepName = "tunnel"
	StepTLS      StepName = "tls"
	StepKey      StepName = "key"
	StepModels   StepName = "models"
	StepImage    StepName = "image"
)

// Report is the result of a diagnosis.
type Report struct {
	OK    bool
	Steps []Step
	Note  *Detail // what another route showed, after a step failed; nil: no other route was tried
}

// Run checks the steps in their order until one fails.
func Run(ctx context.Context, conf Config) Report {
	d := &diagnosis{Config: conf}
	d.run(ctx)
	d.report.OK = !d.failed()
	return d.report
}

// BadSettings returns the report for settings that can't be used: nothing was tried. The reason must be redacted.
func BadSettings(reason string) Report {
	return Report{Steps: []Step{{Name: StepSettings, Code: task.CodeSettings, Detail: Detail{DetailError, []any{reason}}}}}
}

type diagnosis struct {
	Config
	report Report
	proxy  string // the proxy that is checked, if several are configured
}

func (d *diagnosis) run(ctx context.Context) {
	d.pass(StepSettings, 0, DetailRoute, d.BaseURL.Redacted(), d.Transport.Via(d.BaseURL))
	if !d.checkUpstreams(ctx) || d.Image == nil {
		return
	}
	began := time.Now()
	detail, err := d.Image(ctx)
	if err != nil {
		d.fail(StepImage, began, err)
		return
	}
	d.pass(StepImage, time.Since(began), detail.Code, detail.Args...)
}

func (d *diagnosis) pass(name StepName, took time.Duration, code DetailCode, args ...any) {
	for i, arg := range args {
		if text, ok := arg.(string); ok {
			args[i] = d.Redact(text)
		}
	}
	d.report.Steps = append(d.report.Steps, Step{Proxy: d.proxy, Name: name, OK: true, Millis: millis(took), Detail: Detail{code, args}})
}

func (d *diagnosis) fail(name StepName, began time.Time, err error) {
	e := task.AsError(err)
	d.failWith(name, began, e.Code, Detail{DetailError, []any{d.Redact(e.Error())}})
}

func (d *diagnosis) failWith(name StepName, began time.Time, code task.Code, detail Detail) {
	d.report.Steps = append(d.report.Steps, Step{Proxy: d.proxy, Name: name, Millis: millis(time.Since(began)), Code: code, Detail: detail})
}

func (d *diagnosis) note(code DetailCode, args ...any) { d.report.Note = &Detail{code, args} }

func millis(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// checkUpstreams checks every configured upstream and reports whether one leads to an API that accepts the key. If none
// even reaches the API, it tries routes that are not configured.
func (d *diagnosis) checkUpstreams(ctx context.Context) bool {
	upstreams := d.Transport.Upstreams()
	var serving string
	var works, reached bool
	var first *proxy.Error
	for _, upstream := range upstreams {
		via := strings.Join(upstream.Via(d.BaseURL), "")
		if len(upstreams) > 1 {
			d.proxy = via
		}
		fault, ok := d.connect(ctx, upstream)
		reached = reached || ok
		if first == nil {
			first = fault
		}
		if ok && d.checkAPI(ctx, upstream) && !works {
			serving, works = via, true
		}
		upstream.CloseIdleConnections()
	}
	d.proxy = ""
	switch {
	case works && d.failed():
		d.note(NoteServes, serving)
	case !reached && first != nil:
		d.compare(ctx, first)
	}
	return works
}

// failed reports whether a step failed.
func (d *diagnosis) failed() bool {
	return slices.ContainsFunc(d.report.Steps, func(s Step) bool { return !s.OK })
}

// connect makes a connection to the API, records its steps, and reports whether all of them passed.
func (d *diagnosis) connect(ctx context.Context, upstream *proxy.Transport) (fault *proxy.Error, ok bool) {
	began := time.Now()
	trace, err := upstream.Probe(ctx, d.BaseURL)
	d.recordTrace(trace)
	if err == nil {
		return nil, true
	}
	fault, ok = errors.AsType[*proxy.Error](err)
	if !ok {
		d.fail(StepProxy, began, err)
		return nil, false
	}
	detail := Detail{DetailError, []any{d.Redact(fault.Error())}}
	if issuer := fault.Issuer(); issuer != "" {
		detail = Detail{DetailCertificate, []any{d.Redact(fault.Error()), issuer}}
	}
	d.failWith(failedStep(fault), began, fault.Code(), detail)
	return fault, false
}

// failedStep returns the step that a connection error belongs to.
func failedStep(fault *proxy.Error) StepName {
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

// recordTrace records the steps of a connection that were completed.
func (d *diagnosis) recordTrace(trace proxy.Trace) {
	if took, ok := trace.Took(proxy.OpResolve); ok {
		d.pass(StepDNS, took, DetailResolved, trace.Host, strings.Join(trace.Resolved[:min(3, len(trace.Resolved))], ", "))
	} else if len(trace.Resolved) > 0 {
		d.pass(StepDNS, 0, DetailNoLookup, trace.Host)
	}
	if took, ok := trace.Took(proxy.OpDial); ok && trace.Proxy != "" {
		d.pass(StepProxy, took, DetailProxyAccepts, trace.Proxy)
	} else if ok {
		d.pass(StepDirect, took, DetailAPIAccepts)
	}
	if took, ok := trace.Took(proxy.OpConnect); ok {
		login := DetailNoLogin
		if trace.Login {
			login = DetailLoginAccepted
		}
		d.pass(StepLogin, took, login)
		d.pass(StepTunnel, took, DetailTunnel, d.BaseURL.Host)
	}
	if took, ok := trace.Took(proxy.OpTLS); ok && trace.TLS != nil && len(trace.TLS.PeerCertificates) > 0 {
		leaf := trace.TLS.PeerCertificates[0]
		d.pass(StepTLS, took, DetailTLS, tls.VersionName(trace.TLS.Version), subject(leaf), proxy.IssuerOf(leaf), leaf.NotAfter.Format(time.DateOnly))
	}
}

func subject(c *x509.Certificate) string {
	switch {
	case c.Subject.CommonName != "":
		return c.Subject.CommonName
	case len(c.DNSNames) > 0:
		return c.DNSNames[0]
	}
	return c.Subject.String()
}

// compare tries another route and notes the result: it shows whether the proxy is at fault.
func (d *diagnosis) compare(ctx context.Context, fault *proxy.Error) {
	if fault.Proxy != "" {
		if _, err := d.Direct.Probe(ctx, d.BaseURL); err != nil {
			d.note(NoteDirectFails, string(codeOf(err)))
			return
		}
		d.note(NoteDirectWorks)
		return
	}
	if d.Alternative == nil {
		d.note(NoteNoAlternative)
		return
	}
	via := strings.Join(d.Alternative.Via(d.BaseURL), "")
	if _, err := d.Alternative.Probe(ctx, d.BaseURL); err != nil {
		d.note(NoteAlternativeFails, via, string(codeOf(err)))
		return
	}
	d.note(NoteAlternativeWorks, via)
}

func codeOf(err error) task.Code {
	if fault, ok := errors.AsType[*proxy.Error](err); ok {
		return fault.Code()
	}
	return task.AsError(err).Code
}

// checkAPI lists the API's models, which shows whether it accepts the key.
func (d *diagnosis) checkAPI(ctx context.Context, upstream *proxy.Transport) bool {
	began := time.Now()
	models, err := d.API(upstream).ListModels(ctx)
	took := time.Since(began)
	if err != nil {
		step, code := StepModels, task.AsError(err).Code
		if code == task.CodeUnauthorized {
			step = StepKey
		}
		d.fail(step, began, err)
		if (code == task.CodeWrongAddress || code == task.CodeWebPage) && d.APIAtV1 != nil {
			d.tryV1(ctx, upstream)
		}
		return false
	}
	d.pass(StepKey, took, DetailKeyAccepted)
	switch {
	case len(models) == 0:
		d.pass(StepModels, took, DetailNoModelList)
	case slices.Contains(models, d.Model):
		d.pass(StepModels, took, DetailModelListed, len(models), d.Model)
	default:
		d.pass(StepModels, took, DetailModelMissing, len(models), d.Model)
	}
	return true
}

// tryV1 checks whether the base URL only lacks its /v1.
func (d *diagnosis) tryV1(ctx context.Context, upstream *proxy.Transport) {
	if _, err := d.APIAtV1(upstream).ListModels(ctx); err == nil {
		d.note(NoteV1, d.BaseURL.JoinPath("v1").Redacted())
	}
}
