// Command simple-test shows whether the image API can be reached; see its --help.
package main

import (
	"os"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/simpletest"
)

func main() { os.Exit(app.Main(simpletest.New)) }
