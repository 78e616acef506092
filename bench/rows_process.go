package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"imagetasks/internal/simapi"
)

const pictureBytes = 4 << 20

// buildPrograms builds the four programs as scripts/lib.sh does.
func buildPrograms(ctx context.Context, root, into string, env ...string) (usage, error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", "urfave_cli_no_docs", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", into+"/", "./cmd/...")
	cmd.Dir = root
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	return measure(cmd)
}

// monitorPass measures a pass of monitor-tasks as cron runs it, beside the start of Node.js.
func monitorPass(ctx context.Context, b *suite) (_ []row, err error) {
	h, err := b.host(ctx)
	if err != nil {
		return nil, err
	}
	h.api.serve(nil)
	running, stop := context.WithCancel(ctx)
	defer stop()
	processor := h.command(running, "task-processor", "run")
	processor.Env = append(processor.Env, "STATUS_ADDR=off")
	if err := processor.Start(); err != nil {
		return nil, err
	}
	defer func() {
		stop()
		_ = processor.Wait()
	}()
	if err := h.awaitHealthy(ctx); err != nil {
		return nil, err
	}
	ours, peer := series{Name: "monitor-tasks", Unit: "ms"}, series{Name: "node -e 0", Unit: "ms"}
	cpu, peerCPU := series{Name: "monitor-tasks, CPU", Unit: "ms"}, series{Name: "node -e 0, CPU", Unit: "ms"}
	runs := b.times(31, 11)
	for range runs {
		u, err := measure(h.command(ctx, "monitor-tasks", "--quiet"))
		if err != nil {
			return nil, err
		}
		ours.Values, cpu.Values = append(ours.Values, ms(u.Wall)), append(cpu.Values, ms(u.CPU))
		node := exec.CommandContext(ctx, "node", "-e", "0")
		node.Env = h.env
		if u, err = measure(node); err != nil {
			return nil, err
		}
		peer.Values, peerCPU.Values = append(peer.Values, ms(u.Wall)), append(peerCPU.Values, ms(u.CPU))
	}
	return []row{{
		Name: "monitor", Title: "`monitor-tasks` as cron runs it, nothing to do",
		Detail: fmt.Sprintf("whole process with the environment of cron, a processor runs, all checks pass, the API over TLS through a proxy; %d runs of each", runs),
		Series: []series{ours, peer, cpu, peerCPU},
		Aims:   []aim{ratio(ours, peer, 0.5, true)},
	}}, nil
}

// awaitHealthy waits until a pass of the monitor finds nothing wrong.
func (h *host) awaitHealthy(ctx context.Context) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		_, err := measure(h.command(ctx, "monitor-tasks", "--quiet"))
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// memory measures the peak memory of a processor with many answers at the same time.
func memory(ctx context.Context, b *suite) (_ []row, err error) {
	h, err := b.host(ctx)
	if err != nil {
		return nil, err
	}
	tasks := b.times(500, 200)
	large, small := series{Name: "4 MiB base64", Unit: "MiB"}, series{Name: "0.5 MiB base64", Unit: "MiB"}
	for range b.times(3, 1) {
		for _, s := range []*series{&large, &small} {
			size := 4 << 20
			if s == &small {
				size = 1 << 19
			}
			peak, err := h.peak(ctx, tasks, answerOf(size))
			if err != nil {
				return nil, err
			}
			s.Values = append(s.Values, float64(peak)/(1<<20))
		}
	}
	return []row{{
		Name: "memory", Title: fmt.Sprintf("peak memory, %d tasks in flight", tasks),
		Detail:  fmt.Sprintf("`task-processor run --concurrency %d`: all requests are in flight before the first is answered, over TLS through an http proxy; VmHWM of the process", tasks),
		Series:  []series{large, small},
		Audited: true,
		Aims: []aim{{What: "peak", Value: large.median(), Unit: "MiB", Bound: 128, AtMost: true},
			{What: "ratio", Value: large.median() / small.median(), Bound: 1.15, AtMost: true, Against: "answers of an eighth of the size"}},
	}}, b.auditHost(ctx, h)
}

// answerOf returns base64 text of about that many bytes.
func answerOf(size int) []byte {
	return []byte(base64.StdEncoding.EncodeToString(simapi.Noise(size / 4 * 3)))
}

func (h *host) peak(ctx context.Context, tasks int, answer []byte) (peak int64, err error) {
	if err := h.enqueue(ctx, tasks); err != nil {
		return 0, err
	}
	h.api.serve(answer)
	release := h.api.block()
	defer h.api.open()
	type result struct {
		usage
		err error
	}
	done := make(chan result, 1)
	running, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		u, err := measure(h.command(running, "task-processor", "run", "--once", "--concurrency", fmt.Sprint(tasks)))
		done <- result{u, err}
	}()
	for deadline := time.Now().Add(time.Minute); h.api.inFlight.Load() < int64(tasks); {
		select {
		case got := <-done:
			return 0, fmt.Errorf("the processor ended with %d requests in flight: %w", h.api.inFlight.Load(), got.err)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("only %d of %d requests are in flight after a minute", h.api.inFlight.Load(), tasks)
		}
	}
	release()
	got := <-done
	return got.Peak, errors.Join(got.err, h.removePictures())
}

