package alert

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
)

// PassTimeout bounds what a pass of the monitor does for alerts.
const PassTimeout = 15 * time.Second

// Pass records what a pass of the monitor has seen and tells the receivers, all at the same time. What can't be sent within PassTimeout is sent by the next
// pass or by a processor. It returns what went wrong, for the log.
func Pass(ctx context.Context, conf Config, v View, lost error) error {
	ctx, cancel := context.WithTimeout(ctx, PassTimeout)
	defer cancel()
	if lost != nil {
		if conf.LostDatabase == nil {
			return nil
		}
		return conf.tellLost(ctx, time.Now(), lost.Error())
	}
	_, err := bounded(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, Observe(ctx, conf.Store, v) })
	if err != nil && conf.LostDatabase != nil && !store.IsUnavailable(err) {
		return errors.Join(err, conf.tellLost(ctx, time.Now(), unrecorded(err)))
	}
	if err != nil {
		return err
	}
	errs := make([]error, len(conf.Receivers)+1)
	var running sync.WaitGroup
	for i, r := range conf.Receivers {
		// A pass sees everything at once: nothing has to wait for others.
		running.Go(func() { errs[i] = conf.deliver(ctx, r, 0) })
	}
	if conf.LostDatabase != nil {
		running.Go(func() { errs[len(conf.Receivers)] = conf.databaseBack(ctx) })
	}
	running.Wait()
	return errors.Join(errs...)
}

// unrecorded is why the database counts as unavailable though it responds: no problem could be told otherwise.
func unrecorded(err error) string { return "problems can't be recorded in it: " + err.Error() }

// reporter logs a step that fails, when it begins to and when it works again.
type reporter struct {
	log logrus.FieldLogger

	mu      sync.Mutex
	failing map[string]bool
}

func (r *reporter) result(step string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if (err != nil) == r.failing[step] || errors.Is(err, context.Canceled) {
		return
	}
	if r.failing == nil {
		r.failing = map[string]bool{}
	}
	r.failing[step] = err != nil
	switch {
	case err == nil:
		r.log.Infof("%s: works again", step)
	case store.IsUnavailable(err):
		r.log.Warnf("%s: the database is unavailable; it is tried again", step)
	default:
		r.log.Warnf("%s: %v; it is tried again", step, err)
	}
}
