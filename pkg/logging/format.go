package logging

import (
	"time"

	"github.com/sirupsen/logrus"
)

// known formats entries without the fields that are empty texts or nil. With seconds, durations become numbers of seconds: a format for programs
// must not depend on how Go stores them.
type known struct {
	logrus.Formatter
	seconds bool
}

// Format implements logrus.Formatter.
func (k known) Format(e *logrus.Entry) ([]byte, error) {
	if !k.changes(e.Data) {
		return k.Formatter.Format(e)
	}
	data := make(logrus.Fields, len(e.Data))
	for name, value := range e.Data {
		d, isDuration := value.(time.Duration)
		switch {
		case isEmpty(value):
		case isDuration && k.seconds:
			data[name] = d.Seconds()
		default:
			data[name] = value
		}
	}
	changed := *e
	changed.Data = data
	return k.Formatter.Format(&changed)
}

func (k known) changes(data logrus.Fields) bool {
	for _, value := range data {
		if _, isDuration := value.(time.Duration); isEmpty(value) || isDuration && k.seconds {
			return true
		}
	}
	return false
}

func isEmpty(value any) bool { return value == nil || value == "" }
