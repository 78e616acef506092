package supervise

import "imagetasks/pkg/lang"

// Effect is what follows from a file that could not be written.
type Effect string

// The effects.
const (
	MayBeStarted       Effect = "may_be_started"       // no stop marker: the monitor may start the processor again
	NotRevived         Effect = "not_revived"          // no start marker: the monitor does not restart the processor
	RestartsNotCounted Effect = "restarts_not_counted" // the monitor restarts the processor however often it ends
	OutputLost         Effect = "output_lost"          // what the processor prints besides its log, such as a panic
	NotExclusive       Effect = "not_exclusive"        // two programs may start or stop the processor at the same time
)

// Warning is something that a call left out because a file could not be written. The call did everything else.
type Warning struct {
	Effect Effect
	Err    error
}

// Error returns the text in English.
func (w Warning) Error() string { return w.Text(lang.EN) }

// Text says what follows from it, and why it could not be done.
func (w Warning) Text(l lang.Lang) string { return effectTexts[w.Effect].In(l, w.Err.Error()) }

// AboutMarker reports whether the monitor does not know what an operator did.
func (w Warning) AboutMarker() bool { return w.Effect == MayBeStarted || w.Effect == NotRevived }

var effectTexts = map[Effect]lang.Text{
	MayBeStarted: {EN: "the stop could not be recorded, so the monitor, or the start at boot, may start the processor again: %s",
		ZH: "无法记录本次停止，监控或开机启动项可能会再次启动处理器：%s"},
	NotRevived: {EN: "the start could not be recorded, so the monitor will not restart the processor if it ends: %s",
		ZH: "无法记录本次启动，处理器退出后监控不会重启它：%s"},
	RestartsNotCounted: {EN: "the restart could not be recorded, so the limit of restarts within an hour does not hold: %s",
		ZH: "无法记录本次重启，每小时的重启次数限制不生效：%s"},
	OutputLost: {EN: "task-processor.out can't be written, so the output of the processor besides its log is lost: %s",
		ZH: "无法写入 task-processor.out，处理器日志之外的输出将丢失：%s"},
	NotExclusive: {EN: "task-processor.control can't be locked, so another program may start or stop the processor at the same time: %s",
		ZH: "无法锁定 task-processor.control，其他程序可能同时启动或停止处理器：%s"},
}
