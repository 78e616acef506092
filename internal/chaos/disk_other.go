//go:build !linux

package main

import "errors"

func mountDisk(string, int) error { return errors.New("only on Linux") }

func unmountDisk(string) error { return nil }
