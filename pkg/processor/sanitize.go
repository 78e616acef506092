package processor

import (
	"strings"

	"imagetasks/pkg/task"
)

// maxMessage bounds the text of a failure in the database and the log, in runes.
const maxMessage = 1000

// sanitizer makes errors safe to store. Its function redacts secrets (Config.Redact).
type sanitizer func(text string) string

// sanitize returns a copy of err whose message contains no secret and is valid in a text column.
func (redact sanitizer) sanitize(err error) *task.Error {
	e := *task.AsError(err)
	text := strings.ReplaceAll(strings.ToValidUTF8(redact(e.Error()), "?"), "\x00", "?")
	if runes := []rune(text); len(runes) > maxMessage {
		text = string(runes[:maxMessage]) + "…"
	}
	e.Message = text
	return &e
}
