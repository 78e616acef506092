package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults.
const (
	Kill           Kind = "kill -9"
	Suspend        Kind = "stop and continue"
	PlannedRestart Kind = "planned restart"
	StopNow        Kind = "stop --now"
	TwoSignals     Kind = "two signals"
	Reload         Kind = "reload"
	PIDFile        Kind = "pid file removed"
	Terminate      Kind = "backends terminated"
	ServerRestart  Kind = "server restarted"
	TableLock      Kind = "table locked"
	UserLock       Kind = "users locked"
	TaskLock       Kind = "tasks locked"
	LostAnswers    Kind = "answers lost"
	SilentAnswers  Kind = "answers silent"
	Silence        Kind = "database silent"
	HangingConnect Kind = "connects hang"
	SQLState       Kind = "SQLSTATE errors"
	CancelRunning  Kind = "tasks cancelled"
	Duplicates     Kind = "monitors and fixers"
	LogDisk        Kind = "log disk full"
	PictureDisk    Kind = "picture disk full"
	ProxyFails     Kind = "proxy fails"
	ProxyRestart   Kind = "proxy restarted"
	TunnelsSilent  Kind = "tunnels silent"
	APIFails       Kind = "API fails"
)

// kinds returns all kinds, in an order that the schedule depends on.
func kinds() []Kind {
	return []Kind{Kill, Suspend, PlannedRestart, StopNow, TwoSignals, Reload, PIDFile, Terminate, ServerRestart, TableLock, UserLock, TaskLock,
		LostAnswers, SilentAnswers, Silence, HangingConnect, SQLState, CancelRunning, Duplicates, LogDisk, PictureDisk, ProxyFails,
		ProxyRestart, TunnelsSilent, APIFails}
}

// Fault is one fault of a schedule.
type Fault struct {
	At        time.Duration // after the start
	Kind      Kind
	Processor int           // by number; -1: none
	For       time.Duration // how long it lasts; 0: it has no length
	Count     int           // of what it concerns; 0: no number
	Detail    string        // what exactly
}

// String returns the fault as one line.
func (f Fault) String() string {
	text := fmt.Sprintf("%8.1fs  %-20s", f.At.Seconds(), f.Kind)
	if f.Processor >= 0 {
		text += fmt.Sprintf(" processor %d", f.Processor)
	}
	if f.Detail != "" {
		text += " " + f.Detail
	}
	if f.Count > 0 {
		text += fmt.Sprintf(" (%d)", f.Count)
	}
	if f.For > 0 {
		text += fmt.Sprintf(" for %.1fs", f.For.Seconds())
	}
	return text
}

// newSchedule returns the faults of a run, which depend on its arguments alone. A longer run with the same seed begins with the same faults.
// Each kind occurs once before one occurs again.
func newSchedule(seed uint64, length, every time.Duration, processors int) []Fault {
	r := rand.New(rand.NewPCG(seed, 0x696d616765746173))
	var faults []Fault
	for at := 2 * time.Second; ; {
		order := kinds()
		r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, kind := range order {
			f := newFault(r, kind, processors)
			f.At = at.Truncate(100 * time.Millisecond)
			if f.At >= length-time.Second {
				return faults
			}
			faults = append(faults, f)
			at += every/2 + time.Duration(r.Int64N(int64(every)))
		}
	}
}

// between returns a random time, in tenths of a second.
func between(r *rand.Rand, least, most float64) time.Duration {
	return time.Duration((least + r.Float64()*(most-least)) * float64(time.Second)).Truncate(100 * time.Millisecond)
}

func oneOf[T any](r *rand.Rand, values ...T) T { return values[r.IntN(len(values))] }

// newFault returns a fault of a kind, without its time.
func newFault(r *rand.Rand, kind Kind, processors int) Fault {
	f := Fault{Kind: kind, Processor: -1}
	processor := r.IntN(processors)
	switch kind {
	case Kill, PlannedRestart, StopNow, TwoSignals, Reload, PIDFile:
		f.Processor = processor
	case Suspend:
		f.Processor, f.For = processor, between(r, 4, 9)
	case Terminate:
		f.Count = 1 + r.IntN(8)
	case ServerRestart:
		f.For = between(r, 0, 4)
	case TableLock:
		f.Detail, f.For = oneOf(r, "tasks", "tasks", "credits", "ledger", "keys", "calls", "control", "processors", "set_aside", "pending_results"), between(r, 1, 6)
	case UserLock:
		f.Count, f.For = 1+r.IntN(4), between(r, 1, 8)
	case TaskLock:
		f.Count, f.For = 1+r.IntN(10), between(r, 2, 8)
	case LostAnswers:
		f.Detail, f.For = oneOf(r, "FIN", "RST", "FATAL", "cut")+" "+oneOf(r, statements()...), between(r, 2, 6)
		f.Count = oneOf(r, 1, 2, 5) // every so many
	case SilentAnswers:
		f.Detail, f.Count = oneOf(r, statements()...), 1+r.IntN(4)
	case Silence:
		f.For = between(r, 1, 7)
	case HangingConnect:
		f.For = between(r, 2, 6)
	case SQLState:
		f.Detail = oneOf(r, "40001", "40P01", "42501", "53100", "53200", "55P03", "57014", "0A000", "28P01", "XX000") + " " + oneOf(r, statements()...)
		f.For = between(r, 1, 5)
	case CancelRunning:
		f.Count = 1 + r.IntN(4)
	case Duplicates:
		f.Detail, f.Count = oneOf(r, "fail at STUCK_AFTER", "fail after 8s", "requeue after 5s"), 2+r.IntN(2)
	case LogDisk:
		f.Processor, f.For = processor, between(r, 4, 10)
	case PictureDisk:
		f.For = between(r, 2, 8)
	case ProxyFails:
		f.Detail, f.For = oneOf(r, "refuses", "hangs", "sends garbage"), between(r, 1, 6)
	case ProxyRestart:
		f.For = between(r, 0, 3)
	case APIFails:
		f.Detail, f.For = oneOf(r, "500", "503", "429", "401", "502 page"), between(r, 1, 6)
	}
	return f
}

// statements returns the kinds of statements that a fault may be limited to.
func statements() []string {
	return []string{"any", "any", "claim", "record request", "record request", "complete", "complete", "renew", "close", "release"}
}

// statementText returns a text that only statements of that kind have.
func statementText(statement string) string {
	return map[string]string{
		"claim":          ".claim(",
		"record request": ".begin_requests(",
		"complete":       ".complete(",
		"close":          "current_stage = 'closed'",
		"release":        "else 'released' end",
		"renew":          "current_stage = held.stage",
	}[statement]
}
