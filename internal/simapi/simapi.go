// Package simapi simulates an Images API (https://platform.openai.com/docs/api-reference/images) for tests and the demo,
// including its failures. Each picture is drawn from its prompt, so that pictures differ. A prompt may begin with a behaviour
// in square brackets:
//
//	[moderation] [400] [401] [403] [404] [408] [409] [429] [500] [503]   this error, each time
//	[quota]       429 with insufficient_quota
//	[hang]        no response until the client gives up
//	[html]        a web page with status 200
//	[text]        base64 of data that is not a picture
//	[zero]        a response without pictures
//	[null]        a picture that is null
//	[error]       an error object with status 200
//	[truncated]   half of the JSON, with a matching length
//	[cut]         half of the JSON, then a broken connection
//	[break]       a broken connection instead of a response
//	[endless]     JSON that never ends
//	[url]         the URL of the picture instead of the picture; see Config.PictureURL
//
// Relays answer in other forms, which are in relay.go, such as [gzip], [sse], [no channel] and [cloudflare 524]. The chat endpoint of a relay and its
// behaviours are in chat.go. A request for a stream is answered by one, with the partial images that it asks for; [cut] and [early] end it after the
// first of them.
//
// A request whose parameters the real API refuses for its model gets the same refusal (see simulatedModels). It counts as a
// call, and Call.Refused names the parameter.
//
// With "once" ("[500 once] a cat") only the first request with that prompt is affected.
package simapi

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Config configures the API. The zero value is a fast API over plain HTTP that accepts any key.
type Config struct {
	Key     string                            // empty: any key is accepted
	TLS     *Authority                        // nil: plain http
	Delay   time.Duration                     // before each answer
	DelayOf func(prompt string) time.Duration // in addition; nil: none
	Picture func(prompt string) []byte
	// PictureURL returns the URL for a prompt with the behaviour [url], and in a chat. nil: one of this server.
	PictureURL func(prompt string) string
	ChatStep   time.Duration // between the lines of a streamed chat
	NoModels   bool          // /models returns 404, as some relays do
	Observe    func(Answer)  // called when a request for a picture has ended, from many goroutines; nil: not called
}

// Answer is what became of one request for a picture.
type Answer struct {
	Call
	Began, Ended time.Time
	Status       int    // 0: no response was begun
	Body         []byte // what was sent, at most the first 64 KB
}

// Call is one request for a picture.
type Call struct {
	At             time.Time // when it was read
	Path           string
	Remote         string // the caller's host:port, as the API saw it
	IdempotencyKey string // the header of that name
	Prompt         string
	Model          string
	Size           string
	Options        map[string]string // every parameter besides prompt, model, n and the pictures; what is not a string in JSON
	Input          []byte            // the first of Inputs
	Inputs         []Picture         // the pictures to edit
	Mask           *Picture
	Refused        string // the parameter that the API refused

	Text      string   // of a chat, as it came; Prompt is the prompt in it
	System    string   // the system text of a chat
	InputURLs []string // input pictures of a chat that are not in the request
}

// Server is a running API on a port of the loopback interface. It is safe for concurrent use.
type Server struct {
	conf     Config
	listener net.Listener
	http     *http.Server
	done     chan struct{}

	mu      sync.Mutex
	key     string
	calls   []Call
	probes  int
	refused struct {
		models  map[string]*Refusal // by the model's name
		list    *Refusal            // the list of models
		without int                 // requests without a prompt
	}
	behaviour string         // of prompts without one
	seen      map[string]int // prompts, by how often they came
	refusal   *Refusal
	busy      int
	most      int
	gate      chan struct{} // closed: responses are sent
	chatGate  chan struct{} // closed: streamed chats go on
}

// Refusal is an error response.
type Refusal struct {
	Status     int
	Code       string
	Message    string // empty: one that says nothing
	RetryAfter string
	WebPage    bool // instead of JSON
	// Body and ContentType are sent as they are, if there is a body.
	Body, ContentType string
	Header            http.Header // in addition
	// CompleteOnly: requests without a prompt are answered as usual.
	CompleteOnly bool
}

