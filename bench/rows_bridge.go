package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

var benchmarkValue = regexp.MustCompile(`([0-9.]+) (bridged-tasks/s|tasks/s|bridged-inserts/s|inserts/s)`)

// bridge measures a bridged application beside our own tables, by the benchmarks of internal/bridgetest, which have a PostgreSQL of their own.
func bridge(ctx context.Context, b *suite) ([]row, error) {
	runs, n := b.times(b.pairs, 1), b.times(1000, 300)
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "ApplicationInserts|Throughput", "-benchtime", fmt.Sprintf("%dx", n),
		"-count", fmt.Sprint(runs), "-timeout", "10m", "./internal/bridgetest")
	cmd.Dir = b.root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("benchmarks of the bridge: %w: %s%s", err, out, stderr.Bytes())
	}
	found := map[string]*series{}
	for _, name := range []string{"bridged-tasks/s", "tasks/s", "bridged-inserts/s", "inserts/s"} {
		found[name] = &series{}
	}
	for _, match := range benchmarkValue.FindAllSubmatch(out, -1) {
		value, err := strconv.ParseFloat(string(match[1]), 64)
		if err != nil {
			return nil, err
		}
		s := found[string(match[2])]
		s.Values = append(s.Values, value)
	}
	for name, s := range found {
		if len(s.Values) != runs {
			return nil, fmt.Errorf("the benchmarks of the bridge printed %d values of %s, not %d", len(s.Values), name, runs)
		}
	}
	title := func(s *series, name, unit string) series { return series{Name: name, Unit: unit, Values: s.Values} }
	bridged, own := title(found["bridged-tasks/s"], "bridged tasks", "tasks/s"), title(found["tasks/s"], "own tables", "tasks/s")
	with, without := title(found["bridged-inserts/s"], "application's inserts with the bridge", "inserts/s"), title(found["inserts/s"], "without it", "inserts/s")
	return []row{{
		Name: "bridge", Title: "a bridged application (adopt) against own tables",
		Detail: fmt.Sprintf("`go test -bench 'ApplicationInserts|Throughput' ./internal/bridgetest`: %d tasks, 100 in flight, each counts when the application's row has the picture; "+
			"4 sessions of the application insert and charge", n),
		Series: []series{bridged, own, with, without},
		Aims:   []aim{named("tasks", stated(bridged, own)), named("inserts", stated(with, without))},
	}}, nil
}
