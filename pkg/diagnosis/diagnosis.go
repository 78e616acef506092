// Package diagnosis checks each step of the connection to the image API and reports which one fails, and why: settings,
// DNS, proxy, login, tunnel, TLS, key, the endpoint that makes pictures, and a picture if one is requested. It changes nothing.
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
	// Check asks the endpoint that makes pictures, free of charge. It returns nil if the endpoint works, task.ErrUncheckable if it can't be
	// asked, else a *task.Error, which wraps task.ErrUncheckable if the endpoint may work nevertheless.
	Check(ctx context.Context, model string) error
	ListModels(ctx context.Context) ([]string, error)
}

// Config configures a diagnosis.
type Config struct {
	BaseURL   *url.URL
	Model     string
	Chat      bool             // pictures are made by the endpoint for chats
	Transport *proxy.Transport // the route of the settings
	Direct    *proxy.Transport // without a proxy; nil: no direct connection is made to compare
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
	DetailEndpoint      DetailCode = "endpoint"       //
	DetailChatEndpoint  DetailCode = "chat_endpoint"  //
	DetailUncheckable   DetailCode = "uncheckable"    //
	DetailModelsRefused DetailCode = "models_refused" // message
	DetailModelListed   DetailCode = "model_listed"   // number of models, model
	DetailModelMissing  DetailCode = "model_missing"  // number of models, model
	DetailNoModelList   DetailCode = "no_model_list"  //
	DetailPicture       DetailCode = "picture"        // path, width, height
	DetailError         DetailCode = "error"          // message
	DetailCertificate   DetailCode = "certificate"    // message, issuer of the refused certificate

	// Notes on other routes, after a step failed.
	NoteServes    DetailCode = "proxy_serves"      // proxy
	NoteV1        DetailCode = "base_url_lacks_v1" // URL
	NoteNotDirect DetailCode = "direct_not_tried"  //

	NoteDirectWorks        DetailCode = "direct_works"        //
	NoteNodeFails          DetailCode = "direct_works_node"   // the proxy works, and does not reach the API
	NoteDirectFiltered     DetailCode = "direct_fails"        // error code; as connections do that a network filters
	NoteDirectUnclear      DetailCode = "direct_unclear"      // error code; the proxy's failure says nothing about the API
	NoteDownBothWays       DetailCode = "down_both_ways"      // error code of the direct connection
	NoteAlternativeWorks   DetailCode = "alternative_works"   // proxy
	NoteAlternativeFails   DetailCode = "alternative_fails"   // proxy, error code
	NoteAlternativeUnclear DetailCode = "alternative_unclear" // proxy
	NoteAlternativeDown    DetailCode = "alternative_down"    // proxy, error code; neither reaches the API
	NoteNoAlternative      DetailCode = "no_alternative"      //
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
	StepEndpoint StepName = "endpoint" // that makes pictures
	StepModel    StepName = "model"    // only if the API refuses it
	StepModels   StepName = "models"   // the list, which is only shown
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

// checkUpstreams checks every configured upstream and reports whether one leads to an API that makes pictures. If none
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
		passed := false
		fault, ok := d.connect(ctx, upstream)
		if ok {
			fault, passed = d.checkAPI(ctx, upstream)
			reached = reached || fault == nil
		}
		if first == nil {
			first = fault
		}
		if passed && !works {
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
	d.failConnection(began, fault)
	return fault, false
}

// failConnection records the step that a connection error belongs to.
func (d *diagnosis) failConnection(began time.Time, fault *proxy.Error) {
	detail := Detail{DetailError, []any{d.Redact(fault.Error())}}
	if issuer := fault.Issuer(); issuer != "" {
		detail = Detail{DetailCertificate, []any{d.Redact(fault.Error()), issuer}}
	}
	step := failedStep(fault)
	// What the connection passed at first is not shown as passed beside its failure.
	d.report.Steps = slices.DeleteFunc(d.report.Steps, func(s Step) bool { return s.Name == step && s.Proxy == d.proxy && s.OK })
	d.failWith(step, began, fault.Code(), detail)
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
	_, forwards := trace.Took(proxy.OpForward)
	if took, ok := trace.Took(proxy.OpConnect); ok && !forwards {
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

// compare tries another route and notes what both tries show.
func (d *diagnosis) compare(ctx context.Context, fault *proxy.Error) {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	if fault.Proxy == "" {
		d.compareAlternative(ctx, fault)
		return
	}
	if d.Direct == nil {
		d.note(NoteNotDirect)
		return
	}
	_, err := d.Direct.Probe(ctx, d.BaseURL)
	switch code := codeOf(err); {
	case err == nil && isOfTarget(fault):
		d.note(NoteNodeFails)
	case err == nil:
		d.note(NoteDirectWorks)
	case isFiltered(code):
		d.note(NoteDirectFiltered, string(code))
	case isOfTarget(fault):
		d.note(NoteDownBothWays, string(code))
	default:
		d.note(NoteDirectUnclear, string(code))
	}
}

// compareAlternative tries a proxy after a direct connection failed.
func (d *diagnosis) compareAlternative(ctx context.Context, fault *proxy.Error) {
	if d.Alternative == nil {
		d.note(NoteNoAlternative)
		return
	}
	via := strings.Join(d.Alternative.Via(d.BaseURL), "")
	trace, err := d.Alternative.Probe(ctx, d.BaseURL)
	_, forwards := trace.Took(proxy.OpForward)
	_, tunnels := trace.Took(proxy.OpConnect)
	other, _ := errors.AsType[*proxy.Error](err)
	switch {
	case err == nil && forwards && !tunnels:
		d.note(NoteAlternativeUnclear, via)
	case err == nil:
		d.note(NoteAlternativeWorks, via)
	case other != nil && isOfTarget(other) && !isFiltered(fault.Code()):
		d.note(NoteAlternativeDown, via, string(codeOf(err)))
	default:
		d.note(NoteAlternativeFails, via, string(codeOf(err)))
	}
}

// isOfTarget reports whether a proxy worked and did not reach the API.
func isOfTarget(fault *proxy.Error) bool {
	switch fault.Code() {
	case task.CodeProxyTarget, task.CodeProxyTunnelClosed, task.CodeSOCKSFailure, task.CodeSOCKSNetwork, task.CodeSOCKSHost, task.CodeSOCKSRefused,
		task.CodeSOCKSExpired, task.CodeTLSTimeout, task.CodeDirectName:
		return true
	}
	return false
}

// isFiltered reports whether a direct connection failed as connections do that a network filters or intercepts.
func isFiltered(code task.Code) bool {
	switch code {
	case task.CodeTLSReset, task.CodeTLSAuthority, task.CodeTLSHost, task.CodeTLSTimeout:
		return true
	}
	return false
}

func codeOf(err error) task.Code {
	if err == nil {
		return ""
	}
	if fault, ok := errors.AsType[*proxy.Error](err); ok {
		return fault.Code()
	}
	return task.AsError(err).Code
}

// How long the API may take for an answer that needs no work. An http proxy that forwards requests and does not respond must not take longer
// than one that opens tunnels.
const (
	checkTimeout    = time.Minute
	forwardTimeout  = 10 * time.Second
	tunneledTimeout = 4 * time.Second
	modelsTimeout   = 15 * time.Second
	compareTimeout  = 4 * time.Second // of another route: what hangs on both must not take longer than 20 s
)
