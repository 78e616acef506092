// Command testreport reads the events of "go test -json" from standard input and prints a report for people: a line
// for each package when it ends, the whole output of failed tests, and at the end the failed tests, the skipped tests
// with their reasons, and the seconds of each package. With -v it prints the output of all tests. It exits with code 1
// if a test or package failed, or if its input ends early. Input lines that are not events are printed as they are.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	verbose := flag.Bool("v", false, "print the output of all tests, not only of failed ones")
	flag.Parse()
	r := newReport(os.Stdout, *verbose)
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if err := r.summary(); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if r.failed() {
		os.Exit(1)
	}
}
