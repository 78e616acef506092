package render

import (
	"fmt"
	"io"
	"strings"
	"time"

	"imagetasks/pkg/lang"
	"imagetasks/pkg/store"
)

// Task writes the whole life of a task to w. The prompt is written if t has it.
func Task(w io.Writer, t store.TaskDetails, files []string, l lang.Lang) {
	line := func(title lang.Text, format string, args ...any) {
		fmt.Fprintf(w, "%s %s\n", lang.Pad(title.In(l), titleWidth), lang.Printable(fmt.Sprintf(format, args...)))
	}
	line(titleTask, "%s", t.ID)
	line(titleUser, "%s", t.UserID)
	state := string(t.State)
	if t.WaitsFor != "" {
		state += ", " + textWaitsFor.In(l, t.WaitsFor)
	}
	line(titleState, "%s", state)
	if text, ok := bridgeStates[t.BridgeState]; ok {
		line(titleBridge, "%s", text.In(l))
	}
	if t.SetAside != "" {
		line(titleNone, "%s", textSetAside.In(l, t.SetAside))
	}
	if !t.PendingSince.IsZero() {
		line(titleNone, "%s", textPending.In(l, DateTime(t.PendingSince), t.Gone))
	}
	line(titleRun, "%d", t.Run)
	line(titleEnqueued, "%s", DateTime(t.CreatedAt))
	if t.QueuePosition > 0 {
		line(titlePosition, "%d", t.QueuePosition)
	}
	if t.ExpectedWaitSeconds > 0 {
		line(titleWait, "%s", time.Duration(t.ExpectedWaitSeconds*float64(time.Second)).Round(time.Second))
	}
	line(titleCredits, "%s", textCreditsOfTask.In(l, t.Cost, t.Deducted, t.Refunded))
	if t.MissingCharge {
		line(titleNone, "%s", MissingCharge(t.ID).In(l))
	}
	if t.Model != "" {
		line(titleModel, "%s", t.Model)
	}
	if t.Endpoint != "" {
		line(titleEndpoint, "%s", t.Endpoint)
	}
	if options := strings.TrimSpace(string(t.Options)); options != "" && options != "{}" {
		line(titleOptions, "%s", options)
	}
	if t.Prompt != "" {
		line(titlePrompt, "%s", t.Prompt)
	}
	if t.Forgotten {
		line(titleNone, "%s", textForgotten.In(l))
	}
	if t.InputCount > 0 {
		line(titleInputs, "%s", textInputs.In(l, t.InputCount, len(t.Inputs)))
	}
	if t.LeasedBy != "" {
		line(titleProcessor, "%s", t.LeasedBy)
	}
	if t.RequestsSent > 0 {
		line(titleRequests, "%s", textRequests.In(l, t.RequestsSent, t.Unknown))
	}
	if t.LostClaims > 0 {
		line(titleNone, "%s", textLostClaims.In(l, t.LostClaims))
	}
	for i, o := range t.Outcomes {
		line(titleOf(titleAttempts, i), "%s", outcome(o))
	}
	for i, r := range t.Results {
		line(titleOf(titleResults, i), "%s", result(r))
	}
	if t.Error != "" {
		line(titleError, "%s: %s", t.ErrorCode, t.Error)
	}
	for i, e := range t.Ledger {
		line(titleOf(titleLedger, i), "%s  %-6s %+d  = %d  %s", DateTime(e.CreatedAt), e.Kind, e.Amount, e.BalanceAfter, e.Reason)
	}
	if t.ImageURL != "" {
		line(titlePicture, "%s", t.ImageURL)
	}
	for i, name := range files {
		line(titleOf(titleFiles, i), "%s", name)
	}
}

// MissingCharge says that a task was not refunded, because it says it was charged and the ledger has no charge, and how to settle it.
func MissingCharge(taskID string) lang.Message { return lang.NewMessage(textMissingCharge, taskID) }

var textMissingCharge = lang.Text{
	EN: "nothing can be refunded: the task says it was charged, and the ledger has no charge; to settle it run: fix-stuck-tasks audit --resolve %s --credits N --reason TEXT",
	ZH: "无法退款：任务标记为已扣费，但账本中没有扣费记录；如需处理请运行：fix-stuck-tasks audit --resolve %s --credits N --reason TEXT"}

// outcome returns the outcome of one claim as text; its words are those of the database.
func outcome(o store.Outcome) string {
	parts := []string{DateTime(o.At), fmt.Sprintf("%d/%d", o.Run, o.Attempt), o.Outcome, fmt.Sprintf("%.1fs", o.Seconds)}
	for _, part := range []string{o.Code, o.Message, o.RequestID, o.Endpoint, o.Note} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "  ")
}

