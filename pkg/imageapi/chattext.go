package imageapi

import (
	"bufio"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"imagetasks/pkg/pattern"
)

// textEnded looks at a text that has ended: at its ids, at JSON in it, at an address that is all it says, and at what remains of it.
func (f *finder) textEnded(text string) error {
	f.text = strings.TrimSpace(lastBytes(f.text+"\n"+text, maxText))
	f.ids.read(text)
	remaining := withoutProgress(text)
	if f.rank < rankImage && !f.wrote && f.w != nil {
		if err := f.textJSON(text); err != nil {
			return err
		}
	}
	if !f.found() && isAddress(remaining) {
		if err := f.setURL(remaining, rankAddress); err != nil {
			return err
		}
	}
	if said := lastBytes(remaining, maxSaid); said != "" {
		f.said = said
	}
	return nil
}

// textCut takes what there is of a text that was cut off. Only its whole lines are looked at.
func (f *finder) textCut() {
	if len(f.scanner.said) == 0 {
		return
	}
	f.text = strings.TrimSpace(lastBytes(f.text+"\n"+string(f.scanner.said), maxText))
	text := f.scanner.endedLines()
	f.ids.read(text)
	f.said = lastBytes(withoutProgress(text), maxSaid)
}

// endedLines returns the lines of the text so far that have ended.
func (t *textScanner) endedLines() string {
	text := string(t.said)
	if end := strings.LastIndexByte(text, '\n'); !strings.HasSuffix(text, "`") {
		text = text[:end+1]
	}
	return text
}

// lastBytes returns the last characters of a text, at most limit bytes.
func lastBytes(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	text = text[len(text)-limit:]
	for len(text) > 0 && !utf8.RuneStart(text[0]) {
		text = text[1:]
	}
	return text
}

// fence matches a block of code in Markdown.
var fence = pattern.New("(?s)```[a-zA-Z]*[ \t]*\r?\n?(.*?)(?:```|$)")

// textJSON looks for the URL of a picture in JSON that is the text, or a block of code in it. The last one counts.
func (f *finder) textJSON(text string) error {
	documents := []string{text}
	for _, block := range fence().FindAllStringSubmatch(text, -1) {
		documents = append(documents, block[1])
	}
	for _, document := range documents {
		document = strings.TrimSpace(document)
		if document == "" || document[0] != '{' && document[0] != '[' {
			continue
		}
		// A picture in it would have been found already, unless something else was found before.
		inner := &finder{source: source{sent: f.sent}, w: io.Discard}
		err := inner.document(&parser{r: bufio.NewReader(strings.NewReader(document))})
		f.ids.add(inner.ids)
		switch {
		case err != nil || inner.wrote:
		case inner.url != "":
			if err := f.setURL(inner.url, rankImage); err != nil {
				return err
			}
		case inner.failed && !f.failed && !f.found():
			f.failed, f.apiError = true, inner.apiError
		}
	}
	return nil
}

// isAddress reports whether a text is one URL.
func isAddress(text string) bool {
	lower := strings.ToLower(text)
	return (strings.HasPrefix(lower, "https://") || strings.HasPrefix(lower, "http://")) && !strings.ContainsAny(text, addressEnd)
}

// longProgress is the length of a line from which on it is not only progress, in characters, unless it has percentages.
const longProgress = 48

// withoutProgress returns a text without lines of progress and ids, and without blocks of code that are JSON.
func withoutProgress(text string) string {
	text = fence().ReplaceAllStringFunc(text, func(block string) string {
		inside := strings.TrimSpace(fence().FindStringSubmatch(block)[1])
		if strings.HasPrefix(inside, "{") || strings.HasPrefix(inside, "[") {
			return ""
		}
		return block
	})
	var kept []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		kind, percent := readLine(line, true)
		isProgress := kind != lineOther && (percent >= 0 || kind == lineID || utf8.RuneCountInString(line) < longProgress)
		if !isProgress || failure().MatchString(strings.ToLower(line)) {
			kept = append(kept, line)
		}
	}
	return strings.TrimSpace(strings.Join(kept, "\n"))
}

// Words of an API in place of a picture, in lower case.
var (
	// failure is how a line begins that says that making the picture failed.
	failure = pattern.New(`(?m)^[^\p{L}\p{N}]*((图片|图像|任务|请求|绘图|绘画|作图|视频|系统|服务器?|上游|接口|抱歉[，,]?\s*)*(生成|处理|编辑|执行|请求|绘制|提交|创建)?(失败|出错|错误|异常|超时)` +
		`|失败原因|错误(信息|码)?\s*[:：]|(image |task |request |generation |processing |rendering |editing |drawing )*(failed|failure|timed out)\b|(an? )?((internal|server|upstream|api|unknown|request|unexpected) )*error\b)|❌`)
	// refusal says that what is asked for is not allowed.
	refusal = words(`(input|output)[_ ]moderation`, `violat\w*.{0,60}(polic|guideline|terms|rules|standards)`, `(polic(y|ies)|guidelines|rules).{0,60}violat`, `usage polic`, `content polic`,
		`against.{0,30}(polic|guideline|rules)`, `(内容|使用|安全|社区)(政策|规范|准则|策略|限制)`, `违反`, `违规`, `不合规`, `不符合.{0,16}(政策|规定|规范|要求|准则)`, `敏感`, `涉嫌`,
		`not (allowed|permitted) to (generate|create|make|produce|draw|edit)`, `safety (system|polic|guideline|filter|reason)`, `nsfw`, `copyright`, `版权`)
)

// answerIDs are the ids in an answer by which the API knows what it worked on.
type answerIDs struct{ completion, task, picture string }

var safeID = pattern.New(`^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$`)

// idValue reads the value of a key for an id of the whole answer.
func (f *finder) idValue(p *parser, key string) error {
	c, err := p.next()
	if err != nil {
		return err
	}
	if c != '"' {
		return p.skip()
	}
	text, err := p.text(maxCode)
	if err == nil {
		f.ids.set(strings.ToLower(key), text)
	}
	return err
}

// set keeps an id, the first of its kind.
func (i *answerIDs) set(name, id string) {
	field := &i.task
	switch {
	case !safeID().MatchString(id):
		return
	case strings.HasPrefix(name, "gen"), strings.HasPrefix(name, "生成"):
		field = &i.picture
	case name == "id":
		field = &i.completion
	}
	if *field == "" {
		*field = id
	}
}

// read reads the ids in a text.
func (i *answerIDs) read(text string) {
	for line := range strings.Lines(text) {
		if len(line) > maxProgressLine {
			continue
		}
		start := strings.IndexFunc(line, unicode.IsLetter)
		if start < 0 {
			continue
		}
		if m := idLine().FindStringSubmatch(line[start:]); m != nil {
			name := "task_id"
			if m[1] != "" {
				name = "gen_id"
			}
			i.set(name, m[2])
		}
	}
}

// add adds the ids of another text.
func (i *answerIDs) add(other answerIDs) {
	i.set("id", other.completion)
	i.set("task_id", other.task)
	i.set("gen_id", other.picture)
}

// words returns the ids for an error; "": there are none.
func (i *answerIDs) words() string {
	var all []string
	for _, id := range []struct{ name, value string }{{"id", i.completion}, {"task", i.task}, {"gen_id", i.picture}} {
		if id.value != "" {
			all = append(all, id.name+" "+id.value)
		}
	}
	return strings.Join(all, ", ")
}
