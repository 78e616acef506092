package bridge

import (
	"slices"
	"strings"

	"imagetasks/pkg/pattern"
)

// The functions of this file say how much a column looks like one of a meaning, by its name, type and sample.

// userNames are names of tables of users.
var userNames = []string{"user", "profile", "account", "member", "customer", "benutzer", "nutzer", "kunde", "kunden", "用户", "会员", "usuario"}

func isUserTable(t Table) bool { return hasAny(nameWords(t.Name), userNames...) }

// userScore is for the column of a user's id.
func (t CatalogTable) userScore(c CatalogColumn) int {
	if !c.isID() || c.Like == "email" || c.Like == "url" {
		return 0
	}
	score := 0
	words := nameWords(c.Name)
	switch {
	case isName(c.Name, "user_id", "userid", "user", "uid", "用户id", "用户", "benutzer_id", "nutzer_id", "clerk_user_id", "auth_user_id", "supabase_user_id"):
		score = 8
	case isName(c.Name, "owner_id", "owner", "creator_id", "author_id", "profile_id", "account_id", "customer_id", "member_id", "created_by", "clerk_id", "kunde_id", "kunden_id",
		"benutzer", "nutzer", "requested_by", "requester_id", "会员id"):
		score = 6
	case hasAny(words, "user", "owner") && hasAny(words, "id"):
		score = 5
	}
	if key, ok := t.reference(c.Name); ok && isUserTable(key.To) {
		score += 6
	}
	if hasAny(words, "agent", "ip", "type", "role", "parent", "admin", "reviewer", "assigned", "updated", "name", "plan") {
		score -= 5
	}
	return max(score, 0)
}

func promptScore(c CatalogColumn) int {
	words := nameWords(c.Name)
	if !c.isText() || slices.Contains([]string{"url", "data_url", "base64", "uuid", "number", "email", "file"}, c.Like) || hasAny(words, "id", "url", "type", "count") {
		return 0
	}
	switch {
	case isName(c.Name, "prompt", "提示词", "提示"):
		return 12
	case hasAny(words, "prompt", "提示词"):
		if hasAny(words, "negative", "system", "revised", "enhanced", "original", "final", "optimized", "translated", "负面", "反向") {
			return 4
		}
		return 9
	case hasAny(words, "instruction", "anweisung", "eingabetext"):
		return 6
	case isName(c.Name, "description", "text", "input", "input_text", "query", "caption", "idea", "beschreibung", "描述", "文本"):
		return 3
	}
	return 0
}

var notResultWords = []string{"input", "source", "original", "reference", "ref", "upload", "uploaded", "init", "mask", "style", "base64", "webhook", "callback", "prompt", "error",
	"param", "setting", "meta", "metadata", "option", "config", "product", "cover", "banner", "icon", "featured", "invoice", "receipt", "label", "tracking", "avatar", "start",
	"原图", "参考", "输入", "封面", "头像", "vorlage", "eingabe"}

// resultScore is for the column of the picture's URL.
func resultScore(c CatalogColumn) int {
	if !c.isText() && !c.isTextArray() && !c.isJSON() || slices.Contains([]string{"uuid", "number", "email", "data_url", "base64"}, c.Like) || len(c.Values) > 0 {
		return 0
	}
	words := nameWords(c.Name)
	score := 0
	if hasAny(words, "result", "output", "generated", "generation", "rendered", "final", "finished", "ergebnis", "ausgabe", "resultado", "结果", "生成", "输出") {
		score += 5
	}
	if hasAny(words, imageWords...) || hasAny(words, "file") {
		score += 3
	}
	if hasAny(words, "url", "uri", "link", "path", "src", "地址", "链接") {
		score += 3
	}
	if c.Like == "url" || c.Like == "file" || c.Form != "" {
		score += 3
	}
	if hasAny(words, notResultWords...) || hasAny(words, "id", "name", "type", "count", "size", "status", "format", "model", "key", "text", "at", "by", "hash") && score < 11 {
		return 0
	}
	if hasAny(words, "thumbnail", "thumb", "preview", "small", "缩略图", "original", "watermarked", "backup") {
		score -= 4
	}
	if c.needsValue() { // a result is not known when the row is inserted
		score -= 6
	}
	return max(score, 0)
}

