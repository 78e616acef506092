package dashboard

import (
	"context"
	"time"

	"imagetasks/pkg/store"
)

const (
	shownDays = 14
	// daysTime is how long one read of the days goes on; the next one continues.
	daysTime = 5 * time.Second
	// daySettle is how long after its end a day is read for the last time: transactions that were in progress then have committed.
	daySettle = 15 * time.Minute
)

// readDays returns the last days, the latest first, with the time now in their time zone. Days that were read after they had ended are taken from known;
// those that can't be read are missing.
func readDays(ctx context.Context, st Store, known []Day, now time.Time) []Day {
	year, month, date := now.Date()
	end := store.StartOfDay(year, month, date+1, now.Location())
	days := []Day{}
	began := time.Now()
	for n := range shownDays {
		start := store.StartOfDay(year, month, date-n, now.Location())
		name := start.Format(time.DateOnly)
		old, found := dayNamed(known, name)
		switch {
		case found && (old.final || time.Since(began) > daysTime):
			days = append(days, old)
		case time.Since(began) <= daysTime:
			day, err := readDay(ctx, st, start, end, now)
			if err != nil && !found {
				return days
			}
			if err != nil {
				day = old
			}
			day.Day, day.final = name, err == nil && now.Sub(end) > daySettle
			days = append(days, day)
		}
		end = start
	}
	return days
}

func dayNamed(days []Day, name string) (Day, bool) {
	for _, d := range days {
		if d.Day == name {
			return d, true
		}
	}
	return Day{}, false
}

// readDay reads one day. Where all its minutes are recorded, they say how many tasks were closed; tasks may have been deleted since.
func readDay(ctx context.Context, st Store, start, end, now time.Time) (Day, error) {
	booked, err := st.BookedBetween(ctx, start, end)
	if err != nil {
		return Day{}, err
	}
	day := Day{Charged: booked.Charged, Refunded: booked.Refunded, Costs: booked.Costs}
	recorded, err := st.ClosedFiguresBetween(ctx, start, end)
	if err != nil {
		return Day{}, err
	}
	from := start
	if recorded.Complete() && recorded.Minutes > 0 {
		day.Completed, day.Failed, from = recorded.Completed, recorded.Failed, recorded.To
	}
	if !from.Before(end) {
		return day, nil
	}
	completed, failed, _, err := st.ClosedBetween(ctx, from, end)
	day.Completed, day.Failed = day.Completed+completed, day.Failed+failed
	return day, err
}
