package settings

import "time"

func databaseSettings() []Setting {
	return []Setting{
		{Env: "DATABASE_URL", Flag: "database-url", Secret: true, Login: true,
			Usage:   "PostgreSQL: postgres://user:password@host:5432/database",
			UsageZH: "PostgreSQL 连接地址：postgres://user:password@host:5432/database",
			set:     text(func(s *Settings) *string { return &s.DatabaseURL })},
		{Env: "TASKS_TABLE", Default: "image_tasks",
			Usage:   "name of the tasks table, with or without its schema",
			UsageZH: "任务表的名称，可带 schema",
			set:     table(func(s *Settings) *string { return &s.TasksTable })},
		{Env: "CREDITS_TABLE", Default: "user_credits",
			Usage:   "name of the credits table",
			UsageZH: "积分表的名称",
			set:     table(func(s *Settings) *string { return &s.CreditsTable })},
	}
}

func apiSettings() []Setting {
	return []Setting{
		{Env: "OPENAI_API_KEY", Secret: true,
			Usage:   "key of the image API",
			UsageZH: "图像 API 的密钥",
			set:     text(func(s *Settings) *string { return &s.APIKey })},
		{Env: "OPENAI_BASE_URL", Default: "https://api.openai.com/v1",
			Usage:   "base URL of the image API, including /v1",
			UsageZH: "图像 API 的根地址，包含 /v1",
			set:     baseURL},
		{Env: "OPENAI_MODEL", Default: "gpt-image-2",
			Usage:   "model for tasks that name none",
			UsageZH: "任务未指定模型时使用的模型",
			set:     text(func(s *Settings) *string { return &s.Model })},
		{Env: "OPENAI_API_MODE", Default: "images",
			Usage:   "endpoint that makes pictures: images",
			UsageZH: "生成图片的接口：images",
			set:     apiMode},
		{Env: "API_RATE", Flag: "api-rate", Worker: true, Default: "off",
			Usage:   "requests for pictures per minute that this processor sends at most; off: no limit",
			UsageZH: "该处理器每分钟最多发送的图片请求数；off：不限制",
			set:     orOff(count(func(s *Settings) *int { return &s.Rate }, 1, 1_000_000))},
	}
}

func proxySettings() []Setting {
	return []Setting{
		{Env: "OPENAI_PROXY", Secret: true, Login: true,
			Usage:   "proxy for requests to the API, or several separated by commas, in order of preference: http, https, socks5 or socks5h URLs; takes precedence over the settings below and over NO_PROXY",
			UsageZH: "访问 API 使用的代理，可用逗号分隔多个，按优先顺序排列：http、https、socks5 或 socks5h 地址；优先于下面各项以及 NO_PROXY",
			set:     proxies},
		{Env: "HTTPS_PROXY", Secret: true, Login: true,
			Usage:   "proxy for https URLs (or https_proxy)",
			UsageZH: "https 地址使用的代理（也可写作 https_proxy）",
			set:     text(func(s *Settings) *string { return &s.Proxy.HTTPS })},
		{Env: "HTTP_PROXY", Secret: true, Login: true,
			Usage:   "proxy for http URLs (or http_proxy)",
			UsageZH: "http 地址使用的代理（也可写作 http_proxy）",
			set:     text(func(s *Settings) *string { return &s.Proxy.HTTP })},
		{Env: "ALL_PROXY", Secret: true, Login: true,
			Usage:   "proxy where neither of the two above is set (or all_proxy)",
			UsageZH: "以上两项均未设置时使用的代理（也可写作 all_proxy）",
			set:     text(func(s *Settings) *string { return &s.Proxy.All })},
		{Env: "NO_PROXY",
			Usage:   "hosts, domain suffixes, host:port and CIDR ranges that are connected to without a proxy (or no_proxy)",
			UsageZH: "不经代理直接连接的主机、域名后缀、host:port 和 CIDR 网段（也可写作 no_proxy）",
			set:     text(func(s *Settings) *string { return &s.Proxy.No })},
		{Env: "DIAL_TIMEOUT", Default: "10s",
			Usage:   "how long a TCP connection to the proxy or the API may take",
			UsageZH: "与代理或 API 建立 TCP 连接的超时时间",
			set:     positive(func(s *Settings) *time.Duration { return &s.DialTimeout })},
		{Env: "PROXY_CONNECT_TIMEOUT", Default: "15s",
			Usage:   "how long the proxy may take to respond to CONNECT or SOCKS",
			UsageZH: "代理响应 CONNECT 或 SOCKS 请求的超时时间",
			set:     positive(func(s *Settings) *time.Duration { return &s.ConnectTimeout })},
		{Env: "TLS_TIMEOUT", Default: "15s",
			Usage:   "how long a TLS handshake may take",
			UsageZH: "TLS 握手的超时时间",
			set:     positive(func(s *Settings) *time.Duration { return &s.TLSTimeout })},
		{Env: "FIRST_BYTE_TIMEOUT", Default: "5m",
			Usage:   "how long the API may take until its response begins",
			UsageZH: "等待 API 开始响应的超时时间",
			set:     positive(func(s *Settings) *time.Duration { return &s.FirstByteTimeout })},
	}
}

