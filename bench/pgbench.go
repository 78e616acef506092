package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"imagetasks/internal/postgres"
	"imagetasks/pkg/store"
)

// limitBatch is the number of tasks of each statement that pgbench sends.
const limitBatch = 100

// claimArguments and completeArguments are what the Store sends with the statements, in the order of their parameters.
var (
	claimArguments = []string{"gen_random_uuid()", "'bench'", fmt.Sprint(limitBatch), "60000", "3", "5", fmt.Sprint(limitBatch), "60000", "false",
		"null", "null", "null", "false", `'[{"name":"default","preference":0}]'`, "true"}
	completeArguments = []string{":ids::text[]", ":epochs::bigint[]", sameTexts("https://example.com/result"), sameTexts(""), sameTexts("default"),
		sameTexts(""), sameTexts("")}
)

func sameTexts(text string) string {
	return fmt.Sprintf("array_fill('%s'::text, array[cardinality(:ids::text[])])", text)
}

// limitScript returns a script for pgbench that claims and completes tasks by the statements that the Store sends.
func limitScript(st *store.Store) (string, error) {
	claim, err := filled(st, "claim", claimArguments)
	if err != nil {
		return "", err
	}
	complete, err := filled(st, "complete", completeArguments)
	if err != nil {
		return "", err
	}
	return "select array_agg(task_id) as ids, array_agg(lease_epoch) as epochs from (\n" + claim + "\n) claimed \\gset\n" +
		complete + ";\n", nil
}

var (
	sqlComment   = regexp.MustCompile(`(?m)--.*$`)
	sqlParameter = regexp.MustCompile(`\$(\d+)`)
)

// filled returns a statement of the Store with arguments instead of its parameters.
func filled(st *store.Store, name string, arguments []string) (string, error) {
	text, ok := st.StatementText(name)
	if !ok {
		return "", fmt.Errorf("the Store has no statement %q; adapt bench/pgbench.go", name)
	}
	text = strings.TrimSuffix(strings.TrimSpace(sqlComment.ReplaceAllString(text, "")), ";")
	used := map[int]bool{}
	text = sqlParameter.ReplaceAllStringFunc(text, func(parameter string) string {
		n, _ := strconv.Atoi(parameter[1:])
		used[n] = true
		if n > len(arguments) {
			return parameter
		}
		return arguments[n-1]
	})
	if len(used) != len(arguments) {
		return "", fmt.Errorf("the statement %q has %d parameters, not %d; adapt bench/pgbench.go", name, len(used), len(arguments))
	}
	return text, nil
}

// findPgbench returns the path of pgbench, which is in PATH or beside the server's programs.
func findPgbench() (string, error) {
	if path, err := exec.LookPath("pgbench"); err == nil {
		return path, nil
	}
	bin, err := postgres.Find()
	if err != nil {
		return "", err
	}
	return filepath.Join(bin, "pgbench"), nil
}

var pgbenchRate = regexp.MustCompile(`tps = ([0-9.]+)`)

// limit runs the statements of a claim and a completion with pgbench, with so many clients, on n tasks of a copy of template.
func (s *server) limit(ctx context.Context, template string, n, clients int) (r run, err error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	name, err := copyOurs(ctx, s, template)
	if err != nil {
		return r, err
	}
	st, err := store.Open(store.Config{URL: s.URL(name)})
	if err != nil {
		return r, err
	}
	defer st.Close()
	script, err := limitScript(st)
	if err != nil {
		return r, err
	}
	file, err := os.CreateTemp("", "imagetasks-bench-*.sql")
	if err != nil {
		return r, err
	}
	defer os.Remove(file.Name())
	if _, err := file.WriteString(script); err != nil {
		return r, err
	}
	if err := file.Close(); err != nil {
		return r, err
	}
	program, err := findPgbench()
	if err != nil {
		return r, err
	}
	if err := s.checkpoint(ctx); err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, program, "--no-vacuum", "--protocol=prepared", "--client", fmt.Sprint(clients), "--jobs", fmt.Sprint(clients),
		"--transactions", fmt.Sprint(n/limitBatch/clients), "--file", file.Name(), s.URL(name))
	out, err := cmd.CombinedOutput()
	found := pgbenchRate.FindSubmatch(out)
	if err != nil || found == nil {
		return r, fmt.Errorf("pgbench: %w: %s", err, out)
	}
	perSecond, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		return r, err
	}
	r.Tasks = n / limitBatch / clients * clients * limitBatch
	r.Elapsed = time.Duration(float64(r.Tasks) / (perSecond * limitBatch) * float64(time.Second))
	r.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if err := auditOurs(ctx, s, name); err != nil {
		return r, fmt.Errorf("after pgbench: %w", err)
	}
	return r, s.drop(ctx, name)
}
