package clients

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// dataAPI serves a database over HTTP as PostgREST documents it; see the package's doc.
type dataAPI struct {
	db      *sql.DB // connected as authenticator
	schemas []string
	secret  []byte
}

// startDataAPI serves a database until the test ends, and returns it with its address.
func startDataAPI(t *testing.T, databaseURL string, schemas ...string) (*dataAPI, string) {
	t.Helper()
	db, err := sql.Open("postgres", as(t, databaseURL, "authenticator"))
	require.NoError(t, err)
	a := &dataAPI{db: db, schemas: schemas, secret: []byte("a secret of this test, 32 bytes or more")}
	s := httptest.NewServer(http.StripPrefix("/rest/v1", a))
	t.Cleanup(func() {
		s.Close()
		assert.NoError(t, db.Close())
	})
	return a, s.URL
}

// key returns a JWT for a role, like Supabase's anon key and service key.
func (a *dataAPI) key(role string) string {
	part := func(v any) string {
		text, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	signed := part(map[string]string{"alg": "HS256", "typ": "JWT"}) + "." + part(map[string]string{"role": role})
	return signed + "." + base64.RawURLEncoding.EncodeToString(a.sign(signed))
}

func (a *dataAPI) sign(text string) []byte {
	h := hmac.New(sha256.New, a.secret)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// apiError is an error response.
type apiError struct {
	status  int
	Code    string  `json:"code"`
	Details *string `json:"details"`
	Hint    *string `json:"hint"`
	Message string  `json:"message"`
}

// Error implements error.
func (e *apiError) Error() string { return e.Code + " " + e.Message }

// ServeHTTP implements http.Handler.
func (a *dataAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := a.serve(r)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if err != nil {
		failure, ok := errors.AsType[*apiError](err)
		if !ok {
			failure = &apiError{status: http.StatusInternalServerError, Code: "PGRSTX00", Message: err.Error()}
		}
		w.WriteHeader(failure.status)
		body, _ = json.Marshal(failure)
	}
	_, _ = w.Write(body)
}

// serve runs a request in one transaction, as the role of its key.
func (a *dataAPI) serve(r *http.Request) ([]byte, error) {
	role, err := a.role(r.Header.Get("Authorization"))
	if err != nil {
		return nil, err
	}
	profile := "Content-Profile"
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		profile = "Accept-Profile"
	}
	schema := r.Header.Get(profile)
	if schema == "" {
		schema = a.schemas[0]
	}
	if !slices.Contains(a.schemas, schema) {
		hint := "Only the following schemas are exposed: " + strings.Join(a.schemas, ", ")
		return nil, &apiError{status: http.StatusNotAcceptable, Code: "PGRST106", Message: "Invalid schema: " + schema, Hint: &hint}
	}
	name, isCall := strings.CutPrefix(r.URL.Path, "/rpc/")
	var q query
	switch {
	case isCall && r.Method == http.MethodPost:
		q, err = a.call(r, schema, name)
	case !isCall && r.Method == http.MethodGet:
		q, err = a.read(r, schema, strings.TrimPrefix(r.URL.Path, "/"))
	default:
		err = &apiError{status: http.StatusMethodNotAllowed, Code: "PGRST117", Message: "Unsupported HTTP method: " + r.Method}
	}
	if err != nil {
		return nil, err
	}
	body, rows, err := a.run(r.Context(), schema, role, q)
	if err != nil {
		return nil, translate(err, role != "anon")
	}
	if !isCall && strings.HasPrefix(r.Header.Get("Accept"), "application/vnd.pgrst.object+json") {
		if rows != 1 {
			details := fmt.Sprintf("The result contains %d rows", rows)
			return nil, &apiError{status: http.StatusNotAcceptable, Code: "PGRST116", Details: &details,
				Message: "Cannot coerce the result to a single JSON object"}
		}
		var list []json.RawMessage
		if err := json.Unmarshal(body, &list); err != nil {
			return nil, err
		}
		body = list[0]
	}
	return body, nil
}

// role returns the role of a key, anon if there is none.
func (a *dataAPI) role(authorization string) (string, error) {
	token, ok := strings.CutPrefix(authorization, "Bearer ")
	if !ok {
		return "anon", nil
	}
	refused := &apiError{status: http.StatusUnauthorized, Code: "PGRST301", Message: "JWSError JWSInvalidSignature"}
	dot := strings.LastIndex(token, ".")
	if dot < 0 {
		return "", refused
	}
	signature, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
	if err != nil || !hmac.Equal(signature, a.sign(token[:dot])) {
		return "", refused
	}
	_, payload, _ := strings.Cut(token[:dot], ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return "", refused
	}
	var claims struct{ Role string }
	if err := json.Unmarshal(text, &claims); err != nil || claims.Role == "" {
		return "", refused
	}
	return claims.Role, nil
}

// query is a statement that returns one JSON text and a number of rows.
type query struct {
	text     string
	args     []any
	readOnly bool
}

// parameter is one of a function's.
type parameter struct{ name, kind string }

// function is what the schema cache knows of a function.
type function struct {
	parameters []parameter
	required   int  // the first parameters have no default
	composite  bool // several OUT parameters, or a row
	set        bool
	readOnly   bool // stable or immutable
}

// function looks a function up. The cache knows all functions of an exposed schema, whoever may call them.
func (a *dataAPI) function(ctx context.Context, schema, name string) (f function, found bool, err error) {
	rows, err := a.db.QueryContext(ctx, `
		select coalesce(p.proargnames[i], ''), format_type(p.proargtypes[i - 1], null), p.pronargs - p.pronargdefaults,
		       t.typtype = 'c' or t.typname = 'record', p.proretset, p.provolatile <> 'v'
		from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_type t on t.oid = p.prorettype
		cross join generate_series(1, p.pronargs) i
		where n.nspname = $1 and p.proname = $2 order by i`, schema, name)
	if err != nil {
		return f, false, err
	}
	defer rows.Close()
	for rows.Next() {
		var p parameter
		if err := rows.Scan(&p.name, &p.kind, &f.required, &f.composite, &f.set, &f.readOnly); err != nil {
			return f, false, err
		}
		f.parameters = append(f.parameters, p)
	}
	return f, len(f.parameters) > 0, rows.Err()
}

// call returns the statement that calls a function with the arguments of a JSON object.
func (a *dataAPI) call(r *http.Request, schema, name string) (query, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return query{}, err
	}
	given := map[string]json.RawMessage{}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &given); err != nil {
			return query{}, &apiError{status: http.StatusBadRequest, Code: "PGRST102", Message: "Empty or invalid json"}
		}
	}
	f, found, err := a.function(r.Context(), schema, name)
	if err != nil {
		return query{}, err
	}
	var names, columns, arguments []string
	for i, p := range f.parameters {
		quoted := pq.QuoteIdentifier(p.name)
		if _, ok := given[p.name]; ok {
			names = append(names, p.name)
			columns = append(columns, quoted+" "+p.kind)
			arguments = append(arguments, quoted+" := pgrst_body."+quoted)
		} else if i < f.required {
			found = false
		}
	}
	if !found || len(names) < len(given) {
		message := fmt.Sprintf("Could not find the function %s.%s(%s) in the schema cache", schema, name,
			strings.Join(slices.Sorted(maps.Keys(given)), ", "))
		return query{}, &apiError{status: http.StatusNotFound, Code: "PGRST202", Message: message}
	}
	source, args := "(values (1)) pgrst_body", []any(nil)
	if len(names) > 0 {
		source = "json_to_record($1) as pgrst_body(" + strings.Join(columns, ", ") + ")"
		args = []any{string(body)}
	}
	result := "coalesce(json_agg(row.pgrst_scalar) -> 0, 'null')"
	column := "pgrst_call as pgrst_scalar"
	if f.composite {
		result, column = "coalesce(json_agg(row) -> 0, 'null')", "pgrst_call.*"
	}
	if f.set {
		result = strings.Replace(result, " -> 0, 'null'", ", '[]'", 1)
	}
	return query{fmt.Sprintf("select %s, count(*) from (select %s from %s, lateral %s.%s(%s) pgrst_call) row", result, column, source,
		pq.QuoteIdentifier(schema), pq.QuoteIdentifier(name), strings.Join(arguments, ", ")), args, f.readOnly}, nil
}

