package usage

import (
	"slices"

	"imagetasks/pkg/settings"
)

// matters is which settings matter to a command.
type matters struct {
	shown func(settings.Setting) bool // described in its help
	named func(settings.Setting) bool // named there
}

// mattersTo returns the settings that matter to the command of that full name. Those that are not here connect to the database and do nothing else.
func mattersTo(command string) matters {
	database := group(settings.GroupDatabase)
	api := either(group(settings.GroupAPI), group(settings.GroupProxy))
	logs := names("LOG_DIR", "LOG_LEVEL", "LOG_FORMAT")
	pictures := names("IMAGE_STORE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "IMAGE_STORE_PROXY")
	all := func(settings.Setting) bool { return true }
	switch command {
	case "task-processor run", "task-processor start", "task-processor restart":
		return matters{func(s settings.Setting) bool { return s.Flag != "" }, all}
	case "task-processor":
		return matters{either(database, logs), nil}
	case "task-processor stop":
		return matters{names("LOG_DIR", "TASK_TIMEOUT", "SHUTDOWN_GRACE"), nil}
	case "task-processor reload":
		return matters{either(database, names("LOG_DIR")), nil}
	case "task-processor status", "task-processor top":
		return matters{either(database, names("LOG_DIR", "STATUS_ADDR", "STUCK_AFTER", "HUNG_AFTER")), api}
	case "task-processor enqueue":
		return matters{either(database, names("OPENAI_MODEL")), nil}
	case "task-processor adopt":
		return matters{either(database, names("IMAGE_BASE_URL")), nil}
	case "task-processor tasks show", "task-processor pictures orphans", "task-processor pictures move", "task-processor users forget":
		return matters{either(database, pictures), nil}
	case "task-processor webhooks test":
		return matters{group(settings.GroupCompletion), nil}
	case "task-processor demo":
		return matters{names("OPENAI_API_KEY", "LOG_LEVEL", "LOG_FORMAT"), api}
	case "monitor-tasks":
		return matters{either(database, logs, names("STUCK_AFTER", "PENDING_TIMEOUT", "HUNG_AFTER", "RETENTION", "REDRIVE_WINDOW", "TASK_LEASE")), all}
	case "fix-stuck-tasks":
		return matters{either(database, logs, names("STUCK_AFTER", "TASK_LEASE")), nil}
	case "simple-test":
		return matters{either(database, logs, api), nil}
	}
	return matters{database, nil}
}

func names(all ...string) func(settings.Setting) bool {
	return func(s settings.Setting) bool { return slices.Contains(all, s.Env) }
}

func group(g settings.Group) func(settings.Setting) bool {
	return func(s settings.Setting) bool { return s.Group == g }
}

func either(any ...func(settings.Setting) bool) func(settings.Setting) bool {
	return func(s settings.Setting) bool {
		return slices.ContainsFunc(any, func(one func(settings.Setting) bool) bool { return one(s) })
	}
}
