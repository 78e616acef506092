package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// report prints the table of a run, and what is wrong.
func (s *system) report() {
	if s.counts.checked {
		s.table()
	}
	list := s.problems.list()
	if len(list) == 0 {
		s.printf("\nNothing was lost, doubled, paid for twice or left over.")
		return
	}
	text := strings.Join(list, "\n") + "\n"
	s.printf("\n%sFAILED with seed %d; logs, a dump of the database and what the API saw are in %s", text, s.seed, s.dir)
	if s.dir != "" {
		if err := os.WriteFile(filepath.Join(s.dir, "problems.txt"), []byte(text), 0o644); err != nil {
			s.printf("%v", err)
		}
	}
}

func (s *system) table() {
	line := func(name, format string, args ...any) { s.printf("%-28s %s", name, fmt.Sprintf(format, args...)) }
	total := 0
	for _, n := range s.counts.states {
		total += n
	}
	s.printf("")
	line("seed", "%d", s.seed)
	line("duration", "%s of faults, %s in all", s.elapsed.Round(time.Second), time.Since(s.began).Round(time.Second))
	line("tasks", "%d", total)
	for _, state := range byNumber(s.counts.states) {
		line("  "+state, "%d", s.counts.states[state])
	}
	for _, code := range byNumber(s.counts.codes) {
		line("    "+code, "%d", s.counts.codes[code])
	}
	line("redrives", "%d", s.counts.redrives)
	line("claims", "%d, of them after a lost one %d", s.counts.claims, s.counts.lostClaims)
	line("paid requests", "%d", s.counts.requests)
	line("  answered with a picture", "%d", s.counts.deliveries)
	line("  of unknown outcome", "%d", s.counts.unknown)
	line("  runs with two pictures", "%d, repeats of an unknown outcome", s.counts.repeated)
	line("pictures", "%d, of them of failed or cancelled tasks %d", s.counts.pictures, s.counts.unused)
	s.mu.Lock()
	defer s.mu.Unlock()
	faults := 0
	for kind, n := range s.applied {
		faults += n - s.skipped[kind]
	}
	line("processes that claimed", "%d", s.counts.workers)
	line("other programs run", "%d", s.tools)
	line("statements", "%d, faults applied to them: %v", s.database.Counts().Statements, s.database.Counts().Faults)
	line("faults", "%d of %d kinds", faults, len(s.applied))
	for _, kind := range byNumber(s.applied) {
		text := fmt.Sprint(s.applied[kind] - s.skipped[kind])
		if n := s.skipped[kind]; n > 0 {
			text += fmt.Sprintf(", and %d that had nothing to apply to", n)
		}
		line("  "+string(kind), "%s", text)
	}
}
