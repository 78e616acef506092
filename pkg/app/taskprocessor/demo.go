package taskprocessor

import "github.com/urfave/cli/v2"

func demoCommand(a program) *cli.Command { return &cli.Command{Name: "demo"} }
