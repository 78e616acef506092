package postgres

import "syscall"

// setParentDeathSignal makes the kernel send sig to the process if its parent ends.
func setParentDeathSignal(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }
