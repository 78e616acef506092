// Command task-processor processes the queue of image tasks; see its --help.
package main

import (
	"os"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/taskprocessor"
)

func main() { os.Exit(app.Main(taskprocessor.New)) }