func (r *Refusal) send(w http.ResponseWriter) {
	for name, values := range r.Header {
		w.Header()[name] = values
	}
	if r.RetryAfter != "" {
		w.Header().Set("Retry-After", r.RetryAfter)
	}
	message := r.Message
	if message == "" {
		message = "refused by configuration"
	}
	switch {
	case r.Body != "":
		w.Header().Set("Content-Type", r.ContentType)
		w.WriteHeader(r.Status)
		_, _ = io.WriteString(w, r.Body)
	case r.WebPage:
		page(w, r.Status)
	default:
		fail(w, r.Status, r.Code, message)
	}
}

// Start starts an API.
func Start(conf Config) (*Server, error) {
	if conf.Picture == nil {
		conf.Picture = Draw
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{conf: conf, listener: listener, done: make(chan struct{}), key: conf.Key, seen: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", s.models)
	mux.HandleFunc("POST /v1/images/generations", s.generations)
	mux.HandleFunc("POST /v1/images/edits", s.edits)
	mux.HandleFunc("POST /v1/chat/completions", s.chats)
	mux.HandleFunc("GET /pictures/{prompt}", s.picture)
	s.http = &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	go func() {
		defer close(s.done)
		if conf.TLS == nil {
			_ = s.http.Serve(listener)
			return
		}
		s.http.TLSConfig = &tls.Config{Certificates: []tls.Certificate{conf.TLS.Certificate}}
		_ = s.http.ServeTLS(listener, "", "")
	}()
	return s, nil
}

// URL returns the API's root, with its /v1.
func (s *Server) URL() string {
	scheme := "http"
	if s.conf.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + s.listener.Addr().String() + "/v1"
}

// Close cuts every connection and ends the server.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}

// Calls returns the requests for pictures so far, in order.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.calls...)
}

// Probes returns how often the list of models was requested.
func (s *Server) Probes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.probes
}

// Busiest returns the largest number of requests in flight at the same time.
func (s *Server) Busiest() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

// Busy returns how many requests for pictures are in flight.
func (s *Server) Busy() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy
}

// Paid returns the number of requests with a prompt so far: those that a real API would bill.
func (s *Server) Paid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

// Incomplete returns the number of requests for a picture without a prompt so far. The API refuses them and bills nothing.
func (s *Server) Incomplete() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused.without
}

// SetBehaviour sets the behaviour of requests whose prompt has none, by its name without brackets; empty: a picture. Requests without a prompt
// and the list of models are not affected: see Refuse.
func (s *Server) SetBehaviour(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behaviour = name
}

// RefuseModel makes requests for pictures with that model fail; nil makes them succeed again.
func (s *Server) RefuseModel(model string, r *Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused.models == nil {
		s.refused.models = map[string]*Refusal{}
	}
	s.refused.models[model] = r
}

// RefuseList makes requests for the list of models fail, and nothing else; nil makes them succeed again.
func (s *Server) RefuseList(r *Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused.list = r
}

// Refuse makes every request fail, the list of models too; nil makes them succeed again.
func (s *Server) Refuse(r *Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusal = r
}

// SetKey changes the key that requests need from now on.
func (s *Server) SetKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = key
}

func (s *Server) requiredKey() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key
}

// BlockResponses makes responses wait until the returned function is called, once.
func (s *Server) BlockResponses() (release func()) {
	gate := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = gate
	return func() {
		s.mu.Lock()
		s.gate = nil
		s.mu.Unlock()
		close(gate)
	}
}

// authorized reports whether a request has the key that was required when it came, and responds if it has not. complete: it has a prompt.
func (s *Server) authorized(w http.ResponseWriter, r *http.Request, required string, complete bool) bool {
	s.mu.Lock()
	refusal := s.refusal
	s.mu.Unlock()
	if refusal != nil && refusal.CompleteOnly && !complete {
		refusal = nil
	}
	w.Header().Set("X-Ratelimit-Limit-Requests", "60")
	w.Header().Set("X-Ratelimit-Remaining-Requests", "59")
	if refusal != nil && refusal.Status == http.StatusTooManyRequests {
		w.Header().Set("X-Ratelimit-Remaining-Requests", "0")
		w.Header().Set("X-Ratelimit-Reset-Requests", refusal.RetryAfter)
	}
	if refusal != nil {
		refusal.send(w)
		return false
	}
	key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if required != "" && key != required {
		fail(w, http.StatusUnauthorized, "invalid_api_key", "Incorrect API key provided: "+key)
		return false
	}
	return true
}

