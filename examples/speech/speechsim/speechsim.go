// Package speechsim simulates a paid text-to-speech API: an order is accepted with POST /speech, and fetched with GET /speech/ID when it is ready.
package speechsim

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// API is the simulated API. Its zero value works. The text of an order decides what happens: one with "[500 once]" fails the first time, one with
// "[refused]" always. It is safe for concurrent use.
type API struct {
	mu      sync.Mutex
	orders  map[string]*order // by id
	byKey   map[string]string // ids, by idempotency key
	refused map[string]bool   // texts that have failed once
}

type order struct {
	text    string
	fetched int
}

// Orders returns how many orders were accepted: each of them is billed.
func (a *API) Orders() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.orders)
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.Method == http.MethodGet {
		a.fetch(w, strings.TrimPrefix(r.URL.Path, "/speech/"))
		return
	}
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	a.order(w, r.Header.Get("Idempotency-Key"), string(text))
}

func (a *API) order(w http.ResponseWriter, key, text string) {
	if a.orders == nil {
		a.orders, a.byKey, a.refused = map[string]*order{}, map[string]string{}, map[string]bool{}
	}
	switch {
	case strings.Contains(text, "[refused]"):
		http.Error(w, "the text is not allowed", http.StatusUnprocessableEntity)
		return
	case strings.Contains(text, "[500 once]") && !a.refused[text]:
		a.refused[text] = true
		http.Error(w, "the voice is not loaded", http.StatusInternalServerError)
		return
	}
	id, known := a.byKey[key]
	if !known {
		id = fmt.Sprint("order-", len(a.orders)+1)
		a.byKey[key], a.orders[id] = id, &order{text: text}
	}
	w.WriteHeader(http.StatusCreated)
	fmt.Fprint(w, id)
}

// fetch answers that an order is not ready the first time.
func (a *API) fetch(w http.ResponseWriter, id string) {
	o := a.orders[id]
	switch {
	case o == nil:
		http.Error(w, "there is no such order", http.StatusNotFound)
	case o.fetched == 0:
		o.fetched++
		http.Error(w, "not ready", http.StatusAccepted)
	default:
		fmt.Fprintf(w, "RIFF speech: %s", o.text)
	}
}