func pictureSettings() []Setting {
	return []Setting{
		{Env: "IMAGE_STORE", Flag: "image-store", Worker: true, Default: "images",
			Usage:   "directory where pictures are stored",
			UsageZH: "存放图片的目录",
			set:     imageStore},
		{Env: "IMAGE_BASE_URL", Worker: true,
			Usage:   "URL under which that directory is served; empty: image_url is the file name",
			UsageZH: "该目录对外提供访问的 URL；为空时 image_url 为文件名",
			set:     imageBaseURL},
		{Env: "IMAGE_MAX_BYTES", Worker: true, Default: "33554432",
			Usage:   "largest picture that is accepted, in bytes",
			UsageZH: "可接受的最大图片大小（字节）",
			set:     imageMaxBytes},
	}
}

func processorSettings() []Setting {
	return []Setting{
		{Env: "TASK_CONCURRENCY", Flag: "concurrency", Worker: true, Default: "3",
			Usage:   "tasks that are processed at the same time",
			UsageZH: "同时处理的任务数",
			set:     count(func(s *Settings) *int { return &s.Concurrency }, 1, 1000)},
		{Env: "MAX_ATTEMPTS", Flag: "max-attempts", Worker: true, Default: "3",
			Usage:   "attempts before a task fails and is refunded",
			UsageZH: "任务失败并退款之前的尝试次数",
			set:     count(func(s *Settings) *int { return &s.MaxAttempts }, 1, 100)},
		{Env: "POLL_INTERVAL", Flag: "poll-interval", Worker: true, Default: "5s",
			Usage:   "how often the queue is checked, in addition to NOTIFY",
			UsageZH: "除 NOTIFY 之外检查队列的间隔",
			set:     positive(func(s *Settings) *time.Duration { return &s.PollInterval })},
		{Env: "TASK_LEASE", Flag: "lease", Worker: true, Default: "60s",
			Usage:   "how long a task stays reserved for a processor that no longer renews its lease",
			UsageZH: "处理器停止续租后，任务继续为其保留的时间",
			set:     positive(func(s *Settings) *time.Duration { return &s.Lease })},
		{Env: "TASK_TIMEOUT", Flag: "task-timeout", Worker: true, Default: "10m",
			Usage:   "how long one attempt may take",
			UsageZH: "单次尝试的超时时间",
			set:     positive(func(s *Settings) *time.Duration { return &s.TaskTimeout })},
		{Env: "STUCK_AFTER", Default: "20m",
			Usage:   "a task that is processing for longer than this is considered stuck",
			UsageZH: "任务处理时间超过该值即视为卡住",
			set:     positive(func(s *Settings) *time.Duration { return &s.StuckAfter })},
		{Env: "PENDING_TIMEOUT", Default: "off",
			Usage:   "a task that has been due for longer than this and was not started fails and is refunded; off: it waits without limit",
			UsageZH: "任务到期后超过该时间仍未开始处理，则判为失败并退款；off：不限制等待时间",
			set:     orOff(positive(func(s *Settings) *time.Duration { return &s.PendingTimeout }))},
		{Env: "HUNG_AFTER", Default: "2m",
			Usage:   "a processor without a heartbeat for this long is considered hung",
			UsageZH: "超过该时间没有心跳的处理器视为无响应",
			set:     positive(func(s *Settings) *time.Duration { return &s.HungAfter })},
		{Env: "SHUTDOWN_GRACE", Flag: "shutdown-grace", Worker: true, Default: "30s",
			Usage:   "how long tasks in flight may take to finish when the processor stops",
			UsageZH: "处理器停止时，正在处理的任务可用于完成的时间",
			set:     positive(func(s *Settings) *time.Duration { return &s.ShutdownGrace })},
	}
}

func reportingSettings() []Setting {
	return []Setting{
		{Env: "STATUS_ADDR", Flag: "status-addr", Worker: true, Default: "127.0.0.1:9464",
			Usage:   "address of the status page and the metrics; off: none",
			UsageZH: "状态页和监控指标的监听地址；off：不启用",
			set:     statusAddr},
		{Env: "STATUS_HOSTS",
			Usage:   "host names, separated by commas, under which the status address is reached besides loopback and STATUS_ADDR; with a reverse proxy or Prometheus",
			UsageZH: "访问状态页时除回环地址和 STATUS_ADDR 外允许使用的主机名，用逗号分隔；用于反向代理或 Prometheus",
			set:     statusHosts},
		{Env: "LOG_DIR", Flag: "log-dir", Default: ".",
			Usage:   "directory of the log files",
			UsageZH: "日志文件目录",
			set:     logDir},
		{Env: "LOG_LEVEL", Flag: "log-level", Default: "info",
			Usage:   "error, warn, info or debug, or a number from 0 (error) to 3 (debug)",
			UsageZH: "error、warn、info 或 debug，也可用数字 0（error）到 3（debug）",
			set:     logLevel},
		{Env: "LOG_FORMAT", Flag: "log-format", Default: "text",
			Usage:   "text or json",
			UsageZH: "text 或 json",
			set:     oneOf(func(s *Settings) *string { return &s.LogFormat }, "text", "json")},
	}
}
