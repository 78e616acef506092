package alert

import (
	"encoding/json"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/store"
)

// The bounds of what is kept of a finding, in characters.
const (
	maxReason  = 500
	maxSubject = 200
)

// State is what a message says about a finding.
type State string

// The states.
const (
	New      State = State(store.AlertNew)
	Open     State = State(store.AlertOpen) // told before
	More     State = State(store.AlertMore) // told before, with a smaller count
	Resolved State = State(store.AlertResolved)
	Happened State = State(store.AlertHappened) // an event
)

// Item is one finding in a message.
type Item struct {
	State    State
	Severity finding.Severity
	Finding  finding.Finding
	Host     string // that saw it
	Began    time.Time
	Until    time.Time // it was seen last, or it was found to be over
	Flaps    int       // how often it came back soon
}

// Message is what a receiver is told at one time.
type Message struct {
	Name  string // of the installation
	Host  string // that sends it
	At    time.Time
	Items []Item // none: a test
	// Command formats a command so that it can be typed.
	Command func(finding.Command) string
}

// newItem returns the item of an alert, and false if it can't be read.
func newItem(d store.DueAlert) (Item, bool) {
	var content details
	if json.Unmarshal(d.Details, &content) != nil || content.Finding.Code == "" {
		return Item{}, false
	}
	i := Item{State: State(d.State), Severity: finding.Severity(d.Severity), Finding: content.Finding, Host: content.Host,
		Began: d.Began, Until: d.Until, Flaps: d.Flaps}
	if i.State == Happened && i.Finding.Count > 0 {
		i.Finding.Count = int(d.Count)
	}
	return i, true
}

// Open returns how many problems of the message are open, and how many are resolved and happened.
func (m Message) Counts() (open, resolved, happened int) {
	for _, i := range m.Items {
		switch i.State {
		case Resolved:
			resolved++
		case Happened:
			happened++
		default:
			open++
		}
	}
	return open, resolved, happened
}

// Title returns one line about the message. It begins with a word that robots can be set to require: imagetasks.
func (m Message) Title(l lang.Lang) string {
	title := "imagetasks"
	if m.Name != "" && m.Name != title {
		title += " " + m.Name
	}
	open, resolved, happened := m.Counts()
	var parts []string
	for _, p := range []struct {
		n    int
		text lang.Text
	}{{open, textProblems}, {resolved, textResolved}, {happened, textEvents}} {
		if p.n > 0 {
			parts = append(parts, p.text.In(l, p.n))
		}
	}
	if len(m.Items) == 0 {
		parts = []string{textTest.In(l)}
	}
	return title + ": " + strings.Join(parts, textComma.In(l))
}

// Line is one line about an item.
type Line struct {
	Label string // empty: what is wrong
	Text  string
	Code  bool // a command to type
}

// Heading returns what the message says about the item, in a few words.
func (i Item) Heading(l lang.Lang) string {
	switch {
	case i.State == Resolved:
		return textIsResolved.In(l, i.Until.Sub(i.Began))
	case i.State == Happened:
		return textHappened.In(l)
	case i.State == Open || i.State == More:
		return textStillOpen.In(l, i.Until.Sub(i.Began))
	case i.Severity == finding.Error:
		return textError.In(l)
	}
	return textWarning.In(l)
}

// Lines returns what is wrong, since when, why, and what to do next.
func (i Item) Lines(m Message, l lang.Lang) []Line {
	lines := []Line{{Text: i.Finding.Text(l)}}
	add := func(label lang.Text, text string, code bool) {
		if text != "" {
			lines = append(lines, Line{label.In(l), text, code})
		}
	}
	if i.State == Resolved {
		add(textSince, i.Began.Local().Format(time.DateTime)+" – "+i.Until.Local().Format(time.DateTime), false)
	} else {
		add(textSince, i.Began.Local().Format(time.DateTime), false)
		if i.Flaps > 0 {
			add(textNote, textFlaps.In(l, i.Flaps), false)
		}
		cause, next := i.Hint(l), ""
		if command := i.Finding.Next(); !command.IsZero() && m.Command != nil {
			next = m.Command(command)
		}
		add(textHint, cause, false)
		add(textNext, next, true)
	}
	add(textHost, i.Host, false)
	return lines
}

// Hint returns what the error code of the finding means and how to fix it; empty: there is none.
func (i Item) Hint(l lang.Lang) string {
	hint, ok := finding.HintFor(i.Finding.Cause)
	if !ok {
		return ""
	}
	return hint.Cause.In(l) + textSpace.In(l) + hint.Fix.In(l)
}

// TestLine says that nothing is wrong.
func TestLine(l lang.Lang) string { return textTestLine.In(l) }

// clean removes control characters and cuts a text to n characters.
func clean(text string, n int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "�"))
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	return string([]rune(text)[:n-1]) + "…"
}

var (
	textProblems   = lang.Text{EN: "%d problems", One: "%d problem", ZH: "%d 个问题"}
	textResolved   = lang.Text{EN: "%d resolved", ZH: "%d 个已恢复"}
	textEvents     = lang.Text{EN: "%d notices", One: "%d notice", ZH: "%d 条通知"}
	textTest       = lang.Text{EN: "test of alerts", ZH: "告警测试"}
	textTestLine   = lang.Text{EN: "This is a test by monitor-tasks --test-alert. Alerts reach this receiver.", ZH: "这是 monitor-tasks --test-alert 发送的测试消息，告警可以送达此接收方。"}
	textComma      = lang.Text{EN: ", ", ZH: "，"}
	textSpace      = lang.Text{EN: " ", ZH: ""}
	textIsResolved = lang.Text{EN: "RESOLVED after %s", ZH: "已恢复，持续 %s"}
	textHappened   = lang.Text{EN: "NOTICE", ZH: "通知"}
	textStillOpen  = lang.Text{EN: "STILL OPEN after %s", ZH: "未恢复，已持续 %s"}
	textError      = lang.Text{EN: "ERROR", ZH: "故障"}
	textWarning    = lang.Text{EN: "WARNING", ZH: "警告"}
	textSince      = lang.Text{EN: "Since", ZH: "开始时间"}
	textNote       = lang.Text{EN: "Note", ZH: "说明"}
	textFlaps      = lang.Text{EN: "it came back %d times, so its end is told later", One: "it came back %d time, so its end is told later",
		ZH: "该问题已反复出现 %d 次，恢复通知将延后发送"}
	textHint = lang.Text{EN: "Hint", ZH: "原因和处理"}
	textNext = lang.Text{EN: "Next", ZH: "下一步"}
	textHost = lang.Text{EN: "Host", ZH: "主机"}
)
