package postgres

import (
	"os/exec"
	"runtime"
	"syscall"
)

// StartChild starts cmd and waits for it in a goroutine, which closes exited when the process has ended. On Linux the
// process gets sig if this process ends without stopping it; on other systems nothing replaces that, and only the caller
// stops the process.
func StartChild(cmd *exec.Cmd, sig syscall.Signal) (exited <-chan struct{}, err error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	setParentDeathSignal(cmd.SysProcAttr, sig)
	started, done := make(chan error), make(chan struct{})
	go func() {
		defer close(done)
		// Linux sends the signal when the thread that started the process ends, so this thread must not end earlier.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	return done, <-started
}
