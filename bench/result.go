package main

import (
	"math"
	"slices"
	"time"
)

// series are the measured values of one contender in one row.
type series struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Values []float64 `json:"values"`
}

func (s series) median() float64 { return quantile(s.Values, 0.5) }
func (s series) min() float64    { return quantile(s.Values, 0) }
func (s series) max() float64    { return quantile(s.Values, 1) }

// quantile returns the value below which the given part of the values lies, interpolated; NaN if there are none.
func quantile(values []float64, part float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := part * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (sorted[high]-sorted[low])*(at-float64(low))
}

// aim is a bound for a ratio or a value.
type aim struct {
	What    string  `json:"what"` // the value, as in the table
	Value   float64 `json:"value"`
	Unit    string  `json:"unit,omitempty"` // empty: a ratio
	Bound   float64 `json:"bound,omitempty"`
	AtMost  bool    `json:"at_most,omitempty"`
	Stated  bool    `json:"stated,omitempty"` // there is no bound
	Against string  `json:"against,omitempty"`
}

func (a aim) met() bool {
	if a.AtMost {
		return a.Value <= a.Bound
	}
	return a.Value >= a.Bound
}

// row is one row of the table.
type row struct {
	Name    string        `json:"name"` // stable, for --rows
	Title   string        `json:"title"`
	Detail  string        `json:"detail"` // what was run, with its sizes
	Series  []series      `json:"series"`
	Aims    []aim         `json:"aims"`
	Audited bool          `json:"audited"` // the audit passed at the end of each run of ours
	Took    time.Duration `json:"took_ns"`
}

// ratio returns the aim that the median of ours is at least bound times that of peer, or at most.
func ratio(ours, peer series, bound float64, atMost bool) aim {
	return aim{What: "ratio", Value: ours.median() / peer.median(), Bound: bound, AtMost: atMost, Against: peer.Name}
}

// stated is a ratio without a bound.
func stated(ours, peer series) aim {
	return aim{What: "ratio", Value: ours.median() / peer.median(), Stated: true, Against: peer.Name}
}
