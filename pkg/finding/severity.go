package finding

// Severity says how urgent a finding is.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // tasks, money or data are at risk, or nothing is processed
	Warning Severity = "warning" // the queue goes on
	Info    Severity = "info"    // something happened
)

// Severity returns how urgent findings of the code are.
func (c Code) Severity() Severity {
	switch c {
	case TasksRepaired, ProcessorRestarted:
		return Info
	case EndpointFailing, EndpointRefusesModels, EndpointsDiffer, ProxyEjected, StoppedWithDueTasks, ClaimingPaused,
		PictureCleaningFailed, BridgeBehind, WebhooksUndelivered, WebhookFailing, NotSupervised, MonitorOverdue,
		MonitorPassIncomplete, LogDirUnwritable, BacklogOld, DiskNearlyFull:
		return Warning
	}
	return Error
}

// IsEvent reports whether findings of the code are about something that happened, and never end.
func (c Code) IsEvent() bool {
	return c == TasksRepaired || c == ProcessorRestarted || c == AuditFault
}
