// Package smalldisk gives tests a file system of limited size, so that a full disk is a real one.
package smalldisk

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// capSysAdmin is the bit of CAP_SYS_ADMIN in the sets of capabilities, see capabilities(7).
const capSysAdmin = 21

// Mount returns an empty directory on a file system of its own, which is unmounted when the test ends. options are those of tmpfs(5), such as
// size=64k or nr_inodes=6. A test is skipped only where this process may not mount at all; a mount that fails otherwise fails the test.
func Mount(tb testing.TB, options string) string {
	tb.Helper()
	allowed, err := mayMount()
	if err != nil {
		tb.Fatalf("read the capabilities of this process: %v", err)
	}
	if !allowed {
		tb.Skip("a file system can't be mounted without CAP_SYS_ADMIN")
	}
	dir := tb.TempDir()
	if err := syscall.Mount("imagetasks-test", dir, "tmpfs", 0, options); err != nil {
		tb.Fatalf("mount a file system with %s: %v", options, err)
	}
	tb.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			tb.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// mayMount reports whether this process has the capability to mount file systems.
func mayMount() (bool, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(text)) {
		if set, ok := strings.CutPrefix(line, "CapEff:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
			return bits&(1<<capSysAdmin) != 0, err
		}
	}
	return false, fmt.Errorf("there is no CapEff in /proc/self/status")
}
