package operate

import (
	"context"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"imagetasks/pkg/lang"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Code says why something was not done.
type Code string

// The reasons.
const (
	Invalid     Code = "invalid"     // what was asked for can't be used
	NotFound    Code = "not_found"   // there is no such task or endpoint
	Conflict    Code = "conflict"    // it is not possible in the present state
	Unavailable Code = "unavailable" // the database does not respond: it may have been done
	Internal    Code = "internal"
)

// Error is why something was not done, for people.
type Error struct {
	Code    Code
	Message lang.Message
	Err     error // optional
}

// Error returns the message in English.
func (e *Error) Error() string { return e.Message.String() }

// Unwrap returns the error of the store.
func (e *Error) Unwrap() error { return e.Err }

func refusal(code Code, text lang.Text, args ...any) error {
	return &Error{Code: code, Message: lang.NewMessage(text, args...)}
}

// explain turns an error of the store into one for people. Its own text goes to the log, unless it is about what was asked for.
func (o *Operator) explain(err error) error {
	if err == nil {
		return nil
	}
	out := &Error{Code: Internal, Message: lang.NewMessage(textInternal), Err: err}
	for _, known := range []struct {
		err  error
		code Code
		text lang.Text
	}{
		{task.ErrNotFound, NotFound, textTaskNotFound}, {task.ErrWrongState, Conflict, textWrongState},
		{task.ErrInsufficientCredits, Conflict, textInsufficient}, {task.ErrTooManyWaiting, Conflict, textTooMany},
		{task.ErrKeyReused, Conflict, textKeyReused}, {task.ErrBalanceLimit, Conflict, textBalanceLimit},
		{task.ErrInvalid, Invalid, textInvalid},
	} {
		if errors.Is(err, known.err) {
			out.Code, out.Message = known.code, lang.NewMessage(known.text)
			return out
		}
	}
	if store.IsUnavailable(err) || errors.Is(err, context.DeadlineExceeded) {
		out.Code, out.Message = Unavailable, lang.NewMessage(textUnavailable)
	}
	o.conf.Log.Warn("status page: an action failed: " + o.conf.Redact(err.Error()))
	return out
}

// isText reports whether a text has 1 to most characters, none of them a control character.
func isText(text string, most int) bool {
	return text != "" && utf8.ValidString(text) && utf8.RuneCountInString(text) <= most && !strings.ContainsFunc(text, unicode.IsControl)
}

// isID reports whether a text can be the id of a task or a user, or a key.
func isID(text string) bool { return isText(text, store.MaxID) }

// scopeName names what is paused.
func scopeName(scope store.Scope, name string) lang.Message {
	switch scope {
	case store.ScopeEndpoint:
		return lang.NewMessage(textEndpoint, name)
	case store.ScopeModel:
		return lang.NewMessage(textModel, name)
	}
	return lang.NewMessage(textQueue)
}

var (
	textQueue    = lang.Text{EN: "the queue", ZH: "队列"}
	textEndpoint = lang.Text{EN: "the endpoint %s", ZH: "端点 %s"}
	textModel    = lang.Text{EN: "the model %s", ZH: "模型 %s"}

	textRedriven         = lang.Text{EN: "task %s is pending again, in run %d; the user has %d credits left", ZH: "任务 %s 已重新排队（第 %d 次运行），用户剩余 %d 个积分"}
	textCancelled        = lang.Text{EN: "task %s is cancelled; %d credits were refunded, and the user has %d", ZH: "任务 %s 已取消，退还 %d 个积分，用户现有 %d 个"}
	textCancelledMissing = lang.Text{EN: "task %s is cancelled; it says that it was charged, and the ledger has no charge, so nothing was refunded (fix-stuck-tasks audit)",
		ZH: "任务 %s 已取消；任务记录显示已扣费，但账本中没有扣费记录，因此未退款（见 fix-stuck-tasks audit）"}
	textFixed = lang.Text{EN: "%d stuck tasks failed and %d credits were refunded; %d are left", One: "%d stuck task failed and %d credits were refunded; %d are left",
		ZH: "%d 个卡住的任务已判为失败，退还 %d 个积分，剩余 %d 个"}
	textNotFixed = lang.Text{EN: "nothing was closed: %d tasks are stuck, and after a start of the database their processors have %s to come back; try again later",
		ZH: "未处理任何任务：有 %d 个任务卡住，数据库启动后会先等待处理器 %s，请稍后再试"}
	textCopied    = lang.Text{EN: "nothing was closed: the database is a copy or a restored backup (task-processor status)", ZH: "未处理任何任务：数据库是副本或从备份恢复（见 task-processor status）"}
	textPaused    = lang.Text{EN: "claiming is paused for %s; tasks that are processing go on", ZH: "已暂停%s的任务领取，正在处理的任务继续执行"}
	textResumed   = lang.Text{EN: "claiming goes on for %s", ZH: "已恢复%s的任务领取"}
	textNotPaused = lang.Text{EN: "nothing was paused for %s", ZH: "%s未处于暂停状态"}
	textGranted   = lang.Text{EN: "%d credits were granted to user %s, who has %d now", ZH: "已发放 %d 个积分给用户 %s，现有 %d 个"}

	textNoTask          = lang.Text{EN: "the task's id is missing or can't be one", ZH: "缺少任务 ID，或任务 ID 无效"}
	textNoUser          = lang.Text{EN: "the user's id is missing or can't be one", ZH: "缺少用户 ID，或用户 ID 无效"}
	textNoCredits       = lang.Text{EN: "the credits must be from 1 to %d", ZH: "积分数必须在 1 到 %d 之间"}
	textNoKey           = lang.Text{EN: "the idempotency key is missing or too long; load the page again", ZH: "缺少幂等键或幂等键过长，请重新加载页面"}
	textNoReason        = lang.Text{EN: "the reason must be one line of at most %d characters", ZH: "原因必须是一行，且不超过 %d 个字符"}
	textNoScope         = lang.Text{EN: "say what to pause or resume: the queue, or an endpoint or a model by its name", ZH: "请指定要暂停或恢复的对象：队列，或按名称指定端点或模型"}
	textUnknownEndpoint = lang.Text{EN: "no processor has an endpoint %s; there are: %s", ZH: "没有处理器使用端点 %s；现有端点：%s"}
	textFixing          = lang.Text{EN: "stuck tasks are being repaired already; wait for that", ZH: "正在处理卡住的任务，请稍候"}
	textNotFailed       = lang.Text{EN: "task %s is %s; only a failed task can be processed again", ZH: "任务 %s 的状态为 %s，只有失败的任务可以重跑"}
	textClosed          = lang.Text{EN: "task %s is %s already; it can't be cancelled", ZH: "任务 %s 的状态已是 %s，无法取消"}

	textTaskNotFound = lang.Text{EN: "there is no such task", ZH: "任务不存在"}
	textWrongState   = lang.Text{EN: "this is not possible in the task's state; it may have changed meanwhile", ZH: "任务当前状态不允许此操作，状态可能已改变"}
	textInsufficient = lang.Text{EN: "the user does not have enough credits", ZH: "用户积分不足"}
	textTooMany      = lang.Text{EN: "the user has too many waiting tasks (USER_MAX_WAITING)", ZH: "用户等待中的任务过多（USER_MAX_WAITING）"}
	textKeyReused    = lang.Text{EN: "credits were granted with this key before, with other values; load the page again", ZH: "该幂等键已用于其他发放，请重新加载页面"}
	textBalanceLimit = lang.Text{EN: "the balance would be too large", ZH: "余额将超出上限"}
	textInvalid      = lang.Text{EN: "a value can't be used", ZH: "参数值无效"}
	textUnavailable  = lang.Text{EN: "the database does not respond; whether it was done is unknown. Look at the state before you try again, which is safe",
		ZH: "数据库没有响应，无法确定操作是否已执行。请先查看状态再重试，重试是安全的"}
	textInternal = lang.Text{EN: "it could not be done; the log of the program says why", ZH: "操作失败，原因见程序日志"}
)
