package simapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
)

func (s *Server) defaultBehaviour() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.behaviour
}

// behaviour returns the behaviour in brackets at the start of a prompt.
func behaviour(prompt string, nth int) string {
	inside, ok := strings.CutPrefix(prompt, "[")
	if !ok {
		return ""
	}
	inside, _, ok = strings.Cut(inside, "]")
	if !ok {
		return ""
	}
	if name, once := strings.CutSuffix(inside, " once"); once {
		if nth > 1 {
			return ""
		}
		return name
	}
	return inside
}

func (s *Server) behave(w http.ResponseWriter, r *http.Request, c Call, behaviour string) {
	switch {
	case c.isChat() && s.behaveInChat(w, r, c, behaviour), c.isStreamed() && s.stream(w, c, behaviour):
		return
	}
	switch behaviour {
	case "moderation":
		fail(w, http.StatusBadRequest, "moderation_blocked", "Your request was rejected by the safety system: "+c.Prompt)
	case "quota":
		fail(w, http.StatusTooManyRequests, "insufficient_quota", "You exceeded your current quota")
	case "hang":
		<-r.Context().Done()
	case "html":
		page(w, http.StatusOK)
	case "text":
		send(w, imageBody(base64.StdEncoding.EncodeToString([]byte("this is not a picture"))))
	case "zero":
		send(w, []byte(`{"created":1767225600,"data":[]}`))
	case "null":
		send(w, []byte(`{"created":1767225600,"data":[{"b64_json":null}]}`))
	case "error":
		send(w, []byte(`{"error":{"message":"overloaded","type":"server_error","code":null}}`))
	case "truncated":
		body := s.body(c)
		send(w, body[:len(body)/2])
	case "cut":
		body := s.body(c)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "break":
		panic(http.ErrAbortHandler)
	case "endless":
		w.Header().Set("Content-Type", "application/json")
		_, err := io.WriteString(w, `{"data":[{"revised_prompt":"`)
		for chunk := bytes.Repeat([]byte("endless "), 8<<10); err == nil; {
			_, err = w.Write(chunk)
		}
	case "url":
		answer(w, http.StatusOK, map[string]any{"data": []any{map[string]string{"url": s.PictureURL(c.Prompt)}}})
	default:
		if s.relay(w, r, c, behaviour) {
			return
		}
		status, err := strconv.Atoi(behaviour)
		if err != nil {
			send(w, s.body(c))
			return
		}
		if status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "1")
		}
		fail(w, status, "", "the simulated API returns "+behaviour)
	}
}

// PictureURL returns the URL of the picture for a prompt.
func (s *Server) PictureURL(prompt string) string {
	if s.conf.PictureURL != nil {
		return s.conf.PictureURL(prompt)
	}
	return strings.TrimSuffix(s.URL(), "/v1") + "/pictures/" + base64.URLEncoding.EncodeToString([]byte(prompt))
}

func (s *Server) picture(w http.ResponseWriter, r *http.Request) {
	prompt, err := base64.URLEncoding.DecodeString(r.PathValue("prompt"))
	if err != nil || r.Header.Get("Authorization") != "" {
		http.Error(w, "no such picture, or a key was sent", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "image/png")
	_, _ = w.Write(s.conf.Picture(string(prompt)))
}

func page(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "<!DOCTYPE html><html><body><h1>Please log in to the network</h1></body></html>")
}

func send(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

func answer(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		text, status = []byte(`{}`), http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

func failParameter(w http.ResponseWriter, r *refusal) {
	answer(w, http.StatusBadRequest, map[string]any{"error": map[string]any{
		"message": r.message, "type": "invalid_request_error", "param": r.param, "code": r.code,
	}})
}

func fail(w http.ResponseWriter, status int, code, message string) {
	problem := map[string]any{"message": message, "type": "invalid_request_error", "param": nil, "code": nil}
	if code != "" {
		problem["code"] = code
	}
	answer(w, status, map[string]any{"error": problem})
}

// maxRecorded bounds the body that is kept of a response.
const maxRecorded = 64 << 10
