// Package pagetest tests the status page in a real browser: with documents that are chosen for it, and with the real programs.
package pagetest