// read returns the statement that reads the chosen columns of a table or view, where columns are equal to values.
func (a *dataAPI) read(r *http.Request, schema, name string) (query, error) {
	var exists bool
	err := a.db.QueryRowContext(r.Context(), `select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'v'))`, schema, name).Scan(&exists)
	if err != nil {
		return query{}, err
	}
	if !exists {
		return query{}, &apiError{status: http.StatusNotFound, Code: "PGRST205",
			Message: fmt.Sprintf("Could not find the table '%s.%s' in the schema cache", schema, name)}
	}
	q := query{readOnly: true}
	columns, where := "*", "true"
	for name, values := range r.URL.Query() {
		for _, value := range values {
			compared, isEqual := strings.CutPrefix(value, "eq.")
			switch {
			case name == "select" && value != "*":
				var quoted []string
				for column := range strings.SplitSeq(value, ",") {
					quoted = append(quoted, pq.QuoteIdentifier(column))
				}
				columns = strings.Join(quoted, ", ")
			case name == "select":
			case isEqual:
				q.args = append(q.args, compared)
				where += fmt.Sprintf(" and %s = $%d", pq.QuoteIdentifier(name), len(q.args))
			default:
				return query{}, &apiError{status: http.StatusBadRequest, Code: "PGRST100", Message: "this server knows select and eq, not " + name + "=" + value}
			}
		}
	}
	q.text = fmt.Sprintf("select coalesce(json_agg(row), '[]'), count(*) from (select %s from %s.%s where %s) row", columns,
		pq.QuoteIdentifier(schema), pq.QuoteIdentifier(name), where)
	return q, nil
}

