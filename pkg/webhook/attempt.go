package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"imagetasks/pkg/proxy"
	"imagetasks/pkg/store"
)

const (
	statusTooManyRequests = http.StatusTooManyRequests
	statusUnavailable     = http.StatusServiceUnavailable
)

// How much of the body of a response is read, and for how long.
const (
	maxResponse = 64 << 10
	drainTime   = time.Second
)

// maxReason bounds what is kept about a failure, in bytes.
const maxReason = 500

func uuidHex() string { return strings.ReplaceAll(uuid.NewString(), "-", "") }

// attempt sends an event once.
func (s *Service) attempt(ctx context.Context, e store.Event) store.EventOutcome {
	o := s.sendEvent(ctx, e)
	o.Event = e
	if o.Result == store.ResultRetry && ctx.Err() != nil {
		// The stop cut it: whether the receiver has it is not known.
		return store.EventOutcome{Event: e, Result: store.ResultReleased}
	}
	if o.Result == store.ResultRetry {
		o.Wait = max(o.Wait, jitter(min(s.conf.FirstRetry<<min(e.Attempts, 20), s.conf.LongestRetry)))
	}
	return o
}

func giveUp(err error) store.EventOutcome {
	return store.EventOutcome{Result: store.ResultUndelivered, Reason: err.Error()}
}

// sendEvent sends an event to its receiver, if that is allowed.
func (s *Service) sendEvent(ctx context.Context, e store.Event) store.EventOutcome {
	m, err := newMessage(e)
	if err != nil {
		return giveUp(err)
	}
	if e.Receiver == store.ReceiverWebhook {
		return s.send(ctx, s.url, e.ID, m, true)
	}
	u, err := parseURL(e.URL)
	switch {
	case err != nil:
		return giveUp(fmt.Errorf("option webhook_url: %w", err))
	case u.User != nil:
		return giveUp(errors.New("option webhook_url: the URL has a login"))
	case !s.conf.Hosts.allow(u):
		return giveUp(fmt.Errorf("option webhook_url: COMPLETION_WEBHOOK_HOSTS does not list the host %s", e.Host))
	}
	if err := s.conf.checkHost(u); err != nil {
		return giveUp(fmt.Errorf("option webhook_url: %w", err))
	}
	return s.send(ctx, u, e.ID, m, false)
}

// send sends a message once. own: to Config.URL, for which the template is.
func (s *Service) send(ctx context.Context, u *url.URL, id string, m Message, own bool) store.EventOutcome {
	var r rendered
	var err error
	if own && s.conf.Template != nil {
		r, err = s.conf.Template.execute(m)
	} else {
		r.contentType = jsonType
		r.body, err = json.Marshal(m)
	}
	if err != nil {
		return giveUp(err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.conf.Timeout)
	defer cancel()
	requestCtx := proxy.WithOtherTarget(ctx)
	if !s.conf.AllowPrivate {
		requestCtx = proxy.WithCheckAddr(requestCtx, checkAddr)
	}
	request, err := http.NewRequestWithContext(requestCtx, http.MethodPost, u.String(), bytes.NewReader(r.body))
	if err != nil {
		return giveUp(errors.New("the URL can't be used"))
	}
	now := time.Now()
	request.Header.Set("Content-Type", r.contentType)
	request.Header.Set("User-Agent", s.conf.UserAgent)
	request.Header.Set("webhook-id", id)
	request.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	if signature := sign(s.conf.Secrets, id, now, r.body); signature != "" {
		request.Header.Set("webhook-signature", signature)
	}
	switch {
	case r.authorization != "":
		request.Header.Set("Authorization", r.authorization)
	case u.User != nil:
		password, _ := u.User.Password()
		request.SetBasicAuth(u.User.Username(), password)
	}
	response, err := s.conf.Transport.RoundTrip(request)
	if err != nil {
		return store.EventOutcome{Result: store.ResultRetry, Reason: s.reason(ctx, u, err)}
	}
	defer response.Body.Close()
	o := outcomeOf(response, now)
	// The status decides. The body is read so that the connection can be used again, if it ends soon.
	drain := time.AfterFunc(drainTime, cancel)
	defer drain.Stop()
	_, _ = io.CopyN(io.Discard, response.Body, maxResponse)
	return o
}

// outcomeOf returns the outcome that a response means.
func outcomeOf(response *http.Response, now time.Time) store.EventOutcome {
	o := store.EventOutcome{Status: response.StatusCode, Result: store.ResultRetry}
	switch status := response.StatusCode; {
	case status >= 200 && status < 300:
		o.Result = store.ResultDelivered
	case status == http.StatusGone:
		o.Result, o.Reason = store.ResultUndelivered, "the receiver responded 410 (Gone): it wants no more events"
	case status >= 300 && status < 400:
		o.Reason = fmt.Sprintf("the receiver responded %d, a redirect, which is not followed; set the address that it redirects to", status)
	default:
		o.Reason = fmt.Sprintf("the receiver responded %s", strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status))))
		o.Wait, o.Asked = retryAfter(response.Header.Get("Retry-After"), now)
	}
	return o
}

// longestWait bounds the wait that a receiver asks for, so that another attempt follows within the day.
const longestWait = 12 * time.Hour

// retryAfter returns the wait that a receiver asks for.
func retryAfter(text string, now time.Time) (wait time.Duration, asked bool) {
	if n, err := strconv.Atoi(strings.TrimSpace(text)); err == nil && n >= 0 {
		return min(time.Duration(min(n, int(longestWait/time.Second)))*time.Second, longestWait), true
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(at.Sub(now), 0), longestWait), true
	}
	return 0, false
}

// reason describes an error of the connection, without the URL but for its host.
func (s *Service) reason(ctx context.Context, u *url.URL, err error) string {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Sprintf("the receiver did not respond within %s", s.conf.Timeout)
	}
	text := err.Error()
	for _, private := range []string{u.String(), u.RequestURI()} {
		if len(private) > 1 {
			text = strings.ReplaceAll(text, private, "[URL]")
		}
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s.conf.Redact(text))
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
}