// inputScore is for columns of input pictures.
func inputScore(c CatalogColumn) int {
	if !c.isText() && !c.isTextArray() && !c.isJSON() && c.Base != "bytea" || len(c.Values) > 0 {
		return 0
	}
	if slices.Contains([]string{"uuid", "number", "email"}, c.Like) {
		return 0
	}
	words := nameWords(c.Name)
	if hasAny(words, "id", "name", "type", "count", "size", "prompt", "strength", "result", "output", "generated", "thumbnail", "error", "format", "text", "key", "hash", "at") {
		return 0
	}
	score := 0
	picture := hasAny(words, imageWords...) || hasAny(words, "url", "file", "base64", "b64", "地址")
	if hasAny(words, "input", "source", "original", "reference", "ref", "upload", "uploaded", "init", "style", "mask", "control", "start", "base", "vorlage", "原图", "参考", "输入", "蒙版") && picture {
		score += 6
	}
	if hasAny(words, "base64", "b64") {
		score += 6
	}
	if c.Like == "data_url" || c.Like == "base64" || c.Base == "bytea" && picture || c.needsValue() && picture && (c.Like == "url" || c.Like == "file") {
		score += 6
	}
	return score
}

func styleScore(c CatalogColumn) int {
	return nameScore(c, c.isWord(), "style", "art_style", "style_name", "image_style", "style_preset", "stil", "风格", "样式")
}

// ratioWords are words for aspect ratios that the processor does not know, and what they mean.
var ratioWords = map[string]string{"wide": "16:9", "widescreen": "16:9", "horizontal": "landscape", "tall": "9:16", "vertical": "portrait", "story": "9:16",
	"方形": "square", "横版": "landscape", "竖版": "portrait", "quadratisch": "square", "querformat": "landscape", "hochformat": "portrait"}

var ratioForm = pattern.New(`^([0-9.]+ ?[:x×*/：] ?[0-9.]+|square|landscape|portrait|auto)$`)

// holdsRatios reports whether all values of the sample look like aspect ratios.
func holdsRatios(c CatalogColumn) bool {
	for _, v := range c.Values {
		if _, known := ratioWords[normalWord(v.Value)]; !known && !ratioForm().MatchString(strings.ToLower(v.Value)) {
			return false
		}
	}
	return len(c.Values) > 0
}

func ratioScore(c CatalogColumn) int {
	if c.isWord() && holdsRatios(c) {
		return 7
	}
	score := nameScore(c, c.isWord(), "aspect_ratio", "ratio", "image_ratio", "aspectratio", "seitenverhältnis", "比例", "宽高比")
	if score == 0 {
		score = nameScore(c, c.isWord(), "image_size", "size", "dimensions", "resolution", "尺寸", "format", "orientation") / 2
	}
	return score
}

func modelScore(c CatalogColumn) int {
	return nameScore(c, c.isWord(), "model", "model_name", "image_model", "ai_model", "modelname", "modell", "模型", "model_id")
}

func errorScore(c CatalogColumn) int {
	score := nameScore(c, c.isText(), "error_message", "error", "failure_reason", "fail_reason", "fail_message", "error_info", "error_msg", "errormessage", "failed_reason", "failure_message", "failure", "error_text",
		"fehler", "fehlermeldung", "错误", "错误信息", "失败原因")
	if score == 0 {
		score = nameScore(c, c.isText(), "error_details", "error_reason", "reason", "message", "status_message") / 2
	}
	return score
}

func progressScore(c CatalogColumn) int {
	return nameScore(c, c.isNumber(), "progress_percentage", "progress", "percent", "percentage", "progress_percent", "fortschritt", "进度")
}

func stageScore(c CatalogColumn) int {
	score := nameScore(c, c.isWord(), "current_stage", "stage", "current_step", "step", "progress_stage", "progress_message", "阶段", "schritt")
	if score == 0 {
		score = nameScore(c, c.isWord(), "phase") / 2
	}
	return score
}

// nameScore is for a column that only its name and type tell.
func nameScore(c CatalogColumn, fits bool, phrases ...string) int {
	if fits && isName(c.Name, phrases...) && !c.Generated {
		return 8
	}
	return 0
}
