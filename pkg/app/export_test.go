package app

// Cut is cut, for tests.
func Cut(line string, columns int) string { return cut(line, columns) }