// run runs a statement in a transaction as a role.
func (a *dataAPI) run(ctx context.Context, schema, role string, q query) (body []byte, rows int, err error) {
	tx, err := a.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: q.readOnly})
	if err != nil {
		return nil, 0, err
	}
	defer tx.Rollback()
	_, err = tx.ExecContext(ctx, `select set_config('search_path', $1, true), set_config('role', $2, true),
		set_config('request.jwt.claims', json_build_object('role', $2::text)::text, true)`, pq.QuoteIdentifier(schema)+`, "public"`, role)
	if err != nil {
		return nil, 0, err
	}
	if err := tx.QueryRowContext(ctx, q.text, q.args...).Scan(&body, &rows); err != nil {
		return nil, 0, err
	}
	return body, rows, tx.Commit()
}

// statuses are the HTTP statuses of SQLSTATEs and of their classes, other than 400.
var statuses = map[string]int{
	"08": 503, "09": 500, "0L": 403, "0P": 403, "23503": 409, "23505": 409, "25": 500, "25006": 405, "28": 403, "2D": 500, "38": 500,
	"39": 500, "3B": 500, "40": 500, "53": 503, "53400": 500, "54": 500, "55": 500, "57": 500, "57P01": 503, "58": 500, "F0": 500,
	"HV": 500, "P0": 500, "P0001": 400, "XX": 500, "42883": 404, "42P01": 404, "42P17": 500,
}

// translate returns the response to an error of the database.
func translate(err error, authenticated bool) error {
	pqErr, ok := errors.AsType[*pq.Error](err)
	if !ok {
		return err
	}
	out := &apiError{status: http.StatusBadRequest, Code: string(pqErr.Code), Message: pqErr.Message}
	if status := statuses[out.Code]; status != 0 {
		out.status = status
	} else if status := statuses[string(pqErr.Code.Class())]; status != 0 {
		out.status = status
	}
	if out.Code == "42501" {
		out.status = http.StatusUnauthorized
		if authenticated {
			out.status = http.StatusForbidden
		}
	}
	if pqErr.Detail != "" {
		out.Details = &pqErr.Detail
	}
	if pqErr.Hint != "" {
		out.Hint = &pqErr.Hint
	}
	return out
}
