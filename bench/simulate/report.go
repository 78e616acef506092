package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// report is the result of a simulation.
type report struct {
	Config     config     `json:"config"`
	Tasks      int        `json:"tasks"`
	Waiting    waiting    `json:"waiting"`
	Left       int        `json:"waiting_at_end_of_day"`
	Hours      float64    `json:"hours_until_all_are_completed"`
	Resources  []resource `json:"resources"`
	Memory     peak       `json:"memory_mib"`
	Files      peak       `json:"open_files"`
	Limit      string     `json:"limit,omitempty"` // name of the resource that is full; empty: none
	First      string     `json:"first_limit"`     // name of the one that is full first
	FirstAt    float64    `json:"first_limit_at_tasks_a_day"`
	Suggestion string     `json:"suggestion"`
}

type waiting struct {
	Mean    float64 `json:"mean_s"`
	P50     float64 `json:"p50_s"`
	P99     float64 `json:"p99_s"`
	Max     float64 `json:"max_s"`
	Longest int     `json:"longest_queue"`
}

// resource is what tasks share.
type resource struct {
	Name     string  `json:"name"`
	Capacity string  `json:"capacity"`
	Busiest  float64 `json:"busiest_hour"` // used part of the capacity
	Day      float64 `json:"day"`
	FullAt   float64 `json:"full_at_tasks_a_day"`
	// elastic means that it works the more per second the more waits, because the statements for more tasks are grouped. That it is busy all the time
	// is no limit.
	elastic bool
	// needed is how much capacity there would have to be, so that the highest rate of the day uses three quarters of it.
	needed  float64
	suggest func(needed float64) string
}

// peak is the most that a processor needed of something.
type peak struct {
	Most   float64 `json:"most"`
	AtFull float64 `json:"with_all_slots_in_use"`
	Limit  float64 `json:"limit"`
}

const (
	postgresCPU = "PostgreSQL CPU"
	// full is the use in the busiest hour from which on a resource is the limit.
	full = 0.95
	// comfortable is the use that suggestions aim at.
	comfortable = 0.75
	// pendingTimeout is the default of PENDING_TIMEOUT, in seconds.
	pendingTimeout = 24 * 3600
)

func newReport(q *queue) report {
	c := q.conf
	r := report{
		Config: c, Tasks: q.completed, Left: q.leftAtEnd, Hours: q.lastCompleted / c.Day * hours,
		Waiting: waiting{Mean: q.waits.mean(), P50: q.waits.quantile(0.5), P99: q.waits.quantile(0.99), Max: q.waits.most, Longest: int(q.waiting.most)},
		Memory:  peak{Most: c.memory(q.mostInFlight), AtFull: c.memory(c.Concurrency), Limit: c.Memory},
		Files:   peak{Most: c.files(q.mostInFlight), AtFull: c.files(c.Concurrency), Limit: c.Files},
	}
	add := func(name, capacity string, of, demand float64, g gauge, suggest func(float64) string) {
		if demand == 0 {
			return
		}
		peakRate := c.Tasks / c.Day * c.Peak
		r.Resources = append(r.Resources, resource{Name: name, Capacity: capacity, Busiest: g.busiest() / of, Day: g.total(hours) / c.Day / of,
			FullAt: of / demand / c.Peak * c.Day, elastic: name == postgresCPU, needed: demand * peakRate / comfortable, suggest: suggest})
	}
	var cpu gauge
	cpu.window = c.Day / hours
	for _, h := range q.hosts {
		cpu.addAll(h.cpu.busy)
	}
	processors := float64(c.Processors)
	add(postgresCPU, plural(c.PostgresCores, "core"), float64(c.PostgresCores), c.Costs.grouped(), q.postgres.busy, func(needed float64) string {
		return fmt.Sprintf("enqueue in calls for many tasks, give PostgreSQL %.0f cores, or divide the users among %.0f installations with a server each", math.Ceil(needed),
			math.Ceil(needed/float64(c.PostgresCores)))
	})
	add("processor CPU", fmt.Sprintf("%d × %s", c.Processors, plural(c.ProcessorCores, "core")), processors*float64(c.ProcessorCores),
		c.Costs.Task+c.Costs.Picture*c.Answer, cpu, func(needed float64) string {
			return fmt.Sprintf("run processors on %.0f hosts of %s", math.Ceil(needed/float64(c.ProcessorCores)), plural(c.ProcessorCores, "core"))
		})
	if c.Bandwidth > 0 {
		bandwidth := func(needed float64) string {
			return fmt.Sprintf("use a proxy with %.0f Mbit/s in each direction, or one for each of several processors, with as much together", math.Ceil(needed*c.Bandwidth))
		}
		add("proxy, to the processors", number(c.Bandwidth)+" Mbit/s", 1, wire(c.Answer)/c.bytesPerSecond(), q.down.busy, bandwidth)
		add("proxy, to the API", number(c.Bandwidth)+" Mbit/s", 1, wire(c.Upload)/c.bytesPerSecond(), q.up.busy, bandwidth)
	}
	slots := processors * float64(c.Concurrency)
	add("slots", fmt.Sprintf("%d × %d", c.Processors, c.Concurrency), slots, c.residence(), q.slots, func(needed float64) string {
		return c.suggestSlots(math.Ceil(needed))
	})
	r.findLimit()
	return r
}

