package picture

import (
	"errors"
	"os"
	"syscall"
)

// allocate makes the file system keep size bytes for a file that is empty. The file is of that size then.
func allocate(f *os.File, size int64) error {
	var err error
	for range 100 { // a signal may interrupt it
		if err = syscall.Fallocate(int(f.Fd()), 0, 0, size); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if isUnsupported(err) || errors.Is(err, syscall.EINTR) {
		return writeZeros(f, size)
	}
	if err != nil {
		return &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
	return nil
}
