//go:build !linux

// Package smalldisk gives tests a file system of limited size, so that a full disk is a real one.
package smalldisk

import "testing"

// Mount skips the test: tmpfs is a file system of Linux.
func Mount(tb testing.TB, _ string) string {
	tb.Helper()
	tb.Skip("tmpfs is only on Linux")
	return ""
}
