package bridge

import (
	"slices"
	"strings"
	"unicode"

	"imagetasks/pkg/task"
)

// stateWords are the words that applications use for the state of a task, in the form of normalWord. The first ones are the usual ones.
var stateWords = map[task.State][]string{
	task.Pending: {"pending", "queued", "waiting", "new", "created", "submitted", "queue", "scheduled", "todo", "open", "enqueued", "init", "initial", "initialized",
		"not_started", "requested", "accepted", "received", "in_queue", "wait", "available", "待处理", "等待中", "等待", "排队中", "排队", "未开始", "待生成",
		"offen", "wartend", "neu", "ausstehend", "en_attente", "pendiente"},
	task.Processing: {"processing", "in_progress", "running", "generating", "working", "active", "started", "starting", "rendering", "executing", "busy",
		"inprogress", "in_process", "in_work", "ongoing", "process", "处理中", "生成中", "进行中", "执行中", "运行中",
		"in_bearbeitung", "läuft", "laufend", "en_cours", "procesando"},
	task.Completed: {"completed", "complete", "succeeded", "success", "done", "finished", "successful", "generated", "ok", "succeed", "finish", "ready",
		"已完成", "完成", "成功", "生成成功", "已生成", "fertig", "erledigt", "abgeschlossen", "terminé", "completado"},
	task.Failed: {"failed", "error", "failure", "fail", "errored", "timeout", "timed_out", "expired", "rejected", "blocked", "faulted", "broken",
		"失败", "错误", "生成失败", "已失败", "超时", "fehler", "fehlgeschlagen", "abgelehnt", "échoué", "fallido"},
	task.Cancelled: {"cancelled", "canceled", "aborted", "stopped", "cancel", "abort", "terminated", "revoked", "withdrawn",
		"已取消", "取消", "已中止", "abgebrochen", "storniert", "annulé", "cancelado"},
}

// logWords are the words with which applications mark rows of a log of credits.
var logWords = map[string][]string{
	"refund": {"refund", "released", "refunded", "credit_refund", "generation_refund", "task_refund", "image_refund", "reversal", "return", "退款", "退还", "返还", "erstattung", "rückerstattung"},
	"charge": {"usage", "job", "consume", "consumption", "charge", "deduct", "deduction", "spend", "spent", "use", "debit", "generation", "generate", "image_generation",
		"消费", "消耗", "扣除", "扣费", "verbrauch", "abbuchung"},
	"other": {"purchase", "recharge", "bonus", "grant", "topup", "top_up", "subscription", "signup", "welcome", "gift", "reward", "adjustment", "credit", "充值", "赠送", "购买"},
}

// normalWord returns a word in lower case with underscores.
func normalWord(word string) string {
	word = strings.Trim(strings.ToLower(strings.TrimSpace(word)), "._-")
	return strings.Map(func(r rune) rune {
		if r == '-' || unicode.IsSpace(r) {
			return '_'
		}
		return r
	}, word)
}

// stateOf returns the state that a word means, or false.
func stateOf(word string) (task.State, bool) {
	for state, words := range stateWords {
		if slices.Contains(words, normalWord(word)) {
			return state, true
		}
	}
	return "", false
}

// KnownWord reports whether a value is a word for the state of a task or the kind of a row of a log, and so nothing that a person wrote.
func KnownWord(value string) bool {
	if _, ok := stateOf(value); ok {
		return true
	}
	for _, words := range logWords {
		if slices.Contains(words, normalWord(value)) {
			return true
		}
	}
	return false
}

// HoldsText reports whether a column of that name holds what people wrote, such as a prompt or a name: its values are never looked at.
func HoldsText(name string) bool {
	words := nameWords(name)
	if hasAny(words, "status", "state", "type", "kind") {
		return false
	}
	return hasAny(words, "prompt", "text", "title", "description", "content", "message", "note", "notes", "comment", "body", "name", "email", "mail", "phone",
		"address", "password", "token", "secret", "key", "hash", "ip", "subject", "bio", "提示词", "提示", "描述", "标题", "内容", "备注", "姓名", "邮箱", "beschreibung", "titel")
}

// nameWords splits a name into its words: image_url, imageUrl and "Image URL" are image and url.
func nameWords(name string) []string {
	var words []string
	var word []rune
	end := func() {
		if len(word) > 0 {
			words = append(words, strings.ToLower(string(word)))
			word = word[:0]
		}
	}
	runes := []rune(name)
	for i, r := range runes {
		switch {
		case !unicode.IsLetter(r) && !unicode.IsDigit(r):
			end()
			continue
		case unicode.IsUpper(r) && i > 0 && (unicode.IsLower(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])):
			end()
		}
		word = append(word, r)
	}
	end()
	return words
}

// hasAny reports whether one of the words is one of those listed, also in the plural.
func hasAny(words []string, listed ...string) bool {
	for _, w := range words {
		for _, l := range listed {
			if w == l || w == l+"s" || containsHan(l) && strings.Contains(w, l) {
				return true
			}
		}
	}
	return false
}

func containsHan(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return unicode.Is(unicode.Han, r) })
}

// isName reports whether the words of a name are exactly those of one of the phrases, which are written with underscores.
func isName(name string, phrases ...string) bool {
	joined := strings.Join(nameWords(name), "_")
	return slices.Contains(phrases, joined)
}
