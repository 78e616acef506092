// Package clients tests the schema's interface as applications call it: the examples of the README, exactly as they stand there, with
// the real psql, node-postgres, supabase-js and psycopg, as the roles that migrate grants privileges to. It contains nothing but tests.
//
// supabase-js talks to the server in postgrest_test.go. It is not PostgREST, which no package registry of the tests has. It does what
// PostgREST documents for two things, calling a function and reading a view: schemas by Accept-Profile and Content-Profile, a role by the
// key, one transaction per request, arguments by name from a JSON object, and errors with their HTTP status.
package clients
