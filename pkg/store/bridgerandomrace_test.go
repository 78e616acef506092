package store_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
)

// As TestBridge_RandomSteps, by several processes and sessions of the application at a time.
func TestBridge_RandomStepsAtATime(t *testing.T) {
	seeds, steps := 1, 60
	if n, err := strconv.Atoi(os.Getenv("BRIDGE_RANDOM_SEEDS")); err == nil {
		seeds, steps = n, 300
	}
	for n := range seeds {
		t.Run(fmt.Sprint(n), func(t *testing.T) { stepsAtATime(t, steps) })
	}
}

func stepsAtATime(t *testing.T, steps int) {
	b := bridged{adopted(t, randomShape(true, true))}
	var workers sync.WaitGroup
	runs := make([]*randomRun, 4)
	for i := range runs {
		runs[i] = &randomRun{bridged: b, Rand: rand.New(rand.NewPCG(rand.Uint64(), 1)), application: applicationSteps(true, true)}
		workers.Go(func() {
			for range steps {
				if t.Failed() {
					return
				}
				runs[i].step()
			}
		})
	}
	workers.Wait()
	if t.Failed() {
		return
	}
	for _, r := range runs {
		r.neverTwice()
	}
	runs[0].finish()
}
