package demo

import "imagetasks/pkg/lang"

// The texts of the demo.
var (
	textStarting  = lang.Text{EN: "Starting a private PostgreSQL …", ZH: "正在启动私有的 PostgreSQL …"}
	textReal      = lang.Text{EN: "OPENAI_API_KEY is set: this demo uses the real API, %s, and its pictures are billed.", ZH: "已设置 OPENAI_API_KEY：演示将使用真实的 API（%s），生成图片会产生费用。"}
	textSimulated = lang.Text{EN: "Simulated image API behind a simulated proxy that requires a password.", ZH: "使用模拟的图像 API，通过需要密码的模拟代理访问。"}
	textGranted   = lang.Text{EN: "%d credits granted, %d tasks charged and enqueued; one of them was claimed by a processor that was killed.", ZH: "已发放 %d 个积分，%d 个任务已扣费并入队；其中 1 个已被一个异常终止的处理器领取。"}
	textEmpty     = lang.Text{}
	textState     = lang.Text{EN: "  %-12s %3d"}
	textCredits   = lang.Text{EN: "  credits      %3d before, %d after: %d charged, %d refunded", ZH: "  积分         运行前 %d，运行后 %d：扣除 %d，退还 %d"}
	textRequests  = lang.Text{EN: "%d requests reached the API, %d of them without the proxy", ZH: "%d 个请求到达 API，其中 %d 个未经过代理"}
	textPictures  = lang.Text{EN: "pictures       %s (%d)", ZH: "图片     %s（%d 张）"}
	textSheet     = lang.Text{EN: "contact sheet  %s", ZH: "总览图   %s"}
	textLog       = lang.Text{EN: "log            less %s", ZH: "日志     less %s"}
	textTook      = lang.Text{EN: "duration       %s", ZH: "用时     %s"}
)
