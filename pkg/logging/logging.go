// Package logging returns the logger of a program: to stderr and to a file that is rotated by size, both redacted.
package logging

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

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
	// MaxMegabytes is the size at which the file is rotated; 0: 10.
	MaxMegabytes int
	Redact       *redact.Redactor
}

// New returns a logger and the closer of its file. It returns an error where the file can't be written.
func New(conf Config) (*logrus.Logger, io.Closer, error) {
	log := logrus.New()
	if conf.Stderr == nil {
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
	if err := writable(conf.File); err != nil {
		return nil, nil, fmt.Errorf("log file: %w", err)
	}
	if conf.MaxMegabytes <= 0 {
		conf.MaxMegabytes = maxMegabytes
	}
	file := &lumberjack.Logger{Filename: conf.File, MaxSize: conf.MaxMegabytes, MaxBackups: maxBackups, Compress: true}
	log.AddHook(&fileHook{w: conf.Redact.Writer(file), formatter: formatter(conf.Format, false)})
	return log, file, nil
}

func formatter(format string, color bool) logrus.Formatter {
	if format == "json" {
		return &logrus.JSONFormatter{}
	}
	return &logrus.TextFormatter{FullTimestamp: true, ForceColors: color, DisableColors: !color}
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

// fileHook writes each entry to the file as well.
type fileHook struct {
	w         io.Writer
	formatter logrus.Formatter
}

func (h *fileHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h *fileHook) Fire(e *logrus.Entry) error {
	line, err := h.formatter.Format(e)
	if err != nil {
		return err
	}
	_, err = h.w.Write(line)
	return err
}
