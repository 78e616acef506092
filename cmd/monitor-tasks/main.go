// Command monitor-tasks runs one supervision pass over the queue and the processor; see its --help.
package main

import (
	"os"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/monitortasks"
)

func main() { os.Exit(app.Main(monitortasks.New)) }
