package status

import (
	"context"
	"errors"
	"net/http"
	"time"

	"imagetasks/pkg/operate"
	"imagetasks/pkg/store"
)

// Operator does what the page asks for. *operate.Operator is one. who is written to the log of operations. Errors are an *operate.Error.
type Operator interface {
	Redrive(ctx context.Context, who, taskID string, run int) (operate.Result, error)
	Cancel(ctx context.Context, who, taskID string) (operate.Result, error)
	FixStuck(ctx context.Context, who string) (operate.Result, error)
	Pause(ctx context.Context, who string, scope store.Scope, name, reason string) (operate.Result, error)
	Resume(ctx context.Context, who string, scope store.Scope, name string) (operate.Result, error)
	Grant(ctx context.Context, who, user string, credits int64, reason, key string) (operate.Result, error)
	Operations(ctx context.Context, limit int) ([]store.OperationEntry, error)
}

const (
	// maxAction bounds the body of an action.
	maxAction = 16 << 10
	// actionTimeout bounds an action; the page waits a little longer.
	actionTimeout = 15 * time.Second
	// atOnce bounds the actions that are being done, so that they leave connections of the database to tasks.
	atOnce = 4
	// maxOperations is how many entries of the log of operations are shown.
	maxOperations = 200
)

// actionBody has the fields of all actions.
type actionBody struct {
	TaskID  string      `json:"task_id"`
	Run     int         `json:"run"`
	Scope   store.Scope `json:"scope"`
	Name    string      `json:"name"`
	Reason  string      `json:"reason"`
	UserID  string      `json:"user_id"`
	Credits int64       `json:"credits"`
	Key     string      `json:"idempotency_key"`
}

// AddActions adds what signed-in people may do and see: POST /api/actions/{name} and GET /api/operations. The handler must be behind Access.Handler.
func AddActions(mux *http.ServeMux, o Operator) {
	actions := map[string]func(ctx context.Context, who string, b actionBody) (operate.Result, error){
		"redrive": func(ctx context.Context, who string, b actionBody) (operate.Result, error) {
			return o.Redrive(ctx, who, b.TaskID, b.Run)
		},
		"cancel": func(ctx context.Context, who string, b actionBody) (operate.Result, error) {
			return o.Cancel(ctx, who, b.TaskID)
		},
		"fix-stuck": func(ctx context.Context, who string, _ actionBody) (operate.Result, error) {
			return o.FixStuck(ctx, who)
		},
		"pause": func(ctx context.Context, who string, b actionBody) (operate.Result, error) {
			return o.Pause(ctx, who, b.Scope, b.Name, b.Reason)
		},
		"resume": func(ctx context.Context, who string, b actionBody) (operate.Result, error) {
			return o.Resume(ctx, who, b.Scope, b.Name)
		},
		"grant": func(ctx context.Context, who string, b actionBody) (operate.Result, error) {
			return o.Grant(ctx, who, b.UserID, b.Credits, b.Reason, b.Key)
		},
	}
	free := make(chan struct{}, atOnce)
	mux.HandleFunc("POST /api/actions/{name}", func(w http.ResponseWriter, r *http.Request) {
		who := identityOf(r.Context())
		if !who.signedIn() { // Access.Handler has refused it
			refuse(w, r, refusal{http.StatusUnauthorized, "sign_in_required", textSignInRequired})
			return
		}
		action := actions[r.PathValue("name")]
		if action == nil {
			refuse(w, r, refusal{http.StatusNotFound, "unknown_action", textUnknownAction})
			return
		}
		var body actionBody
		if why := readJSON(w, r, maxAction, &body); why != nil {
			refuse(w, r, *why)
			return
		}
		select {
		case free <- struct{}{}:
			defer func() { <-free }()
		default:
			refuse(w, r, refusal{http.StatusTooManyRequests, "busy", textBusy})
			return
		}
		// What has begun is done though the browser has gone: its answer tells, and so does the log of operations.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), actionTimeout)
		defer cancel()
		done, err := action(ctx, who.who(), body)
		if err != nil {
			refuseAction(w, err)
			return
		}
		document := map[string]any{}
		for name, value := range done.Details {
			document[name] = value
		}
		document["message"] = newMessage(done.Message)
		writeJSON(w, http.StatusOK, document)
	})
	mux.HandleFunc("GET /api/operations", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), actionTimeout)
		defer cancel()
		entries, err := o.Operations(ctx, maxOperations)
		if err != nil {
			refuseAction(w, err)
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{"operations": entries})
	})
}

// refuseAction answers why an action was not done.
func refuseAction(w http.ResponseWriter, err error) {
	status, body := http.StatusInternalServerError, errorBody{string(operate.Internal), message{textInternal.EN, textInternal.ZH}}
	if why, ok := errors.AsType[*operate.Error](err); ok {
		body = errorBody{string(why.Code), newMessage(why.Message)}
		switch why.Code {
		case operate.Invalid:
			status = http.StatusBadRequest
		case operate.NotFound:
			status = http.StatusNotFound
		case operate.Conflict:
			status = http.StatusConflict
		case operate.Unavailable:
			status = http.StatusServiceUnavailable
		}
	}
	writeJSON(w, status, errorDocument{body})
}
