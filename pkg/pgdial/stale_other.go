//go:build !unix

package pgdial

// Stale returns false: the next statement finds out.
func (c *Conn) Stale() bool { return false }
