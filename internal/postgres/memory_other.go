//go:build !linux

package postgres

import "os"

// inMemory returns "": clusters are in the temporary directory.
func inMemory() string { return "" }

// lockDir does nothing, because nothing is removed by other processes.
func lockDir(string) (*os.File, error) { return nil, nil }
