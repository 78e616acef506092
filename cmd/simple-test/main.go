// Command simple-test checks each step of the connection to the image API; see its --help.
package main

import (
	"os"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/simpletest"
)

func main() { os.Exit(app.Main(simpletest.New)) }
