//go:build !linux

package picture

import "os"

// allocate makes the file system keep size bytes for a file that is empty. The file is of that size then.
func allocate(f *os.File, size int64) error { return writeZeros(f, size) }
