package diagnosis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"imagetasks/pkg/proxy"
	"imagetasks/pkg/task"
)

// checkAPI asks the endpoint that makes pictures, and reports whether it makes them. The fault is that of a proxy that did not forward the
// request. The list of models is only shown: not every key may list them.
func (d *diagnosis) checkAPI(ctx context.Context, upstream *proxy.Transport) (fault *proxy.Error, passed bool) {
	began := time.Now()
	api := d.API(upstream)
	err := d.check(ctx, upstream, api)
	took := time.Since(began)
	_, failed := errors.AsType[*task.Error](err)
	switch {
	case errors.Is(err, task.ErrUncheckable) && (!failed || d.Image != nil):
		// A server error may be how it refuses an incomplete request. Only a picture can tell.
		d.pass(StepEndpoint, took, DetailUncheckable)
	case err != nil:
		return d.failCheck(ctx, upstream, began, err), false
	default:
		detail := DetailEndpoint
		if d.Chat {
			detail = DetailChatEndpoint
		}
		d.pass(StepKey, took, DetailKeyAccepted)
		d.pass(StepEndpoint, took, detail)
	}
	d.listModels(ctx, api)
	return nil, true
}

// check asks the endpoint within a time limit.
func (d *diagnosis) check(ctx context.Context, upstream *proxy.Transport, api API) error {
	limit := checkTimeout
	forwards := d.forwards(upstream)
	if forwards {
		limit = forwardTimeout
	}
	checkCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := api.Check(checkCtx, d.Model)
	if err == nil || checkCtx.Err() == nil || ctx.Err() != nil {
		return err
	}
	if _, ok := errors.AsType[*proxy.Error](err); ok {
		return err
	}
	silent := &task.Error{Code: task.CodeTimeout, Disposition: task.Release, Message: "no response within " + limit.String(), Err: err}
	if !forwards {
		return silent
	}
	// Either the API or the proxy does not respond. Through a tunnel the proxy has no part in the response.
	tunneled := upstream.Tunneled()
	defer tunneled.CloseIdleConnections()
	tunneledCtx, cancel := context.WithTimeout(ctx, tunneledTimeout)
	defer cancel()
	if err := d.API(tunneled).Check(tunneledCtx, d.Model); err == nil || isAnswer(err) {
		return &proxy.Error{Op: proxy.OpForward, Proxy: strings.Join(upstream.Via(d.BaseURL), ""), Target: d.BaseURL.Host,
			Err: fmt.Errorf("no response within %s, while the API responds through a tunnel: %w", limit, context.DeadlineExceeded)}
	}
	silent.Message += ", from the API or from the proxy: nothing tells which of them does not respond"
	return silent
}

// forwards reports whether an http proxy forwards the requests.
func (d *diagnosis) forwards(upstream *proxy.Transport) bool {
	return d.BaseURL.Scheme == "http" && strings.HasPrefix(strings.Join(upstream.Via(d.BaseURL), ""), "http")
}

// isAnswer reports whether an error of Check is a response of the API.
func isAnswer(err error) bool {
	e, ok := errors.AsType[*task.Error](err)
	if !ok {
		return errors.Is(err, task.ErrUncheckable)
	}
	_, failed := errors.AsType[*proxy.Error](err)
	return !failed && e.Code != task.CodeTimeout && e.Code != task.CodeNetwork && e.Code != task.CodeCutOff
}

// failCheck records why the endpoint can't be used.
func (d *diagnosis) failCheck(ctx context.Context, upstream *proxy.Transport, began time.Time, err error) *proxy.Error {
	if fault, ok := errors.AsType[*proxy.Error](err); ok {
		d.failConnection(began, fault)
		return fault
	}
	e := task.AsError(err)
	if e.Code == task.CodeNetwork && d.BaseURL.Scheme == "http" {
		// A proxy may take every request and connect afterwards. Over https that shows in the handshake.
		cause := err
		if e.Err != nil {
			cause = e.Err
		}
		if fault := upstream.Closed(d.BaseURL, cause); fault != nil {
			d.failConnection(began, fault)
			return fault
		}
	}
	switch {
	case e.Code == task.CodeProxyLoginMissing || e.Code == task.CodeProxyLoginRefused:
		d.fail(StepLogin, began, err)
	case e.Code == task.CodeUnauthorized:
		d.fail(StepKey, began, err)
	case e.Code == task.CodeModelRefused || e.Scope == task.ScopeModel:
		d.pass(StepKey, time.Since(began), DetailKeyAccepted)
		d.fail(StepModel, began, err)
	default:
		d.fail(StepEndpoint, began, err)
		if (e.Code == task.CodeWrongAddress || e.Code == task.CodeWebPage) && d.APIAtV1 != nil {
			d.tryV1(ctx, upstream)
		}
	}
	return nil
}

// listModels shows the list of models. It fails no step.
func (d *diagnosis) listModels(ctx context.Context, api API) {
	ctx, cancel := context.WithTimeout(ctx, modelsTimeout)
	defer cancel()
	began := time.Now()
	models, err := api.ListModels(ctx)
	took := time.Since(began)
	switch {
	case err != nil:
		d.pass(StepModels, took, DetailModelsRefused, task.AsError(err).Error())
	case len(models) == 0:
		d.pass(StepModels, took, DetailNoModelList)
	case slices.Contains(models, d.Model):
		d.pass(StepModels, took, DetailModelListed, len(models), d.Model)
	default:
		d.pass(StepModels, took, DetailModelMissing, len(models), d.Model)
	}
}

// tryV1 checks whether the base URL only lacks its /v1.
func (d *diagnosis) tryV1(ctx context.Context, upstream *proxy.Transport) {
	ctx, cancel := context.WithTimeout(ctx, modelsTimeout)
	defer cancel()
	if err := d.APIAtV1(upstream).Check(ctx, d.Model); err == nil {
		d.note(NoteV1, d.BaseURL.JoinPath("v1").Redacted())
	}
}
