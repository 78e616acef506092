// Package e2e tests the built programs as an operator runs them: over a real PostgreSQL, through a
// proxy, by their flags, environment, output, exit codes and signals. It holds nothing but tests.
package e2e
