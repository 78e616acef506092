package inventory

// ErrTimeUp ends a pass as if its time were up.
var ErrTimeUp = errTimeUp
