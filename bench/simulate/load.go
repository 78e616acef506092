package main

import (
	"math"
	"math/rand/v2"
)

// busiestAt is the part of the day at which most tasks come: 14:00.
const busiestAt = 14.0 / 24

// arrivals are the random times of a day at which tasks are enqueued. The rate follows a curve with one peak, exp(k cos t).
type arrivals struct {
	random  *rand.Rand
	highest float64 // tasks/s
	k       float64
	day     float64 // seconds
	at      float64
}

func newArrivals(c config) *arrivals {
	return &arrivals{random: rand.New(rand.NewPCG(c.Seed, 1)), highest: c.Tasks / c.Day * c.Peak, k: concentration(c.Peak), day: c.Day}
}

// next returns the time of the next task, and false at the end of the day.
func (a *arrivals) next() (float64, bool) {
	for {
		a.at += a.random.ExpFloat64() / a.highest
		if a.at >= a.day {
			return 0, false
		}
		if a.random.Float64() < math.Exp(a.k*(math.Cos(2*math.Pi*(a.at/a.day-busiestAt))-1)) {
			return a.at, true
		}
	}
}

// concentration returns the k with which the peak of the curve is so many times its mean.
func concentration(peak float64) float64 {
	low, high := 0.0, peak*peak+1
	for range 60 {
		middle := (low + high) / 2
		if math.Exp(middle)/bessel(middle) < peak {
			low = middle
		} else {
			high = middle
		}
	}
	return low
}

// bessel is the modified Bessel function of order 0: the mean of exp(x cos t).
func bessel(x float64) float64 {
	sum, term := 1.0, 1.0
	for n := 1.0; term > sum*1e-16; n++ {
		term *= x / 2 / n * x / 2 / n
		sum += term
	}
	return sum
}

// gamma returns a random time with that mean and coefficient of variation: 0 is always the mean, 1 is exponential (Marsaglia and Tsang 2000).
func gamma(random *rand.Rand, mean, variation float64) float64 {
	if variation == 0 {
		return mean
	}
	shape := 1 / (variation * variation)
	raised := 1.0
	d := shape - 1.0/3
	if shape < 1 {
		d++
		raised = math.Pow(random.Float64(), 1/shape)
	}
	for {
		x := random.NormFloat64()
		v := 1 + x/math.Sqrt(9*d)
		if v <= 0 {
			continue
		}
		v *= v * v
		if math.Log(random.Float64()) < x*x/2+d-d*v+d*math.Log(v) {
			return d * v * raised * mean / shape
		}
	}
}
