//go:build !linux

package postgres

import "syscall"

// setParentDeathSignal does nothing: there is no such signal on every system, and the owner stops the process.
func setParentDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}
