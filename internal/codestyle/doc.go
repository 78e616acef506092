// Package codestyle holds tests that read the project's own source: names, texts and import rules.
package codestyle
