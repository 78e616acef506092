package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// 50 browsers on the status page and a scrape each second change what a busy processor makes by less than it changes by itself: times with and without them
// alternate in one run. IMAGETASKS_LONG=1 measures for longer, and holds the difference to the spread alone.
func TestStatusPage_BrowsersDoNotSlowTheQueue(t *testing.T) {
	const browsers = 50
	pairs, window := 3, time.Second
	long := os.Getenv("IMAGETASKS_LONG") != ""
	if long {
		pairs, window = 20, 5*time.Second
	}
	w := newFixture(t)
	w.env["STATUS_ADDR"] = freeAddress(t)
	w.env["LOG_LEVEL"] = "warn"
	feed := func() {
		_, err := w.db.ExecContext(t.Context(), `select from imagetasks.enqueue_many('load', (select jsonb_agg(jsonb_build_object('prompt', 'x', 'cost', 0)) from generate_series(1, 1000)))`)
		assert.NoError(t, err)
	}
	feed()
	p := w.start("task-processor", "run", "--concurrency", "100")
	stop := make(chan struct{})
	var feeder sync.WaitGroup
	feeder.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if w.count("pending") < 1000 {
					feed()
				}
			}
		}
	})
	w.waitFor("pictures", func() bool { return w.count("completed") > 100 })
	rate := func() float64 {
		before, began := w.count("completed"), time.Now()
		<-time.After(window)
		return float64(w.count("completed")-before) / time.Since(began).Seconds()
	}
	var without, with []float64
	for range pairs {
		without = append(without, rate())
		pages := openPages(t, "http://"+w.env["STATUS_ADDR"], browsers)
		with = append(with, rate())
		pages.close()
		assert.GreaterOrEqual(t, pages.events.Load(), int64(browsers), "each browser gets the overview")
	}
	close(stop)
	feeder.Wait()
	p.stop(syscall.SIGTERM)
	slices.Sort(without)
	slices.Sort(with)
	spread := without[len(without)-1] - without[0]
	change := with[len(with)/2] - without[len(without)/2]
	t.Logf("pictures per second, medians of %d times of %s: %.0f without, %.0f with %d browsers and a scrape each second; change %.1f, spread %.1f (without: %.0f, with: %.0f)",
		pairs, window, without[len(without)/2], with[len(with)/2], browsers, change, spread, without, with)
	if !long { // a few short times can be alike by chance
		spread = max(spread, 0.5*without[len(without)/2])
	}
	assert.GreaterOrEqual(t, change, -spread)
}

// openedPages are browsers that show the page, and a program that reads the metrics each second.
type openedPages struct {
	events  atomic.Int64 // that they got
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// openPages returns when each browser shows the state.
func openPages(t *testing.T, root string, n int) *openedPages {
	ctx, cancel := context.WithCancel(t.Context())
	p := &openedPages{cancel: cancel}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n}}
	get := func(path string) (*http.Response, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, root+path, nil)
		if err != nil {
			return nil, err
		}
		response, err := client.Do(request)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", path, response.Status)
		}
		return response, err
	}
	read := func(path string) error {
		response, err := get(path)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		_, err = io.Copy(io.Discard, response.Body)
		return err
	}
	var shown sync.WaitGroup
	for range n {
		shown.Add(1)
		p.running.Go(func() {
			once := sync.OnceFunc(shown.Done)
			defer once()
			for _, path := range []string{"/", "/api/overview", "/api/series?hours=24"} {
				assert.NoError(t, read(path))
			}
			response, err := get("/api/events")
			if !assert.NoError(t, err) {
				return
			}
			defer response.Body.Close()
			lines := bufio.NewReader(response.Body)
			for {
				line, err := lines.ReadString('\n')
				if err != nil {
					return // closed
				}
				if strings.HasPrefix(line, "event: overview") {
					p.events.Add(1)
					once()
				}
			}
		})
	}
	p.running.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			if err := read("/metrics"); ctx.Err() == nil {
				assert.NoError(t, err)
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	shown.Wait()
	return p
}

func (p *openedPages) close() {
	p.cancel()
	p.running.Wait()
}