// result returns what the API made for one run as text; its words are those of the database.
func result(r store.TaskResult) string {
	parts := []string{DateTime(r.At), fmt.Sprint(r.Run), r.Outcome, fmt.Sprintf("%.1fs", r.Seconds)}
	for _, part := range []string{r.Endpoint, r.Model} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if r.Cost != nil {
		parts = append(parts, r.Cost.String())
	}
	if usage := string(r.Usage); usage != "" && usage != "null" {
		parts = append(parts, usage)
	}
	return strings.Join(parts, "  ")
}

// titleOf returns the title for the first line of several, and none for the others.
func titleOf(title lang.Text, i int) lang.Text {
	if i > 0 {
		return titleNone
	}
	return title
}

// bridgeStates describe how far a task and its row in the application's table are.
var bridgeStates = map[string]lang.Text{
	"live":       {EN: "live: it follows its row in the application's table", ZH: "进行中：与应用表中的数据行保持同步"},
	"owed":       {EN: "owed: its end is still to be written to the application's table", ZH: "待写入：任务结果尚未写入应用的表"},
	"applied":    {EN: "applied: its end is written to the application's table", ZH: "已写入：任务结果已写入应用的表"},
	"superseded": {EN: "superseded: the application had closed or deleted its row, which stays as it is", ZH: "已被取代：应用已结束或删除该数据行，系统不再修改"},
}

const titleWidth = 10

var (
	titleNone      = lang.Text{}
	titleTask      = lang.Text{EN: "task", ZH: "任务"}
	titleUser      = lang.Text{EN: "user", ZH: "用户"}
	titleState     = lang.Text{EN: "state", ZH: "状态"}
	titleBridge    = lang.Text{EN: "bridge", ZH: "桥接"}
	titleRun       = lang.Text{EN: "run", ZH: "执行次数"}
	titleEnqueued  = lang.Text{EN: "enqueued", ZH: "入队时间"}
	titlePosition  = lang.Text{EN: "position", ZH: "排队位置"}
	titleWait      = lang.Text{EN: "wait", ZH: "预计等待"}
	titleCredits   = lang.Text{EN: "credits", ZH: "积分"}
	titleModel     = lang.Text{EN: "model", ZH: "模型"}
	titleEndpoint  = lang.Text{EN: "endpoint", ZH: "端点"}
	titleOptions   = lang.Text{EN: "options", ZH: "选项"}
	titlePrompt    = lang.Text{EN: "prompt", ZH: "提示词"}
	titleInputs    = lang.Text{EN: "inputs", ZH: "输入图片"}
	titleProcessor = lang.Text{EN: "processor", ZH: "处理器"}
	textSetAside   = lang.Text{EN: "set aside, because the database refuses to change it (%s)", ZH: "已搁置：数据库拒绝修改该任务（%s）"}
	textPending    = lang.Text{EN: "the picture was made at %s and still has to be fetched (times that its host reported it missing: %d)", ZH: "图片已于 %s 生成，尚待下载（图片主机返回不存在的次数：%d）"}
	titleRequests  = lang.Text{EN: "requests", ZH: "请求"}
	textRequests   = lang.Text{EN: "%d paid requests in this run, %d of them of unknown outcome", One: "%d paid request in this run, %d of unknown outcome", ZH: "本次执行已发送 %d 个付费请求，其中 %d 个结果未知"}
	textLostClaims = lang.Text{EN: "the processor ended %d times in a row while it had the task", One: "the processor ended %d time while it had the task", ZH: "处理该任务期间，处理器连续 %d 次异常退出"}
	titleAttempts  = lang.Text{EN: "attempts", ZH: "尝试"}
	titleResults   = lang.Text{EN: "results", ZH: "结果"}
	titleError     = lang.Text{EN: "error", ZH: "错误"}
	titleLedger    = lang.Text{EN: "ledger", ZH: "账本"}
	titlePicture   = lang.Text{EN: "picture", ZH: "图片"}
	titleFiles     = lang.Text{EN: "files", ZH: "文件"}

	textWaitsFor      = lang.Text{EN: "waits for its %s", ZH: "等待：%s"}
	textCreditsOfTask = lang.Text{EN: "cost %d; this run: charged %d, refunded %d", ZH: "价格 %d；本次执行：已扣 %d，已退 %d"}
	textForgotten     = lang.Text{EN: "prompt and input pictures were deleted (users forget)", ZH: "提示词和输入图片已删除（users forget）"}
	textInputs        = lang.Text{EN: "%d pictures, %d of them still stored", One: "%d picture, %d of them still stored", ZH: "%d 张图片，其中 %d 张仍保存"}
)
