package app

import (
	"fmt"
	"os"
	"os/user"
	"strings"
)

// Hostname is the name of this host in the database.
func Hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown-host"
	}
	return host
}

// Operator returns the name of the user who runs this program, for records.
func (a *App) Operator() string {
	if sudo, ok := a.Env("SUDO_USER"); ok {
		if names := strings.Fields(sudo); len(names) > 0 {
			return names[0] + " (sudo)"
		}
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}
