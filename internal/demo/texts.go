package demo

import "imagetasks/pkg/lang"

// What the demo says.
var (
	textStarting  = lang.Text{EN: "Starting a private PostgreSQL …", ZH: "正在启动私有的 PostgreSQL …"}
	textReal      = lang.Text{EN: "OPENAI_API_KEY is set: this demo uses the real API, %s, and its pictures cost money.", ZH: "已设置 OPENAI_API_KEY：演示将使用真实的 API（%s），生成图片会产生费用。"}
	textSimulated = lang.Text{EN: "Simulated image API behind a simulated proxy that wants a password.", ZH: "模拟的图像 API，位于一个要求密码的模拟代理之后。"}
	textGranted   = lang.Text{EN: "%d credits granted, %d tasks charged and enqueued; one of them was taken by a worker that died.", ZH: "发放 %d 个积分，%d 个任务已扣费入队；其中一个由已死的工作进程领走。"}
	textNothing   = lang.Text{}
	textState     = lang.Text{EN: "  %-12s %3d"}
	textCredits   = lang.Text{EN: "  credits      %3d before, %d after: %d charged, %d refunded", ZH: "  积分         之前 %d，之后 %d：扣除 %d，退还 %d"}
	textRequests  = lang.Text{EN: "%d requests reached the API, %d of them past the proxy", ZH: "%d 个请求到达 API，其中 %d 个绕过了代理"}
	textPictures  = lang.Text{EN: "pictures       %s (%d)", ZH: "图片     %s（%d 张）"}
	textSheet     = lang.Text{EN: "contact sheet  %s", ZH: "总览图   %s"}
	textLog       = lang.Text{EN: "the log        less %s", ZH: "日志     less %s"}
	textTook      = lang.Text{EN: "it took        %s", ZH: "用时     %s"}
)