// grouped returns what PostgreSQL does for a task where many are written by one statement.
func (c costs) grouped() float64 {
	return c.Enqueue + c.Claim + c.Request + c.Complete + c.Statement*(1.0/claimBatch+2.0/groupSize)
}

// addAll adds another gauge's sums.
func (g *gauge) addAll(other gauge) {
	for len(g.sums) < len(other.sums) {
		g.sums = append(g.sums, 0)
	}
	for i, sum := range other.sums {
		g.sums[i] += sum
	}
}

// residence returns how long a task is in a slot where nothing waits.
func (c config) residence() float64 {
	seconds := c.Seconds + 2*c.Costs.Statement + c.Costs.Request + c.Costs.Complete + c.Costs.Task + c.Costs.Picture*c.Answer
	if c.Bandwidth > 0 {
		seconds += (wire(c.Answer) + wire(c.Upload)) / c.bytesPerSecond()
	}
	return seconds
}

func (c config) memory(inFlight int) float64 {
	return c.Costs.MemoryIdle + c.Costs.MemoryTask*float64(inFlight)
}

func (c config) files(inFlight int) float64 {
	return c.Costs.FilesIdle + c.Costs.FilesPerTask*float64(inFlight)
}

// maxConcurrency is the greatest TASK_CONCURRENCY.
const maxConcurrency = 1000

// suggestSlots says how so many slots are had, within the memory and the open files of a host.
func (c config) suggestSlots(needed float64) string {
	most := float64(maxConcurrency)
	if c.Costs.MemoryTask > 0 {
		most = min(most, (c.Memory-c.Costs.MemoryIdle)/c.Costs.MemoryTask)
	}
	most = max(1, math.Floor(min(most, (c.Files-c.Costs.FilesIdle)/c.Costs.FilesPerTask)))
	processors := max(float64(c.Processors), math.Ceil(needed/most))
	each := math.Ceil(needed / processors)
	if processors == 1 {
		return fmt.Sprintf("set TASK_CONCURRENCY=%.0f", each)
	}
	return fmt.Sprintf("run %.0f processors with TASK_CONCURRENCY=%.0f", processors, each)
}

