package fixstucktasks

import (
	"context"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/bridgesync"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// bridgeWork is what was done for the users of an application that has tables of its own.
type bridgeWork struct {
	Owed    []task.Refund     `json:"owed"` // refunds that are now owed to the application's table
	Written bridgesync.Report `json:"written"`
	Error   string            `json:"error,omitempty"` // why not all was written that could be
}

// failed reports whether something is left that another run, or a processor, has to write.
func (w bridgeWork) failed() bool { return w.Error != "" || w.Written.Owed > 0 }

// giveBack finds the refunds that are owed to the application's users, and writes what is due to its tables. What stays owed is written later, by a
// processor or the monitor.
func (a program) giveBack(ctx context.Context, st *store.Store, log logrus.FieldLogger) (bridgeWork, error) {
	w := bridgeWork{Owed: []task.Refund{}}
	for {
		owed, err := st.OweRefunds(ctx, repairBatch)
		w.Owed = append(w.Owed, owed...)
		if err != nil {
			return w, err
		}
		if len(owed) < repairBatch {
			break
		}
	}
	var err error
	w.Written, err = bridgesync.Drain(ctx, st, log)
	if err != nil {
		w.Error = a.Redact.String(err.Error())
	}
	return w, nil
}

func (a program) printBridge(w bridgeWork, l lang.Lang) {
	for _, r := range w.Owed {
		a.Printf("%s\n", textOwed.In(l, r.TaskID, r.UserID, lang.NewMessage(textCredits, r.Credits)))
	}
	if n := w.Written.Applied; n > 0 {
		a.Printf("%s\n", textWritten.In(l, n, lang.NewMessage(textCredits, w.Written.Refunded)))
	}
	if w.Error != "" {
		a.Printf("%s\n", textNotWritten.In(l, w.Error))
	}
	if n := w.Written.Owed; n > 0 {
		a.Printf("%s\n", textStillOwed.In(l, n))
	}
}

var (
	textOwed    = lang.Text{EN: "task %s: owed to the application's table: user %s: %s", ZH: "任务 %s：应在应用的表中退款：用户 %s：%s"}
	textWritten = lang.Text{EN: "the ends of %d tasks are written to the application's tables, %s refunded there", One: "the end of %d task is written to the application's tables, %s refunded there",
		ZH: "已将 %d 个任务结果写入应用的表，并在其中退还 %s"}
	textNotWritten = lang.Text{EN: "not all could be written to the application's tables: %s; a processor or the monitor goes on with it", ZH: "部分内容未能写入应用的表：%s；处理器或监控会继续写入"}
	textStillOwed  = lang.Text{EN: "the ends of %d tasks are still owed to the application's table, and are tried again by the processor and the monitor; to see why run: task-processor adopt --check",
		One: "the end of %d task is still owed to the application's table, and is tried again by the processor and the monitor; to see why run: task-processor adopt --check",
		ZH:  "尚有 %d 个任务结果待写入应用的表，处理器和监控会继续重试；查看原因请运行：task-processor adopt --check"}
)
