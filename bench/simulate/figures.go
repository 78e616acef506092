package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
)

// figures are medians of docs/benchmarks/values.json.
type figures struct {
	Date        string
	Cores       float64
	Noop        float64 // tasks/s that do nothing
	Paid        float64 // tasks/s that record a paid request
	TaskCPU     float64 // µs of CPU of the processor for a task that does nothing
	Single      float64 // tasks/s that are enqueued one by one
	Bulk        float64 // tasks/s that are enqueued by calls for many
	Latency     float64 // ms from the commit of one task to its begin
	PictureCPU  float64 // ms of CPU of the processor for a picture of 4 MiB
	Memory      float64 // MiB that a processor takes with MemoryTasks answers of 4 MiB
	MemoryTasks float64
}

// builtIn stands for rows that the file lacks, or for the file: a run with --quick on 2 cores with other work on them.
var builtIn = figures{Cores: 2, Noop: 6980, Paid: 3370, TaskCPU: 32.6, Single: 257, Bulk: 18_300, Latency: 2.33, PictureCPU: 58.4, Memory: 124, MemoryTasks: 500}

// series of the file, and the figure that each is.
func (f *figures) series() map[[2]string]*float64 {
	return map[[2]string]*float64{
		{"noop", "ours"}:                       &f.Noop,
		{"noop", "ours, CPU of its processes"}: &f.TaskCPU,
		{"paid", "ours, with a paid request"}:  &f.Paid,
		{"enqueue", "ours, single"}:            &f.Single,
		{"enqueue", "ours, bulk"}:              &f.Bulk,
		{"latency", "ours, p50"}:               &f.Latency,
		{"cpu", "task-processor"}:              &f.PictureCPU,
		{"memory", "4 MiB base64"}:             &f.Memory,
	}
}

// readFigures reads the file that bench writes. Without the file, or where it lacks a row, the built-in figures are used.
func readFigures(path string) (figures, error) {
	f := builtIn
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("read the measured values: %w", err)
	}
	var file struct {
		Date  string
		Cores float64
		Rows  []struct {
			Name, Title string
			Series      []struct {
				Name   string
				Values []float64
			}
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return f, fmt.Errorf("the measured values in %s: %w; write them again with ./scripts/bench.sh", path, err)
	}
	f.Date = file.Date
	if file.Cores > 0 {
		f.Cores = file.Cores
	}
	for _, row := range file.Rows {
		for _, s := range row.Series {
			if to := f.series()[[2]string{row.Name, s.Name}]; to != nil && len(s.Values) > 0 {
				*to = median(s.Values)
			}
		}
		if found := memoryTasks.FindStringSubmatch(row.Title); row.Name == "memory" && found != nil {
			f.MemoryTasks, _ = strconv.ParseFloat(found[1], 64)
		}
	}
	return f, nil
}

var memoryTasks = regexp.MustCompile(`(\d+) tasks`)

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// costs are what a task takes, in seconds of a core unless they say otherwise.
type costs struct {
	Enqueue      float64 `json:"enqueue_s"`   // PostgreSQL
	Statement    float64 `json:"statement_s"` // PostgreSQL, each statement of a processor
	Claim        float64 `json:"claim_s"`     // PostgreSQL, per task in addition
	Request      float64 `json:"request_s"`   // likewise
	Complete     float64 `json:"complete_s"`  // likewise
	Task         float64 `json:"task_s"`      // processor
	Picture      float64 `json:"picture_s"`   // processor, per MiB of answer
	MemoryIdle   float64 `json:"memory_idle_mib"`
	MemoryTask   float64 `json:"memory_task_mib"`
	FilesIdle    float64 `json:"files_idle"`
	FilesPerTask float64 `json:"files_task"`
}

const (
	// memoryIdle is the peak memory in MiB of a processor without tasks.
	memoryIdle = 30
	// filesIdle are its open files: connections to the database, logs and listeners.
	filesIdle = 40
	// filesPerTask are a connection to the proxy and a file for the picture. With HTTP/2 tasks share connections.
	filesPerTask = 2
	// pictureMiB is the size of the answer with a picture of 4 MiB, in base64.
	pictureMiB = 4 * 4.0 / 3
)

// costs derives costs from the figures. PostgreSQL and its clients shared all cores when they were measured, so what the processor did not take is
// what PostgreSQL took at most.
func (f figures) costs() costs {
	perTask := max(0, f.Cores/f.Noop-f.TaskCPU/1e6)
	return costs{
		Enqueue:      f.Cores / f.Single,
		Statement:    f.Latency / 1e3,
		Claim:        perTask / 2,
		Complete:     perTask / 2,
		Request:      max(0, f.Cores/f.Paid-f.Cores/f.Noop),
		Task:         f.TaskCPU / 1e6,
		Picture:      f.PictureCPU / 1e3 / pictureMiB,
		MemoryIdle:   memoryIdle,
		MemoryTask:   max(0, f.Memory-memoryIdle) / f.MemoryTasks,
		FilesIdle:    filesIdle,
		FilesPerTask: filesPerTask,
	}
}
