//go:build !linux && !darwin

package proxy

import "time"

// setUserTimeout does nothing: there is no such option. Unacknowledged data is retransmitted for minutes. HTTP/2 pings and
// the time limits of requests apply.
func setUserTimeout(uintptr, time.Duration) error { return nil }
