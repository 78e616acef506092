package processor

import "time"

// ScaleCircuits divides the waits of the circuits.
func (c *Config) ScaleCircuits(by int) {
	t := defaultCircuitTimes()
	for _, wait := range []*time.Duration{&t.firstCheck, &t.maxCheck, &t.hold, &t.freeTrial, &t.paidTrial, &t.maxTrial} {
		*wait /= time.Duration(by)
	}
	c.times = t
}
