package taskprocessor

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/app/daemon"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
	"imagetasks/pkg/supervise"
)

// pidLock is the lock on the pid file of a processor that runs here; nil inside: it runs beside another one.
type pidLock struct {
	settings   settings.Settings
	background bool
	log        logrus.FieldLogger
	lock       *supervise.PIDLock
}

// acquire locks the pid file. In the foreground a processor may run beside another one.
func (p *pidLock) acquire() error {
	lock, err := supervise.Dir(p.settings.LogDir).Lock(p.report)
	if errors.Is(err, supervise.ErrRunning) && !p.background {
		p.log.Info(besideAnother)
		return nil
	}
	p.lock = lock
	return err
}

const besideAnother = "another processor holds the pid file; this one runs without supervision by the monitor"

// yield gives the lock back if another processor of this host and directory runs without it, because its pid file was deleted
// a moment ago.
func (p *pidLock) yield(ctx context.Context, lookup daemon.Lookup) error {
	if p.lock == nil {
		return nil
	}
	other, found := lookup.Find(ctx)
	if !found {
		return nil
	}
	err := p.release()
	if p.background {
		return errors.Join(supervise.ErrRunning, err)
	}
	p.log.WithField("pid", other.PID).Info(besideAnother)
	return err
}

// dir is the directory whose pid file it holds; empty: none.
func (p *pidLock) dir() string {
	if p.lock == nil {
		return ""
	}
	return p.settings.LogDir
}

func (p *pidLock) release() error {
	if p.lock == nil {
		return nil
	}
	err := p.lock.Release()
	p.lock = nil
	return err
}

// report logs that the pid file could not be kept, and that it is in order again.
func (p *pidLock) report(err error) {
	log := p.log.WithField("file", filepath.Clean(supervise.Dir(p.settings.LogDir).PidFile()))
	if err == nil {
		log.Info("the pid file is in order again")
		return
	}
	log.WithError(err).Warn("the pid file is not in order; until it is, this processor is found by its status address and its heartbeat")
}

// newLookup returns the lookup of other processors of this host and directory.
func (a program) newLookup(s settings.Settings, st *store.Store) daemon.Lookup {
	return daemon.Lookup{App: a.App, Settings: s, Store: st}
}
