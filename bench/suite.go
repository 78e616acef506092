package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// suite is one run of the benchmarks.
type suite struct {
	server *server
	root   string // of the project
	quick  bool
	full   bool
	pairs  int // of each row

	programs  string // directory of the built programs
	processes *host
	histories map[int]string // databases by their number of closed rows
	toRiver   float64        // the first aim of the first row; 0: not measured
	log       io.Writer
}

// progress prints what was just measured.
func (b *suite) progress(format string, arguments ...any) {
	fmt.Fprintf(b.log, "  "+format+"\n", arguments...)
}

// history returns a database with so many closed rows, which is made at its first use.
func (b *suite) history(ctx context.Context, rows int) (string, error) {
	if name, ok := b.histories[rows]; ok {
		return name, nil
	}
	name, err := newHistory(ctx, b.server, rows)
	if err != nil {
		return "", fmt.Errorf("make %s closed rows: %w", count(rows), err)
	}
	b.histories[rows] = name
	return name, nil
}

// times returns how often something is done: less often in a quick run.
func (b *suite) times(normal, quick int) int {
	if b.quick {
		return quick
	}
	return normal
}

// host returns the machine on which the programs are measured, which is set up at its first use.
func (b *suite) host(ctx context.Context) (_ *host, err error) {
	if b.processes != nil {
		return b.processes, nil
	}
	if b.programs, err = os.MkdirTemp("", "imagetasks-bench-"); err != nil {
		return nil, err
	}
	if _, err := buildPrograms(ctx, b.root, b.programs); err != nil {
		return nil, err
	}
	b.processes, err = newHost(ctx, b.server, b.programs)
	return b.processes, err
}

// auditHost audits the database of the programs.
func (b *suite) auditHost(ctx context.Context, h *host) error {
	return auditOurs(ctx, b.server, h.database)
}

func (b *suite) close() (err error) {
	if b.processes != nil {
		err = b.processes.close()
	}
	if b.programs != "" {
		err = errors.Join(err, os.RemoveAll(b.programs))
	}
	return errors.Join(err, b.server.stop())
}

// projectRoot returns the directory of the project, from that of this module.
func projectRoot() (string, error) {
	for _, dir := range []string{".", ".."} {
		if _, err := os.Stat(filepath.Join(dir, "cmd", "task-processor")); err == nil {
			return filepath.Abs(dir)
		}
	}
	return "", fmt.Errorf("run it in the project's directory or in bench/")
}
