package main

import "math"

// histogram holds waiting times in buckets whose ends differ by a percent.
type histogram struct {
	counts []int
	n      int
	sum    float64
	most   float64
}

const (
	finest = 1e-4 // seconds; what is less counts as 0
	growth = 1.01
)

func (h *histogram) add(seconds float64) {
	bucket := 0
	if seconds >= finest {
		bucket = 1 + int(math.Log(seconds/finest)/math.Log(growth))
	}
	for len(h.counts) <= bucket {
		h.counts = append(h.counts, 0)
	}
	h.counts[bucket]++
	h.n++
	h.sum += seconds
	h.most = max(h.most, seconds)
}

func (h *histogram) mean() float64 { return h.sum / float64(max(1, h.n)) }

// quantile returns the time that is not exceeded by that part of all.
func (h *histogram) quantile(part float64) float64 {
	rest := part * float64(h.n)
	for bucket, count := range h.counts {
		rest -= float64(count)
		if rest <= 0 && count > 0 {
			if bucket == 0 {
				return 0
			}
			return min(h.most, finest*math.Pow(growth, float64(bucket)-0.5))
		}
	}
	return h.most
}
