//go:build !linux

package main

import (
	"syscall"
	"time"
)

func inodeTime(s *syscall.Stat_t) time.Time { return time.Unix(s.Ctimespec.Unix()) }
