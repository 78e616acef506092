// Command fix-stuck-tasks fails and refunds stuck tasks, and audits the credits; see its --help.
package main

import (
	"os"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/fixstucktasks"
)

func main() { os.Exit(app.Main(fixstucktasks.New)) }
