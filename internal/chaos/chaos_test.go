package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// seedOfCI is the seed of the run that is part of the tests.
const seedOfCI = 1

// Real programs under faults for 90 seconds, or for half an hour with IMAGETASKS_LONG=1. IMAGETASKS_CHAOS_SEED chooses another seed.
func TestChaos_NothingIsLost(t *testing.T) {
	bin := buildPrograms(t)
	o, err := parse(nil, os.Stderr)
	require.NoError(t, err)
	o.bin, o.seed = bin, seedOfCI
	if text := os.Getenv("IMAGETASKS_CHAOS_SEED"); text != "" {
		o.seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	if os.Getenv("IMAGETASKS_LONG") != "" {
		o.seconds = 30 * 60
	}
	var printed bytes.Buffer
	err = execute(t.Context(), o, &printed)
	t.Log("\n" + printed.String())
	require.NoError(t, err)
}

func TestSchedule_SameSeed(t *testing.T) {
	print := func(args ...string) string {
		o, err := parse(append(args, "--print-schedule"), os.Stderr)
		require.NoError(t, err)
		var out bytes.Buffer
		require.NoError(t, execute(t.Context(), o, &out))
		return out.String()
	}
	first := print("--seed", "7", "--seconds", "600")
	assert.Equal(t, first, print("--seed", "7", "--seconds", "600"))
	assert.NotEqual(t, first, print("--seed", "8", "--seconds", "600"))
	longer := print("--seed", "7", "--seconds", "900")
	assert.Equal(t, first, longer[:len(first)], "a longer run begins in the same way")
}

func TestSchedule_KindsAndNumbers(t *testing.T) {
	for seed := range uint64(20) {
		seen := map[Kind]int{}
		faults := newSchedule(seed, 30*time.Minute, 3*time.Second, 4)
		assert.Greater(t, len(faults), 500)
		last := time.Duration(0)
		for _, f := range faults {
			assert.GreaterOrEqual(t, f.At, last)
			assert.Less(t, f.At, 30*time.Minute)
			assert.Less(t, f.Processor, 4)
			assert.LessOrEqual(t, f.For, 10*time.Second)
			last = f.At
			seen[f.Kind]++
		}
		assert.Len(t, seen, len(kinds()))
		for _, n := range seen {
			assert.InDelta(t, len(faults)/len(kinds()), n, 1, "each kind as often as the others")
		}
		short := map[Kind]bool{}
		for _, f := range newSchedule(seed, 90*time.Second, 3*time.Second, 4) {
			short[f.Kind] = true
		}
		assert.GreaterOrEqual(t, len(short), 20, "90 seconds have most kinds")
	}
}

func TestStatementText_IsInTheStore(t *testing.T) {
	var all []byte
	for _, pattern := range []string{"sql/*.sql", "*.go"} {
		found, err := filepath.Glob(filepath.Join("..", "..", "pkg", "store", pattern))
		require.NoError(t, err)
		for _, path := range found {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			all = append(all, text...)
		}
	}
	for _, statement := range statements() {
		assert.Contains(t, string(all), statementText(statement), statement)
	}
}

func TestParse_RefusesBadArguments(t *testing.T) {
	for _, args := range [][]string{{"--seconds", "0"}, {"--tasks-per-second", "-1"}, {"--fault-every", "1ms"}, {"--processors", "1"}, {"more"}, {"--unknown"}} {
		var out bytes.Buffer
		_, err := parse(args, &out)
		assert.Error(t, err, args)
		assert.NotEmpty(t, out.String(), args)
	}
}

// buildPrograms builds the four programs with the flags of scripts/lib.sh, so that the build cache is shared.
func buildPrograms(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", bin+"/", "./cmd/...")
	build.Dir, build.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	return bin
}
