// Package logging returns the logger of a program: to stderr and to a file that is rotated by size, both redacted.
package logging

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/sirupsen/logrus"
	"gopkg.in/natefinch/lumberjack.v2"

	"imagetasks/pkg/redact"
)

const (
	maxMegabytes = 10
	maxBackups   = 5 // old files kept, compressed
)

// Config is where and how to log.
type Config struct {
	Level  string    // debug, info, warn or error; empty: info
	Format string    // text or json; empty: text
	Stderr io.Writer // nil: the file only
	Color  bool      // on Stderr
	File   string    // empty: no file
	// Fallback gets the entries while the file can't be written, where Stderr is nil, and what is to be said about the file;
	// nil: Stderr.
	Fallback io.Writer
	// MaxMegabytes is the size at which the file is rotated; 0: 10.
	MaxMegabytes int
	Redact       *redact.Redactor
}

// New returns a logger and the closer of its file. A file that can't be written, for example because the disk is full, is
// reported once on Fallback, and used again when that is possible.
func New(conf Config) (*logrus.Logger, io.Closer, error) {
	log := logrus.New()
	instead := &fallback{notices: conf.Fallback, entries: conf.Fallback}
	if conf.Stderr != nil {
		instead.entries = nil // they are there already
		if instead.notices == nil {
			instead.notices = conf.Stderr
		}
	} else {
		conf.Stderr = io.Discard
	}
	log.SetOutput(conf.Redact.Writer(conf.Stderr))
	level := logrus.InfoLevel
	if conf.Level != "" {
		var err error
		if level, err = logrus.ParseLevel(conf.Level); err != nil {
			return nil, nil, fmt.Errorf("log level: %w", err)
		}
	}
	log.SetLevel(level)
	log.SetFormatter(formatter(conf.Format, conf.Color))
	if conf.File == "" {
		return log, io.NopCloser(nil), nil
	}
	err := writable(conf.File)
	if conf.MaxMegabytes <= 0 {
		conf.MaxMegabytes = maxMegabytes
	}
	file := &lumberjack.Logger{Filename: conf.File, MaxSize: conf.MaxMegabytes, MaxBackups: maxBackups, Compress: true}
	hook := &fileHook{path: conf.File, w: conf.Redact.Writer(file), formatter: formatter(conf.Format, false), fallback: instead.redacted(conf.Redact)}
	if err != nil {
		hook.failed(err)
	}
	log.AddHook(hook)
	return log, file, nil
}

func formatter(format string, color bool) logrus.Formatter {
	if format == "json" {
		return known{&logrus.JSONFormatter{}, true}
	}
	return known{&logrus.TextFormatter{FullTimestamp: true, ForceColors: color, DisableColors: !color}, false}
}

func writable(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// 0600: a log contains ids of users.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// fallback is where entries and notices go that the file can't take.
type fallback struct {
	notices io.Writer // nil: nowhere
	entries io.Writer // nil: nowhere
}

func (f *fallback) redacted(r *redact.Redactor) *fallback {
	out := &fallback{}
	if f.notices != nil {
		out.notices = r.Writer(f.notices)
	}
	if f.entries != nil {
		out.entries = r.Writer(f.entries)
	}
	return out
}

// fileHook writes each entry to the file as well. It returns no error: logrus would print one for each entry.
type fileHook struct {
	path      string
	w         io.Writer
	formatter logrus.Formatter
	fallback  *fallback

	mu   sync.Mutex
	lost int  // entries since the file can't be written
	down bool // it can't be written
}

func (h *fileHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h *fileHook) Fire(e *logrus.Entry) error {
	line, err := h.formatter.Format(e)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		h.recover(e)
	}
	if !h.down {
		if _, err = h.w.Write(line); err != nil {
			h.failed(err)
		}
	}
	if h.down {
		h.lost++
		if h.fallback.entries != nil {
			_, _ = h.fallback.entries.Write(line)
		}
	}
	return nil
}

// recover writes to the file that entries are missing, where that is possible again.
func (h *fileHook) recover(e *logrus.Entry) {
	notice := logrus.NewEntry(e.Logger)
	notice.Time, notice.Level = e.Time, logrus.WarnLevel
	notice.Message = fmt.Sprintf("the log file could not be written for some time: %d entries are missing here", h.lost)
	line, err := h.formatter.Format(notice)
	if err == nil {
		_, err = h.w.Write(line)
	}
	if err == nil {
		h.down, h.lost = false, 0
	}
}

// failed says once that the file can't be written.
func (h *fileHook) failed(err error) {
	h.down = true
	if h.fallback.notices == nil {
		return
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	instead := "the log goes to stderr only"
	if h.fallback.entries != nil {
		instead = "the log goes to stderr"
	}
	_, _ = fmt.Fprintf(h.fallback.notices, "warning: the log file %s can't be written: %v; until it can, %s\n", h.path, err, instead)
}
