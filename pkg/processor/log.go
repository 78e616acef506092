package processor

import "github.com/sirupsen/logrus"

// logs reports whether log writes lines of a level. Building the fields of a line costs more than the engine's own work on a task.
func logs(log logrus.FieldLogger, level logrus.Level) bool {
	switch l := log.(type) {
	case *logrus.Logger:
		return l.IsLevelEnabled(level)
	case *logrus.Entry:
		return l.Logger.IsLevelEnabled(level)
	}
	return true
}