// findLimit finds the limit, and what to change. Slots come last: tasks stay in them while they wait for what is full.
func (r *report) findLimit() {
	var limit, first *resource
	for i := range r.Resources {
		have := &r.Resources[i]
		if limit == nil && (have.FullAt < r.Config.Tasks/full || have.Busiest >= full && !have.elastic) {
			limit = have
		}
		if first == nil || have.FullAt < first.FullAt {
			first = have
		}
	}
	if first == nil { // nothing takes any time
		return
	}
	r.First, r.FirstAt = first.Name, first.FullAt
	var changes []string
	for _, have := range r.Resources {
		if have.FullAt < r.Config.Tasks/full {
			changes = append(changes, have.suggest(have.needed))
		}
	}
	switch {
	case r.Memory.Most > r.Memory.Limit:
		r.Limit = "memory"
		changes = append(changes, fmt.Sprintf("give each host of a processor %.0f MiB, or set a lower TASK_CONCURRENCY on more hosts", math.Ceil(r.Memory.AtFull)))
	case r.Files.Most > r.Files.Limit:
		r.Limit = "open files"
		changes = append(changes, fmt.Sprintf("raise the limit of open files of each processor to %.0f (LimitNOFILE, ulimit -n)", math.Ceil(r.Files.AtFull)))
	case limit != nil:
		r.Limit = limit.Name
		if len(changes) == 0 {
			changes = append(changes, limit.suggest(max(limit.needed, 0)))
		}
	case len(changes) == 0:
		r.Suggestion = fmt.Sprintf("nothing: %s is full first, at about %s tasks a day", r.First, count(r.FirstAt))
		return
	}
	r.Suggestion = strings.Join(changes, "; ")
}

// text returns the report as a table.
func (r report) text() string {
	var out strings.Builder
	c := r.Config
	fmt.Fprintf(&out, "%s tasks in a day with a peak of %s × the mean (%s tasks/s), %s s each\n\n", count(float64(r.Tasks)), number(c.Peak),
		number(c.Tasks/c.Day*c.Peak), number(c.Seconds))
	fmt.Fprintf(&out, "%-26s %14s %13s %6s %20s\n", "resource", "capacity", "busiest hour", "day", "full at, tasks a day")
	for _, x := range r.Resources {
		fmt.Fprintf(&out, "%-26s %14s %12.0f%% %5.0f%% %20s\n", x.Name, x.Capacity, 100*x.Busiest, 100*x.Day, count(x.FullAt))
	}
	fmt.Fprintf(&out, "%-26s %14s   %.0f MiB at most, %.0f MiB with all slots in use\n", "memory of a processor", separated(r.Memory.Limit)+" MiB", r.Memory.Most, r.Memory.AtFull)
	fmt.Fprintf(&out, "%-26s %14s   %.0f at most, %.0f with all slots in use\n", "open files of a processor", separated(r.Files.Limit), r.Files.Most, r.Files.AtFull)
	fmt.Fprintf(&out, "\nwaiting: p50 %s, p99 %s, at most %s; longest queue: %s\n", duration(r.Waiting.P50), duration(r.Waiting.P99), duration(r.Waiting.Max),
		count(float64(r.Waiting.Longest)))
	if r.Left > 0 {
		if r.Waiting.Max > pendingTimeout {
			out.WriteString("tasks that wait longer than PENDING_TIMEOUT fail and are refunded; here they wait\n")
		}
		fmt.Fprintf(&out, "at the end of the day %s tasks wait; all are completed after %.1f hours\n", count(float64(r.Left)), r.Hours)
	}
	limit := "none"
	if r.Limit != "" {
		limit = r.Limit
	}
	fmt.Fprintf(&out, "limit: %s\nto change: %s\n", limit, r.Suggestion)
	return out.String()
}

func duration(seconds float64) string {
	switch {
	case seconds < 0.0995:
		return fmt.Sprintf("%.0f ms", 1000*seconds)
	case seconds < 120:
		return fmt.Sprintf("%.1f s", seconds)
	case seconds < 7200:
		return fmt.Sprintf("%.0f min", seconds/60)
	}
	return fmt.Sprintf("%.1f h", seconds/3600)
}

// number formats a value with at most two digits after the point.
func number(v float64) string { return strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64) }

// count formats a number with two significant digits from 1,000 on, and its thousands separated.
func count(v float64) string {
	if v >= 1000 {
		unit := math.Pow(10, math.Floor(math.Log10(v))-1)
		v = math.Round(v/unit) * unit
	}
	return separated(v)
}

// separated formats a whole number with its thousands separated.
func separated(v float64) string {
	text := strconv.FormatFloat(math.Round(v), 'f', 0, 64)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
