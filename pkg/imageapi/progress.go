package imageapi

import (
	"strconv"
	"strings"
	"unicode"

	"imagetasks/pkg/pattern"
)

// The stages that Request.Progress is called with, as in the column current_stage.
const (
	StageQueuing    = "queuing"               // the API has the request and has not begun
	StageGenerating = "generating"            // the API makes the picture
	StageReceiving  = "receiving the picture" // it is made, and its answer arrives
)

// Stages returns the stages that Request.Progress is called with, in their order.
func Stages() []string { return []string{StageQueuing, StageGenerating, StageReceiving} }

// reporter calls a function at changes of the stage and the percentage. Neither goes back, and 100 is not reported: the picture is still to come.
// The zero value reports nothing.
type reporter struct {
	report  func(percent int, stage string)
	stage   int // index of Stages, from 1
	percent int
}

const maxReported = 99

func (r *reporter) set(percent, stage int) {
	percent = max(min(percent, maxReported), r.percent)
	stage = max(stage, r.stage)
	if r.report == nil || stage == 0 || percent == r.percent && stage == r.stage {
		return
	}
	r.percent, r.stage = percent, stage
	r.report(percent, Stages()[stage-1])
}

// Indices of the stages for reporter.
const (
	queuing = iota + 1
	generating
	receiving
)

// The words of relays for their stages, in lower case, at the beginning of a line after its marks.
var (
	queuingLine    = words(`^(任务)?(已提交|提交成功|已加入队列|已进入队列|已创建)`, `^(正在)?(排队|等待)`, `^(in )?queue`, `^queuing\b`, `^queueing\b`, `^waiting\b`, `^pending\b`, `^(task )?submitted\b`, `^starting\b`)
	generatingLine = words(`^(正在|开始)?(生成|绘制|绘图|绘画|创作|作图|画图|处理|渲染|执行|编辑)(图片|图像)?中`, `^(正在|开始)(生成|绘制|绘图|绘画|创作|作图|画图|处理|渲染|编辑)`, `^(当前|生成|任务)?进度`,
		`^(now |currently )?(generating|processing|rendering|drawing|painting|creating|editing|working|running)\b`, `^in[ _-]progress\b`, `^(image )?(generation )?progress\b`,
		`^(图片|图像|任务)(正在)?(生成|处理|绘制)中`)
	doneLine = words(`^(图片|图像|任务)?(已)?(生成|绘制|绘图|处理|编辑)?(完成|成功|完毕)`, `^(image )?(generation )?(is )?(completed?|done|finished|succeeded|success)\b`, `^generated\b`)
	// barLine matches a line of a percentage and a bar.
	barLine = pattern.New(`^[\s\[\]()|#=\-–—_.·>*█▓▒░▏▎▍▌▋▊▉■□▪▫●○⬛⬜🟩🟦⣿⡿]*\d{1,3}(\.\d+)?\s*[%％]`)

	// percentages match those of a line of progress: 进度 14%, progress: 14.5 %, 🏃 进度 14..23..
	percentages = pattern.New(`(\d{1,3})(?:\.\d+)?\s*[%％]`)
	dotted      = pattern.New(`(\d{1,3})\s*(?:\.\.|…)`)
	progressOf  = words(`进度`, `progress`)

	// markOnly matches the emojis that stand for a stage where there are no words.
	queuingMarks    = "🕐🕑🕒🕓🕔🕕🕖🕗🕘🕙🕚🕛⏳⌛"
	generatingMarks = "⚡🏃🎨🖌🖼🔄"
)

// idLine matches a line with an id of a task or a picture.
var idLine = pattern.New(`(?i)^(?:(gen[_ ]?id|生成\s*ID)|(?:task|job|request)?[_ ]?id|(?:任务|请求|作业)\s*(?:ID|编号|号))[*\s]*[:：][*\s]*` + "`?" + `([A-Za-z0-9][A-Za-z0-9_.:-]{2,99})`)

// stripLine returns a line without the marks at its beginning, in lower case, and the emoji among these.
func stripLine(line string) (text, marks string) {
	rest := strings.TrimLeftFunc(line, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '[' && r != '!' && r != '<' && r != '{' && r != '`'
	})
	return strings.ToLower(rest), line[:len(line)-len(rest)]
}

// lineKind is what a line of a chat's text is.
type lineKind int

const (
	lineOther lineKind = iota
	lineEmpty
	lineID
	lineQueuing
	lineGenerating
	lineDone
)

// readLine tells what a line is, and its percentage, or -1. whole: the line has ended.
func readLine(line string, whole bool) (kind lineKind, percent int) {
	text, marks := stripLine(line)
	percent = -1
	switch {
	case text == "" && strings.ContainsAny(marks, generatingMarks):
		return lineGenerating, percent
	case text == "" && strings.ContainsAny(marks, queuingMarks):
		return lineQueuing, percent
	case text == "":
		return lineEmpty, percent
	case len(line) > maxProgressLine:
		return lineOther, percent
	case idLine().MatchString(text):
		return lineID, percent
	case generatingLine().MatchString(text), barLine().MatchString(text):
		kind = lineGenerating
	case doneLine().MatchString(text):
		return lineDone, percent
	case queuingLine().MatchString(text):
		kind = lineQueuing
	default:
		return lineOther, percent
	}
	if all := percentages().FindAllStringSubmatch(text, -1); all != nil {
		percent, _ = strconv.Atoi(all[len(all)-1][1])
	} else if all := dotted().FindAllStringSubmatch(text, -1); all != nil && progressOf().MatchString(text) {
		percent, _ = strconv.Atoi(all[len(all)-1][1])
	} else if whole && progressOf().MatchString(text) {
		if n := regexpNumber().FindString(text); n != "" {
			percent, _ = strconv.Atoi(n)
		}
	}
	if percent > 100 {
		percent = -1
	}
	return kind, percent
}

var regexpNumber = pattern.New(`\d{1,3}`)

// maxProgressLine bounds a line of progress, in bytes. One line may have all of them: 进度 5..10..15..
const maxProgressLine = 1 << 10

// progressReader reads the lines of progress in a text that arrives in pieces.
type progressReader struct {
	line []byte
	long bool // the line is longer than a line of progress
}

// add adds a piece of the text.
func (p *progressReader) add(r *reporter, piece []byte) {
	if r.report == nil {
		return
	}
	for _, c := range piece {
		if c == '\n' {
			p.read(r, true)
			p.line, p.long = p.line[:0], false
			continue
		}
		if p.long = p.long || len(p.line) == maxProgressLine; !p.long {
			p.line = append(p.line, c)
		}
	}
	p.read(r, false)
}

func (p *progressReader) read(r *reporter, whole bool) {
	if p.long || len(p.line) == 0 {
		return
	}
	kind, percent := readLine(string(p.line), whole)
	switch kind {
	case lineQueuing:
		r.set(0, queuing)
	case lineGenerating:
		r.set(percent, generating)
	case lineDone:
		r.set(maxReported, receiving)
	case lineOther, lineEmpty, lineID:
	}
}
