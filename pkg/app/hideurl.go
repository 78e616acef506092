package app

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// hideDatabaseURL removes --database-url from the process list: where it is among the arguments, the program executes itself
// again with the value in the environment, which other users can't read.
func hideDatabaseURL(args []string) error {
	kept, value := []string{}, ""
	for i := 0; i < len(args); i++ {
		name, inline, hasValue := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if i == 0 || name != "database-url" || !strings.HasPrefix(args[i], "-") {
			kept = append(kept, args[i])
			continue
		}
		switch {
		case hasValue:
			value = inline
		case i+1 < len(args):
			i++
			value = args[i]
		}
	}
	if value == "" {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("hide --database-url from the process list: %w (set DATABASE_URL instead)", err)
	}
	if err := os.Setenv("DATABASE_URL", value); err != nil {
		return fmt.Errorf("hide --database-url from the process list: %w", err)
	}
	if err := syscall.Exec(program, kept, os.Environ()); err != nil {
		return fmt.Errorf("hide --database-url from the process list: %w (set DATABASE_URL instead)", err)
	}
	return nil
}
