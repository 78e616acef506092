package taskprocessor

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

const maxReportGroups = 100_000

func reportCommand(a program) *cli.Command {
	return &cli.Command{Name: "report", Usage: "sum pictures, credits, costs, refunds and unknown outcomes", Action: a.report, Flags: append([]cli.Flag{
		&cli.StringFlag{Name: "by", Usage: "a line for each `GROUP`: day, model, endpoint or user", Value: string(store.ByDay)},
		&cli.StringFlag{Name: "from", Usage: "the first `DAY`, for example 2026-01-31", DefaultText: "the first one with an entry"},
		&cli.StringFlag{Name: "to", Usage: "the last `DAY`", DefaultText: "today"},
		&cli.StringFlag{Name: "time-zone", Usage: "`ZONE` of the days, for example Asia/Shanghai or UTC", DefaultText: "that of this machine"},
		&cli.IntFlag{Name: "limit", Usage: "at most `N` lines: the last days, or those with the most pictures", Value: 1000},
		app.JSONFlag()}, app.CommonFlags()...)}
}

// reportDocument is what `credits report --json` prints.
type reportDocument struct {
	By       store.GroupBy       `json:"by"`
	TimeZone string              `json:"time_zone"`
	From     string              `json:"from,omitempty"` // the first day
	To       string              `json:"to,omitempty"`   // the last day
	Groups   []store.ReportGroup `json:"groups"`
	More     int                 `json:"more_groups"` // that --limit left out
	Total    store.ReportSums    `json:"total"`       // of all groups
}

func (a program) report(c *cli.Context) error {
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	d := reportDocument{By: store.GroupBy(c.String("by")), From: c.String("from"), To: c.String("to")}
	if _, known := reportKeys[d.By]; !known {
		return app.Usagef("--by must be day, model, endpoint or user, not %q", d.By)
	}
	r := store.ReportRequest{By: d.By, Limit: c.Int("limit")}
	if r.Limit < 1 || r.Limit > maxReportGroups {
		return app.Usagef("--limit must be from 1 to %d", maxReportGroups)
	}
	if r.Zone, d.TimeZone, err = a.timeZone(c.String("time-zone")); err != nil {
		return err
	}
	if r.From, err = startOf("--from", d.From, 0, r.Zone); err != nil {
		return err
	}
	if r.To, err = startOf("--to", d.To, 1, r.Zone); err != nil {
		return err
	}
	if !r.From.IsZero() && !r.To.IsZero() && !r.From.Before(r.To) {
		return app.Usagef("--from %s is after --to %s", d.From, d.To)
	}
	return a.WithStore(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		done, err := st.Report(ctx, r)
		if err != nil {
			return err
		}
		d.Groups, d.More, d.Total = append([]store.ReportGroup{}, done.Groups...), done.More, done.Total
		if c.Bool("json") {
			return a.PrintJSON(d)
		}
		a.printReport(d, l)
		return nil
	})
}

// timeZone returns a time zone and its name; "": that of this machine.
func (a program) timeZone(name string) (*time.Location, string, error) {
	zone := time.Local
	if name != "" {
		var err error
		if zone, err = time.LoadLocation(name); err != nil || name == "Local" {
			return nil, "", app.Usagef("--time-zone %q is not known here; names are such as UTC or Asia/Shanghai, and all but UTC need the package tzdata", name)
		}
		return zone, name, nil
	}
	local, _ := a.Env("TZ")
	name = strings.TrimPrefix(local, ":")
	if target, err := os.Readlink("/etc/localtime"); name == "" && err == nil {
		_, name, _ = strings.Cut(target, "zoneinfo/")
	}
	// A name that this program does not know is not the one in use.
	if known, err := time.LoadLocation(name); name == "" || err != nil || !sameOffset(known, zone) {
		name = "UTC" + time.Now().Format("-07:00")
	}
	return zone, name, nil
}

func sameOffset(a, b *time.Location) bool {
	now := time.Now()
	_, offsetA := now.In(a).Zone()
	_, offsetB := now.In(b).Zone()
	return offsetA == offsetB
}

// startOf returns the first moment of the day that is so many days after the given one; zero if none is given.
func startOf(flag, text string, days int, zone *time.Location) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	day, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return time.Time{}, app.Usagef("%s takes a day such as 2026-01-31, not %q", flag, text)
	}
	return store.StartOfDay(day.Year(), day.Month(), day.Day()+days, zone), nil
}

func (a program) printReport(d reportDocument, l lang.Lang) {
	table := [][]string{{reportKeys[d.By].In(l)}}
	for _, title := range reportColumns {
		table[0] = append(table[0], title.In(l))
	}
	row := func(key string, s store.ReportSums) {
		costs := make([]string, len(s.Costs))
		for i, c := range s.Costs {
			costs[i] = c.String()
		}
		table = append(table, []string{nameOr(key, textUnknownName.In(l)), fmt.Sprint(s.Pictures), fmt.Sprint(s.Lost), fmt.Sprint(s.Seconds), fmt.Sprint(s.Charged),
			fmt.Sprint(s.Refunded), fmt.Sprint(s.Income), fmt.Sprint(s.Refunds), fmt.Sprint(s.Unknown), strings.Join(costs, textComma.In(l))})
	}
	for _, g := range d.Groups {
		row(g.Key, g.ReportSums)
	}
	row(textReportTotal.In(l), d.Total)
	widths := make([]int, len(table[0]))
	for _, cells := range table {
		for i, cell := range cells {
			widths[i] = max(widths[i], lang.Width(cell))
		}
	}
	last := len(widths) - 1
	for _, cells := range table {
		line := lang.Pad(cells[0], widths[0])
		for i := 1; i < last; i++ {
			line += "  " + strings.Repeat(" ", widths[i]-lang.Width(cells[i])) + cells[i]
		}
		a.Printf("%s\n", strings.TrimRight(line+"  "+cells[last], " "))
	}
	if d.More > 0 {
		a.Printf("\n%s\n", textReportMore.In(l, d.More))
	}
	a.Printf("\n%s\n%s\n", textReportZone.In(l, d.TimeZone), textReportUnknown.In(l))
}

// nameOr returns name, or other if it is empty.
func nameOr(name, other string) string {
	if name == "" {
		return other
	}
	return name
}
