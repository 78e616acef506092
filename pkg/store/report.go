package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lib/pq"
)

// Cost is a sum of prices in one currency.
type Cost struct {
	Currency string `json:"currency"`
	Amount   string `json:"amount"` // with 6 decimals
}

// String returns the amount with its currency.
func (c Cost) String() string { return c.Amount + " " + c.Currency }

// TaskResult is what the API made for one run of a task.
type TaskResult struct {
	Run      int             `json:"run"`
	Outcome  string          `json:"outcome"` // completed, or paid: there is no picture, or not yet
	At       time.Time       `json:"at"`
	Endpoint string          `json:"endpoint,omitempty"`
	Model    string          `json:"model,omitempty"` // as it was sent
	Seconds  float64         `json:"seconds"`
	Usage    json.RawMessage `json:"usage"`          // what the API says it used; null: nothing
	Cost     *Cost           `json:"cost,omitempty"` // nil: no price is set
}

func (s *Store) taskResults(ctx context.Context, id string) ([]TaskResult, error) {
	out := []TaskResult{}
	err := s.query(ctx, s.sql.taskResults, func(rows *sql.Rows) error {
		var r TaskResult
		var ms, cost int64
		var currency string
		err := rows.Scan(&r.Run, &r.Outcome, &r.At, &r.Endpoint, &r.Model, &ms, &r.Usage, &cost, &currency)
		r.Seconds = float64(ms) / 1000
		if currency != "" {
			r.Cost = &Cost{currency, decimal(big.NewInt(cost))}
		}
		out = append(out, r)
		return err
	}, id)
	return out, err
}

// EndpointResults are results that an endpoint made.
type EndpointResults struct {
	Endpoint string        `json:"endpoint"` // empty: it is not known
	Pictures int           `json:"pictures"`
	Lost     int           `json:"paid_without_picture"`
	Median   time.Duration `json:"-"` // of their requests
	P95      time.Duration `json:"-"`
	Costs    []Cost        `json:"costs"`
}

// maxEndpointResults bounds the endpoints of ResultsWithin.
const maxEndpointResults = 20

// ResultsWithin returns what endpoints made within the last window, for at most 20 of them, those that made the most first.
func (s *Store) ResultsWithin(ctx context.Context, window time.Duration) ([]EndpointResults, error) {
	out := []EndpointResults{}
	err := s.query(ctx, s.sql.resultsWithin, func(rows *sql.Rows) error {
		var e EndpointResults
		var median, p95 int64
		var costs []byte
		if err := rows.Scan(&e.Endpoint, &e.Pictures, &e.Lost, &median, &p95, &costs); err != nil {
			return err
		}
		e.Median, e.P95 = time.Duration(median)*time.Millisecond, time.Duration(p95)*time.Millisecond
		var err error
		e.Costs, err = costsOf(costs)
		out = append(out, e)
		return err
	}, window.Milliseconds(), maxEndpointResults)
	return out, err
}

// GroupBy is what a report sums by.
type GroupBy string

// The groups of reports.
const (
	ByDay      GroupBy = "day"
	ByModel    GroupBy = "model"
	ByEndpoint GroupBy = "endpoint"
	ByUser     GroupBy = "user"
)

// ReportRequest says what a report is about.
type ReportRequest struct {
	By       GroupBy
	From, To time.Time      // the first moment, and the first one after it; zero: no limit
	Zone     *time.Location // of the days
	Limit    int            // of groups: the last days, or those with the most pictures
}

// ReportSums are the figures of a report.
type ReportSums struct {
	Pictures int64  `json:"pictures"`
	Lost     int64  `json:"paid_without_picture"` // results that were paid for, of tasks that have no picture, or not yet
	Seconds  int64  `json:"seconds"`              // that the API took for both
	Charged  int64  `json:"credits_charged"`
	Refunded int64  `json:"credits_refunded"`
	Income   int64  `json:"credits_income"` // charged less refunded
	Refunds  int64  `json:"refunds"`
	Unknown  int64  `json:"unknown_outcomes"` // paid requests without a whole answer, of the last run of tasks that were not pruned
	Costs    []Cost `json:"costs"`            // of both kinds of results
}

// ReportGroup is one group of a report.
type ReportGroup struct {
	Key string `json:"key"` // a day as 2006-01-02, a model, endpoint or user; empty: none is known
	ReportSums
}

// Report is what was made, charged and paid. The figures outlive the rows of tasks, apart from unknown outcomes, and from the models and endpoints
// of runs without a result, which are refunded.
type Report struct {
	Groups []ReportGroup
	More   int        // groups that were left out
	Total  ReportSums // of all groups
}

const (
	// reportTimeout bounds a report, which reads whole tables.
	reportTimeout = 10 * time.Minute
	maxReportDays = 40_000
)