// removePictures removes the pictures that the processor has stored, so that the disk does not fill.
func (h *host) removePictures() error {
	found, err := filepath.Glob(filepath.Join(h.dir, "images", "*", "*.png"))
	for _, path := range found {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// cpuTime measures the CPU time of a picture, beside the least that has to be done with its answer.
func cpuTime(ctx context.Context, b *suite) (_ []row, err error) {
	h, err := b.host(ctx)
	if err != nil {
		return nil, err
	}
	pictures := b.times(40, 15)
	answer := []byte(base64.StdEncoding.EncodeToString(simapi.Noise(pictureBytes)))
	h.api.serve(answer)
	encoded := filepath.Join(h.dir, "picture.b64")
	if err := os.WriteFile(encoded, answer, 0o600); err != nil {
		return nil, err
	}
	ours, peer := series{Name: "task-processor", Unit: "ms CPU"}, series{Name: "base64 -d and sha256sum", Unit: "ms CPU"}
	whole := series{Name: "task-processor with its start", Unit: "ms CPU"}
	pairs := b.times(7, 3)
	for range pairs {
		// What the process takes without a task is no part of a picture.
		idle, err := measure(h.command(ctx, "task-processor", "run", "--once", "--concurrency", "8"))
		if err != nil {
			return nil, err
		}
		if err := h.enqueue(ctx, pictures); err != nil {
			return nil, err
		}
		u, err := measure(h.command(ctx, "task-processor", "run", "--once", "--concurrency", "8"))
		if err != nil {
			return nil, err
		}
		ours.Values = append(ours.Values, ms(u.CPU-idle.CPU)/float64(pictures))
		whole.Values = append(whole.Values, ms(u.CPU)/float64(pictures))
		if err := h.removePictures(); err != nil {
			return nil, err
		}
		cpu, err := decodeAndHash(ctx, encoded, pictures)
		if err != nil {
			return nil, err
		}
		peer.Values = append(peer.Values, ms(cpu)/float64(pictures))
	}
	return []row{{
		Name: "cpu", Title: "CPU time for a picture of 4 MiB",
		Detail: fmt.Sprintf("`task-processor run --once` with %d pictures, 8 in flight, over TLS through an http proxy, less the CPU time of a run without tasks; the peer is "+
			"`base64 -d picture.b64 > picture && sha256sum picture`; %d pairs", pictures, pairs),
		Series:  []series{ours, peer, whole},
		Audited: true,
		Aims:    []aim{ratio(ours, peer, 2, true)},
	}}, b.auditHost(ctx, h)
}

// decodeAndHash runs base64 -d and sha256sum so often, and returns their CPU time.
func decodeAndHash(ctx context.Context, encoded string, times int) (cpu time.Duration, err error) {
	decoded := strings.TrimSuffix(encoded, ".b64")
	for range times {
		out, err := os.Create(decoded)
		if err != nil {
			return 0, err
		}
		decode := exec.CommandContext(ctx, "base64", "-d", encoded)
		decode.Stdout = out
		u, err := measure(decode)
		if err := errors.Join(err, out.Close()); err != nil {
			return 0, err
		}
		cpu += u.CPU
		if u, err = measure(exec.CommandContext(ctx, "sha256sum", decoded)); err != nil {
			return 0, err
		}
		cpu += u.CPU
	}
	return cpu, nil
}

// binaries states the size of each binary, the time from start to ready, and the time of a clean build.
func binaries(ctx context.Context, b *suite) (_ []row, err error) {
	h, err := b.host(ctx)
	if err != nil {
		return nil, err
	}
	h.api.serve(nil)
	r := row{Name: "binaries", Title: "size of each binary, start to ready, clean build",
		Detail: "stripped (`-trimpath -ldflags '-s -w'`, CGO_ENABLED=0); ready is the first 200 of /readyz after the start of the process"}
	for _, name := range []string{"task-processor", "monitor-tasks", "simple-test", "fix-stuck-tasks"} {
		info, err := os.Stat(filepath.Join(h.programs, name))
		if err != nil {
			return nil, err
		}
		size := float64(info.Size()) / 1e6
		r.Series = append(r.Series, series{Name: name, Unit: "MB", Values: []float64{size}})
		if name == "task-processor" {
			r.Aims = append(r.Aims, aim{What: name, Value: size, Unit: "MB", Bound: 25, AtMost: true})
		}
	}
	ready := series{Name: "start to ready", Unit: "ms"}
	for range b.times(9, 3) {
		took, err := h.startToReady(ctx)
		if err != nil {
			return nil, err
		}
		ready.Values = append(ready.Values, ms(took))
	}
	r.Series = append(r.Series, ready)
	if b.quick {
		r.Detail += "; the clean build is left out by --quick"
		return []row{r}, nil
	}
	cache, err := os.MkdirTemp("", "imagetasks-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(cache)
	built, err := buildPrograms(ctx, b.root, filepath.Join(cache, "bin"), "GOCACHE="+filepath.Join(cache, "go"))
	if err != nil {
		return nil, err
	}
	r.Series = append(r.Series, series{Name: "clean build", Unit: "s", Values: []float64{built.Wall.Seconds()}},
		series{Name: "clean build, CPU", Unit: "s", Values: []float64{built.CPU.Seconds()}})
	return []row{r}, nil
}

func (h *host) startToReady(ctx context.Context) (time.Duration, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return 0, err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	cmd := h.command(running, "task-processor", "run")
	cmd.Env = append(cmd.Env, "STATUS_ADDR="+address)
	var out bytes.Buffer
	cmd.Stderr = &out
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for time.Since(began) < 30*time.Second {
		response, err := client.Get("http://" + address + "/readyz")
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				took := time.Since(began)
				stop()
				_ = cmd.Wait()
				return took, nil
			}
		}
		time.Sleep(time.Millisecond)
	}
	stop()
	_ = cmd.Wait()
	return 0, fmt.Errorf("the processor is not ready after 30 s: %s", out.String())
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