func (s *Server) models(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.probes++
	s.mu.Unlock()
	switch {
	case s.conf.NoModels:
		http.NotFound(w, r)
	case s.authorized(w, r, s.requiredKey(), true) && !s.refuseList(w):
		answer(w, http.StatusOK, map[string]any{"object": "list", "data": []any{map[string]string{"id": "gpt-image-2", "object": "model"}}})
	}
}

func (s *Server) generations(w http.ResponseWriter, r *http.Request) {
	c, err := readJSON(r)
	if err != nil || c.Prompt == "" {
		s.incomplete(w, r, c)
		return
	}
	s.serve(w, r, c, nil)
}

// incomplete refuses a request without a prompt, as the API does: nothing is made, and it is not billed.
func (s *Server) incomplete(w http.ResponseWriter, r *http.Request, c Call) {
	s.mu.Lock()
	s.refused.without++
	s.mu.Unlock()
	if s.authorized(w, r, s.requiredKey(), false) && !s.refuseModel(w, c.Model, false) {
		failParameter(w, &refusal{"prompt", "missing_required_parameter", "Missing required parameter: 'prompt'."})
	}
}

// refuseModel responds if the model is refused. complete: the request has a prompt.
func (s *Server) refuseModel(w http.ResponseWriter, model string, complete bool) bool {
	s.mu.Lock()
	r := s.refused.models[model]
	s.mu.Unlock()
	if r == nil || (r.CompleteOnly && !complete) {
		return false
	}
	r.send(w)
	return true
}

func (s *Server) refuseList(w http.ResponseWriter) bool {
	s.mu.Lock()
	r := s.refused.list
	s.mu.Unlock()
	if r == nil {
		return false
	}
	r.send(w)
	return true
}

func (s *Server) edits(w http.ResponseWriter, r *http.Request) {
	c, wrong := readForm(r)
	s.serve(w, r, c, wrong)
}

// serve records a request and responds with the behaviour of its prompt. wrong is what is wrong with its form; nil: nothing.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, c Call, wrong *refusal) {
	c.Path, c.Remote, c.IdempotencyKey = r.URL.Path, r.RemoteAddr, r.Header.Get("Idempotency-Key")
	if wrong == nil && !c.isChat() {
		wrong = c.check()
	}
	if wrong != nil {
		c.Refused = wrong.param
	}
	s.mu.Lock()
	c.At = time.Now()
	s.calls = append(s.calls, c)
	s.seen[c.Prompt]++
	nth, gate, key := s.seen[c.Prompt], s.gate, s.key
	s.busy++
	s.most = max(s.most, s.busy)
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.busy--; s.mu.Unlock() }()
	if s.conf.Observe != nil {
		recorder := &responseRecorder{ResponseWriter: w}
		w = recorder
		began := time.Now()
		defer func() {
			s.conf.Observe(Answer{Call: c, Began: began, Ended: time.Now(), Status: recorder.status, Body: recorder.body})
		}()
	}

	if gate != nil {
		select {
		case <-gate:
		case <-r.Context().Done():
			return
		}
	}
	delay := s.conf.Delay
	if s.conf.DelayOf != nil {
		delay += s.conf.DelayOf(c.Prompt)
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-r.Context().Done():
			return
		}
	}
	if !s.authorized(w, r, key, true) || s.refuseModel(w, c.Model, true) {
		return
	}
	w.Header().Set("X-Request-Id", fmt.Sprintf("req_sim_%d", len(s.Calls())))
	if wrong != nil {
		failParameter(w, wrong)
		return
	}
	name := behaviour(c.Prompt, nth)
	if name == "" {
		name = s.defaultBehaviour()
	}
	s.behave(w, r, c, name)
}

// responseRecorder keeps what is sent.
type responseRecorder struct {
	http.ResponseWriter
	status int
	body   []byte
}

// Unwrap lets http.ResponseController flush.
func (r *responseRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (r *responseRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *responseRecorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	r.body = append(r.body, p[:min(len(p), maxRecorded-len(r.body))]...)
	return r.ResponseWriter.Write(p)
}