// Report sums ledger, results and unknown outcomes. Days are in the order of time, others begin with the group that has the most pictures.
func (s *Store) Report(ctx context.Context, r ReportRequest) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	var days []time.Time
	if r.By == ByDay {
		var err error
		if days, err = s.reportDays(ctx, r); err != nil || len(days) == 0 {
			return Report{}, err
		}
		// The sums of all days are those of all groups, whatever is added meanwhile.
		r.From, r.To = days[0], days[len(days)-1]
	}
	var out Report
	first := true
	err := s.query(ctx, s.sql.report, func(rows *sql.Rows) error {
		var g ReportGroup
		var ms int64
		var costs []byte
		var groups int
		err := rows.Scan(&g.Key, &g.Pictures, &g.Lost, &ms, &g.Charged, &g.Refunded, &g.Refunds, &g.Unknown, &costs, &groups)
		if err != nil {
			return err
		}
		g.Seconds, g.Income = ms/1000, g.Charged-g.Refunded
		if g.Costs, err = costsOf(costs); err != nil {
			return err
		}
		if first {
			first = false
			out.Total, out.More = g.ReportSums, max(0, groups-r.Limit)
			return nil
		}
		if r.By == ByDay {
			day, err := strconv.Atoi(g.Key)
			if err != nil || day < 1 || day > len(days) {
				return fmt.Errorf("day %q is not one of %d", g.Key, len(days))
			}
			g.Key = days[day-1].In(r.Zone).Format(time.DateOnly)
		}
		out.Groups = append(out.Groups, g)
		return nil
	}, string(r.By), nullableTime(r.From), nullableTime(r.To), pq.Array(timestamps(days)), r.Limit)
	if r.By == ByDay {
		slices.Reverse(out.Groups)
	}
	return out, err
}

// reportDays returns the first moments of the days of a report, and that of the day after them; none, if there is nothing to report.
func (s *Store) reportDays(ctx context.Context, r ReportRequest) ([]time.Time, error) {
	var first sql.NullTime
	if err := s.queryRow(ctx, s.sql.reportSince, []any{nullableTime(r.From)}, &first); err != nil || !first.Valid {
		return nil, err
	}
	if !r.From.IsZero() && r.From.Before(first.Time) {
		first.Time = r.From
	}
	last := r.To
	if last.IsZero() {
		last = time.Now().AddDate(0, 0, 1) // the clock of the database may be ahead
	}
	year, month, day := first.Time.In(r.Zone).Date()
	var days []time.Time
	for n := 0; ; n++ {
		start := StartOfDay(year, month, day+n, r.Zone)
		if len(days) == 0 || start.After(days[len(days)-1]) {
			days = append(days, start)
		}
		if !start.Before(last) {
			return days, nil
		}
		if n == maxReportDays {
			return nil, fmt.Errorf("report: there are entries of %s, more than %d days ago; limit it with a first day", first.Time.Format(time.DateOnly), maxReportDays)
		}
	}
}

// StartOfDay returns the first moment of a day, which need not be midnight.
func StartOfDay(year int, month time.Month, day int, zone *time.Location) time.Time {
	t := time.Date(year, month, day, 0, 0, 0, 0, zone)
	// Where a clock is put forward at midnight, time.Date may return 23:00 of the day before.
	if noon := time.Date(year, month, day, 12, 0, 0, 0, zone); t.Day() != noon.Day() {
		t = t.Add(time.Hour)
	}
	return t
}

func nullableTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t
}

// timestamps returns times as the texts of an array parameter.
func timestamps(times []time.Time) []string {
	out := make([]string, len(times))
	for i, t := range times {
		out[i] = t.UTC().Format(time.RFC3339Nano)
	}
	return out
}

// costsOf returns sums in millionths, by currency, in the order of the currencies.
func costsOf(text []byte) ([]Cost, error) {
	var sums map[string]string
	if err := json.Unmarshal(text, &sums); err != nil {
		return nil, fmt.Errorf("costs %q: %w", text, err)
	}
	costs := []Cost{}
	for currency, sum := range sums {
		millionths, ok := new(big.Int).SetString(sum, 10)
		if !ok {
			return nil, fmt.Errorf("costs %q: %q is no number", text, sum)
		}
		costs = append(costs, Cost{currency, decimal(millionths)})
	}
	slices.SortFunc(costs, func(a, b Cost) int { return strings.Compare(a.Currency, b.Currency) })
	return costs, nil
}

// decimal returns millionths as a number with 6 decimals.
func decimal(millionths *big.Int) string {
	return new(big.Rat).SetFrac(millionths, big.NewInt(1_000_000)).FloatString(6)
}
