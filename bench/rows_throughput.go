package main

import (
	"context"
	"fmt"
	"slices"
)

// users is how many users the tasks of a row belong to.
const users = 50

// throughput measures no-op tasks per second of one processor, of several, and of tasks that record a paid request, beside all peers. One run of
// each contender follows the other, so often as the suite has pairs.
func throughput(ctx context.Context, b *suite) ([]row, error) {
	s, n := b.server, b.times(50_000, 10_000)
	ours, err := newOurs(ctx, s, n, users)
	if err != nil {
		return nil, err
	}
	river, err := newRiver(ctx, s, n)
	if err != nil {
		return nil, err
	}
	templates := []string{ours, river}
	graphile := ""
	dir, missing := installGraphile(ctx)
	if missing == nil {
		if graphile, err = newGraphile(ctx, s, dir, n); err != nil {
			return nil, err
		}
		templates = append(templates, graphile)
	} else {
		b.progress("graphile-worker is left out: %v", missing)
	}
	one := load{Kind: "ours", Concurrency: oursConcurrency}
	four := make([]load, 4)
	for i := range four {
		four[i] = load{Kind: "ours", Concurrency: oursConcurrency / len(four)}
	}
	contenders := []struct {
		name     string
		template string
		loads    []load
		clients  int // of pgbench
	}{
		{name: "ours", template: ours, loads: []load{one}},
		{name: "River, pgx", template: river, loads: []load{{Kind: "river-pgx"}}},
		{name: "ours, 4 processors", template: ours, loads: four},
		{name: "River, lib/pq", template: river, loads: []load{{Kind: "river-pq"}}},
		{name: "pgbench, 1 client", template: ours, clients: 1},
		{name: graphileName, template: graphile, loads: []load{{Kind: "graphile", Dir: dir}}},
		{name: "pgbench, 2 clients", template: ours, clients: 2},
		{name: "ours, with a paid request", template: ours, loads: []load{{Kind: "ours", Concurrency: oursConcurrency, Paid: true}}},
	}
	rates := map[string]*series{}
	cpu := map[string]*series{}
	for range b.pairs {
		for _, c := range contenders {
			if c.name == graphileName && missing != nil {
				continue
			}
			var r run
			if c.clients > 0 {
				r, err = s.limit(ctx, c.template, n, c.clients)
			} else {
				r, err = s.workCopy(ctx, c.template, n, c.loads...)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			if rates[c.name] == nil {
				rates[c.name] = &series{Name: c.name, Unit: "tasks/s"}
				cpu[c.name] = &series{Name: c.name + ", CPU of its processes", Unit: "µs/task"}
			}
			rates[c.name].Values = append(rates[c.name].Values, r.perSecond())
			cpu[c.name].Values = append(cpu[c.name].Values, float64(r.CPU.Microseconds())/float64(r.Tasks))
			b.progress("%s: %.0f tasks/s", c.name, r.perSecond())
		}
	}
	for _, name := range templates {
		if err := s.drop(ctx, name); err != nil {
			return nil, err
		}
	}
	get := func(name string) series { return *rates[name] }
	limit := get("pgbench, 1 client")
	if two := get("pgbench, 2 clients"); two.median() > limit.median() {
		limit = two
	}
	toRiver := ratio(get("ours"), get("River, pgx"), 3, false)
	b.toRiver = toRiver.Value
	rows := []row{
		{
			Name: "noop", Title: fmt.Sprintf("no-op tasks claimed and completed, %s charged tasks, one processor", count(n)),
			Detail: fmt.Sprintf("%d tasks in flight; River with %d workers, a fetch cooldown of %s and a poll interval of %s; graphile-worker %s with the settings of its documentation; pgbench sends the "+
				"statements of the store for %d tasks each, prepared", oursConcurrency, riverWorkers, riverCooldown, riverPollInterval, graphileVersion, limitBatch),
			Series: []series{get("ours"), get("River, pgx"), get("River, lib/pq"), get("pgbench, 1 client"), get("pgbench, 2 clients"),
				*cpu["ours"], *cpu["River, pgx"]},
			Aims:    []aim{toRiver, ratio(get("ours"), limit, 0.6, false), stated(get("ours"), get("River, lib/pq"))},
			Audited: true,
		}, {
			Name: "processors", Title: "the same with 4 processors on one database",
			Detail:  fmt.Sprintf("4 processes with %d tasks in flight each", oursConcurrency/len(four)),
			Series:  []series{get("ours, 4 processors"), get("ours")},
			Aims:    []aim{ratio(get("ours, 4 processors"), get("ours"), 1, false)},
			Audited: true,
		}, {
			Name: "paid", Title: "tasks that record a paid request",
			Detail:  "one more statement, grouped over the tasks that wait for it",
			Series:  []series{get("ours, with a paid request"), get("ours")},
			Aims:    []aim{stated(get("ours, with a paid request"), get("ours")), stated(get("ours, with a paid request"), get("River, pgx"))},
			Audited: true,
		},
	}
	if missing != nil {
		rows[0].Detail += "; graphile-worker could not be installed and is left out"
		return rows, nil
	}
	rows[0].Series = slices.Insert(rows[0].Series, 3, get(graphileName))
	rows[0].Aims = append(rows[0].Aims, stated(get("ours"), get(graphileName)))
	return rows, nil
}

const graphileName = "graphile-worker"
