package bridge

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Settings are what an operator has decided before adopt proposes.
type Settings struct {
	Tasks   Table // the table of tasks; zero: it is looked for
	Balance Table // the table of balances; zero: it is looked for
}

// Sureness says how much speaks for a line of a proposal.
type Sureness string

// The degrees of sureness.
const (
	Certain Sureness = "certain"
	Likely  Sureness = "likely"
	Guess   Sureness = "guess"
)

// Line is what a proposal says about one line of the description.
type Line struct {
	Sure   Sureness `json:"sure"`
	Why    string   `json:"why,omitempty"`
	Others []string `json:"others,omitempty"` // what else was possible, the best first
}

// Proposal is a description with what speaks for it. What it could not decide stands in Description.Questions.
type Proposal struct {
	Description Description     `json:"description"`
	Lines       map[string]Line `json:"lines"` // by key: tasks, status.pending, credits.charged, log.columns.amount
	Notes       []string        `json:"notes"` // what an operator should know about the tables
}

// Propose describes the application's tables as far as names, types, foreign keys and the sample tell. Without a table of image tasks it proposes nothing and
// asks.
func Propose(c Catalog, s Settings) Proposal {
	p := &proposer{catalog: c, settings: s, used: map[string]bool{}, out: Proposal{Lines: map[string]Line{}, Notes: []string{}}}
	if p.tasks() {
		p.state()
		p.columns()
		p.credits()
		p.logs()
		p.history()
		p.searchPath()
	}
	p.notes()
	return p.out
}

type proposer struct {
	catalog  Catalog
	settings Settings
	table    CatalogTable    // of tasks
	used     map[string]bool // columns of table that have a meaning already
	kinds    []Table         // tables besides table that the description names
	out      Proposal
}

func (p *proposer) line(key string, sure Sureness, others []string, why string, args ...any) {
	if len(args) > 0 {
		why = fmt.Sprintf(why, args...)
	}
	p.out.Lines[key] = Line{Sure: sure, Why: why, Others: others}
}

func (p *proposer) ask(question string, args ...any) {
	p.out.Description.Questions = append(p.out.Description.Questions, fmt.Sprintf(question, args...))
}

func (p *proposer) note(text string, args ...any) {
	p.out.Notes = append(p.out.Notes, fmt.Sprintf(text, args...))
}

// candidate is a column with its points: 3 is a hint, 8 and more are several.
type candidate struct {
	name  string
	score int
}

// rank returns the columns of a table with points, the best first.
func rank(t CatalogTable, score func(CatalogColumn) int) []candidate {
	var out []candidate
	for _, c := range t.Columns {
		if n := score(c); n > 0 {
			out = append(out, candidate{c.Name, n})
		}
	}
	slices.SortStableFunc(out, func(a, b candidate) int { return cmp.Compare(b.score, a.score) })
	return out
}

func names(candidates []candidate) []string {
	var out []string
	for _, c := range candidates {
		out = append(out, c.name)
	}
	return out
}

// best returns the points of the best candidate.
func best(candidates []candidate) int {
	if len(candidates) == 0 {
		return 0
	}
	return candidates[0].score
}

// pick takes the best candidate that has no other meaning, and records how sure that is.
func (p *proposer) pick(key string, candidates []candidate) string {
	candidates = slices.DeleteFunc(slices.Clone(candidates), func(c candidate) bool { return p.used[c.name] })
	if len(candidates) == 0 {
		return ""
	}
	first := candidates[0]
	sure := Guess
	switch {
	case first.score >= 8 && (len(candidates) == 1 || candidates[1].score <= first.score-3):
		sure = Certain
	case first.score >= 6 && (len(candidates) == 1 || candidates[1].score < first.score):
		sure = Likely
	}
	p.line(key, sure, names(candidates[1:]), "")
	p.used[first.name] = true
	return first.name
}

// taskGuess is how much a table looks like one of image tasks.
type taskGuess struct {
	table  CatalogTable
	score  int
	fits   bool // it has what image tasks need
	lacks  []string
	status statusGuess
}

var (
	imageWords = []string{"image", "picture", "photo", "img", "art", "artwork", "avatar", "portrait", "logo", "headshot", "sketch", "sketche", "drawing", "doodle", "wallpaper",
		"poster", "illustration", "painting", "bild", "bilder", "foto", "imagen", "图", "照片", "绘", "画"}
	taskWords  = []string{"generation", "task", "job", "creation", "render", "prediction", "request", "generated", "auftrag", "aufträge", "auftraege", "任务", "生成"}
	otherWords = []string{"order", "invoice", "payment", "transaction", "log", "history", "historie", "post", "article", "product", "subscription", "message", "audit", "event",
		"ticket", "comment", "session", "webhook", "email", "notification", "video", "audio", "music", "song", "voice", "订单", "日志", "历史"}
	moneyWords = []string{"currency", "shipping", "quantity", "sku", "stripe", "invoice", "discount", "tax", "subtotal"}
)

// guess looks at a table as one of image tasks.
func guess(t CatalogTable) taskGuess {
	g := taskGuess{table: t, status: guessStatus(t)}
	prompt, user := best(rank(t, promptScore)), best(rank(t, t.userScore))
	results := rank(t, resultScore)
	result := best(results)
	name := nameWords(t.Table.Name)
	media := hasAny(name, imageWords...)
	for _, c := range t.Columns {
		words := nameWords(c.Name)
		media = media || hasAny(words, imageWords...) && !hasAny(words, notResultWords...) || c.Like == "file" || hasAny(nameWords(c.Form), imageWords...)
	}
	g.score = g.status.points() + points(prompt) + points(result) + min(points(user), 2)
	for words, n := range map[*[]string]int{&imageWords: 2, &taskWords: 1, &otherWords: -4} {
		if hasAny(name, *words...) {
			g.score += n
		}
	}
	if slices.ContainsFunc(t.Columns, func(c CatalogColumn) bool { return hasAny(nameWords(c.Name), moneyWords...) }) {
		g.score -= 3
	}
	for _, score := range []func(CatalogColumn) int{inputScore, styleScore, ratioScore, modelScore} {
		if len(rank(t, score)) > 0 {
			g.score++
		}
	}
	// Without a prompt, a picture's URL beside a status can be many things, such as a photo that is to be approved.
	works := g.status.works()
	pictures := prompt >= 6 && (result >= 6 || result > 0 && media) || media && works && result >= 6
	for _, need := range []struct {
		has  bool
		what string
	}{
		{g.status.points() >= 2, "a status with words for waiting or running tasks"}, {result > 0, "a column for the picture"},
		{prompt >= 6 || media, "a prompt or another sign of pictures"}, {user > 0, "a user"},
	} {
		if !need.has {
			g.lacks = append(g.lacks, need.what)
		}
	}
	g.fits = g.status.points() >= 2 && pictures && (user > 0 || prompt >= 6) && g.score >= 7
	return g
}

// points turns the points of a column into points of its table.
func points(column int) int {
	switch {
	case column >= 8:
		return 3
	case column >= 6:
		return 2
	case column > 0:
		return 1
	}
	return 0
}

// tasks finds the table of tasks. It returns false if there is none.
func (p *proposer) tasks() bool {
	if !p.settings.Tasks.IsZero() {
		t, ok := p.catalog.Find(p.settings.Tasks)
		if !ok {
			p.ask("tasks: there is no table %s that the role %s can see; tables: %s", p.settings.Tasks, p.catalog.Role, p.tableNames(10))
			return false
		}
		p.table = t
		p.line("tasks", Certain, nil, "named by --tasks; %s", rows(t))
		p.out.Description.Tasks = t.Table
		return true
	}
	var all []taskGuess
	for _, t := range p.catalog.Tables {
		all = append(all, guess(t))
	}
	slices.SortStableFunc(all, func(a, b taskGuess) int { return cmp.Compare(b.score, a.score) })
	var fitting, near []taskGuess
	for _, g := range all {
		switch {
		case g.fits:
			fitting = append(fitting, g)
		case len(g.lacks) <= 1 && len(near) < 3:
			near = append(near, g)
		}
	}
	if len(fitting) == 0 {
		example := "SCHEMA.TABLE"
		if len(near) > 0 {
			example = shellWord(near[0].table.Table.String())
		}
		p.ask("tasks: no table of this database looks like one of image tasks%s. Name it, for example: task-processor adopt --tasks %s. Tables: %s",
			nearText(near), example, p.tableNames(20))
		return false
	}
	p.table = fitting[0].table
	p.out.Description.Tasks = p.table.Table
	var others []string
	close := false
	for _, g := range fitting[1:] {
		others = append(others, g.table.Table.String())
		close = close || g.score >= fitting[0].score-2
	}
	sure := Likely
	switch {
	case close || fitting[0].score < 9:
		sure = Guess
	case len(others) == 0 && fitting[0].score >= 11:
		sure = Certain
	}
	p.line("tasks", sure, others, "%s", rows(p.table))
	switch {
	case close:
		p.ask("tasks: several tables look like image tasks: %s, %s. The rest of this file describes the first; for another one: task-processor adopt --force --tasks SCHEMA.TABLE",
			p.table.Table, strings.Join(others, ", "))
	case sure == Guess:
		p.ask("tasks: little speaks for the table %s. Is it the one of image tasks? For another one: task-processor adopt --force --tasks SCHEMA.TABLE", p.table.Table)
	}
	return true
}

// shellWord quotes the name of a table for a shell.
func shellWord(name string) string {
	if strings.ContainsAny(name, "\"'$ \\") {
		return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
	}
	return name
}

func nearText(near []taskGuess) string {
	var parts []string
	for _, g := range near {
		parts = append(parts, fmt.Sprintf("%s lacks %s", g.table.Table, cmp.Or(strings.Join(g.lacks, ", "), "other signs of image tasks")))
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, "; ") + ")"
}

func (p *proposer) tableNames(n int) string {
	var out []string
	for _, t := range p.catalog.Tables {
		out = append(out, t.Table.String())
	}
	if len(out) == 0 {
		return "none"
	}
	if len(out) > n {
		out = append(out[:n], fmt.Sprintf("and %d more", len(out)-n))
	}
	return strings.Join(out, ", ")
}

// rows describes the number of rows of a table.
func rows(t CatalogTable) string {
	switch {
	case t.Exact:
		return fmt.Sprintf("%d rows", t.Rows)
	case t.Note != "":
		return t.Note
	}
	return fmt.Sprintf("about %d rows", t.Rows)
}

// columnsOf lists columns for a question.
func columnsOf(t CatalogTable, keep func(CatalogColumn) bool) string {
	var out []string
	for _, c := range t.Columns {
		if keep(c) {
			out = append(out, c.Name)
		}
	}
	if len(out) == 0 {
		return "none fits"
	}
	return strings.Join(out, ", ")
}

// columns finds the columns of tasks but those of its state.
func (p *proposer) columns() {
	d, t := &p.out.Description, p.table
	p.key()
	if d.User = p.pick("user", rank(t, t.userScore)); d.User == "" {
		p.ask("user: which column holds the user's id? Candidates: %s", columnsOf(t, func(c CatalogColumn) bool { return c.isID() && !p.used[c.Name] }))
	} else if key, ok := t.reference(d.User); ok {
		p.because("user", "refers to %s", key.To)
	}
	p.result()
	p.prompt()
	p.inputs()
	if d.Prompt == "" && len(d.Inputs) == 0 {
		p.ask("prompt: which column holds the prompt, or inputs: which ones hold input pictures? Candidates: %s",
			columnsOf(t, func(c CatalogColumn) bool { return (c.isText() || c.isJSON()) && !p.used[c.Name] }))
	}
	d.Style = p.pick("style", rank(t, styleScore))
	d.Ratio = p.pick("ratio", rank(t, ratioScore))
	p.values()
	d.Model = p.pick("model", rank(t, modelScore))
	d.Error = p.pick("error", rank(t, errorScore))
	d.Progress = p.pick("progress", rank(t, progressScore))
	d.Stage = p.pick("stage", rank(t, stageScore))
	p.stages()
	for _, column := range []struct {
		key   string
		field *string
		names []string
	}{
		{"created", &d.Created, []string{"created_at", "created", "inserted_at", "created_on", "create_time", "created_time", "date_created", "creation_date", "erstellt_am", "erstellt", "创建时间"}},
		{"started", &d.Started, []string{"processing_started_at", "started_at", "start_time", "started", "begun_at", "gestartet_am", "开始时间"}},
		{"completed", &d.Completed, []string{"completed_at", "finished_at", "ended_at", "done_at", "completed", "finished", "end_time", "fertig_am", "完成时间"}},
		{"updated", &d.Updated, []string{"updated_at", "updated", "modified_at", "update_time", "last_updated", "last_modified", "changed_at", "geändert_am", "更新时间"}},
	} {
		*column.field = p.pick(column.key, rank(t, func(c CatalogColumn) int {
			if !c.isTime() {
				return 0
			}
			if i := slices.Index(column.names, strings.Join(nameWords(c.Name), "_")); i >= 0 {
				return 8
			}
			return 0
		}))
		if *column.field != "" {
			if c, _ := t.Column(*column.field); c.Base == "timestamp" {
				p.because(column.key, "%s", "without time zone: UTC is written")
			}
		}
	}
	p.only()
	p.deleted()
	d.Moving.Processing = "wait"
	p.line("moving.processing", Likely, []string{"requeue", "fail"}, "rows that are processing when the bridge is put in place: wait until they are stuck, work them again, or fail and refund them")
}

// because adds to the reason of a line.
func (p *proposer) because(key, why string, args ...any) {
	line := p.out.Lines[key]
	line.Why = strings.TrimPrefix(line.Why+"; "+fmt.Sprintf(why, args...), "; ")
	p.out.Lines[key] = line
}

// key finds the column that identifies a task: rather the one that the application calls the task's id than a number beside it.
func (p *proposer) key() {
	t := p.table
	single := strings.TrimSuffix(strings.Join(nameWords(t.Table.Name), "_"), "s")
	candidates := rank(t, func(c CatalogColumn) int {
		if !t.isUnique(c.Name) || !c.NotNull || !c.isID() {
			return 0
		}
		score := 3
		if len(t.Unique) > 0 && len(t.Unique[0]) == 1 && t.Unique[0][0] == c.Name {
			score = 8
		}
		if isName(c.Name, "task_id", "taskid", "task_uuid", "job_id", "jobid", "generation_id", "public_id", "uuid", "uid", "任务id", "任务编号", single+"_id") {
			score += 6
		}
		if p.isReferred(c.Name) {
			score += 4
		}
		if c.isText() || c.Base == "uuid" {
			score++
		}
		return score
	})
	if p.out.Description.Key = p.pick("key", candidates); p.out.Description.Key == "" {
		p.ask("key: %s has no column that is unique and not null, of type text, uuid or a whole number; the bridge needs one. Add a unique index, or a primary key", t.Table)
	}
}

// isReferred reports whether another table refers to that column of the tasks.
func (p *proposer) isReferred(column string) bool {
	for _, other := range p.catalog.Tables {
		for _, key := range other.Keys {
			if key.To == p.table.Table && slices.Equal(key.Referred, []string{column}) && other.Table != p.table.Table {
				return true
			}
		}
	}
	return false
}

func (p *proposer) result() {
	d, t := &p.out.Description, p.table
	candidates := rank(t, resultScore)
	d.Result = p.pick("result", candidates)
	if d.Result == "" {
		p.ask("result: which column gets the picture's URL? Candidates: %s",
			columnsOf(t, func(c CatalogColumn) bool { return (c.isText() || c.isJSON() || c.isTextArray()) && !p.used[c.Name] }))
		return
	}
	if best(candidates) < 5 {
		p.ask("result: little speaks for the column %s. Is it the one that gets the picture's URL? Other candidates: %s", d.Result,
			columnsOf(t, func(c CatalogColumn) bool { return (c.isText() || c.isJSON() || c.isTextArray()) && !p.used[c.Name] }))
	}
	c, _ := t.Column(d.Result)
	switch {
	case c.isTextArray():
		d.ResultForm = "array"
		p.line("result_form", Certain, nil, "the column is %s", c.Type)
	case c.isJSON():
		d.ResultForm = `["{url}"]`
		p.line("result_form", Likely, []string{`"{url}"`, `{"url": "{url}"}`, `[{"url": "{url}"}]`}, "JSON that the application reads")
		if c.Form != "" {
			d.ResultForm = c.Form
			p.line("result_form", Likely, nil, "as in a row of the sample; only its URLs are written")
		} else if c.Like != "url" {
			p.line("result_form", Guess, p.out.Lines["result_form"].Others, "JSON that the application reads")
			p.ask(`result_form: which JSON does the application expect in the column %s? Examples: ["{url}"], {"url": "{url}"}, [{"url": "{url}"}]`, d.Result)
		}
	default:
		d.ResultForm = "text"
		p.line("result_form", Certain, nil, "the column is %s", c.Type)
		if c.MaxLength > 0 && c.MaxLength < 200 {
			p.because("result", "at most %d characters: longer URLs are refused by the database", c.MaxLength)
		}
	}
}

func (p *proposer) prompt() {
	candidates := rank(p.table, promptScore)
	d := &p.out.Description
	d.Prompt = p.pick("prompt", candidates)
	if d.Prompt == "" || best(candidates) >= 6 {
		return
	}
	// A name that says little is enough where no other column could be it.
	chosen, _ := p.table.Column(d.Prompt)
	rivals := func(c CatalogColumn) bool {
		return c.isText() && !p.used[c.Name] && len(c.Values) == 0 && c.Like == "" && errorScore(c) == 0 && (c.Filled > 0.5 || p.table.Rows == 0)
	}
	if slices.ContainsFunc(p.table.Columns, rivals) || chosen.Filled < 0.5 {
		p.ask("prompt: little speaks for the column %s. Is it the prompt? Other candidates: %s", d.Prompt, columnsOf(p.table, rivals))
	}
}

// values translates words for aspect ratios that the processor does not know.
func (p *proposer) values() {
	c, ok := p.table.Column(p.out.Description.Ratio)
	if !ok {
		return
	}
	words := map[string]string{}
	var unknown []string
	for _, v := range append(valuesOf(c), p.table.allowed(c)...) {
		switch meaning := ratioWords[normalWord(v)]; {
		case meaning != "":
			words[v] = meaning
		case !ratioForm().MatchString(strings.ToLower(v)) && !slices.Contains(unknown, v):
			unknown = append(unknown, v)
		}
	}
	if len(words) > 0 {
		p.out.Description.Values = map[string]map[string]string{"ratio": words}
		p.line("values.ratio", Guess, nil, "their word = ours; \"\" leaves it out")
	}
	if len(unknown) > 0 {
		p.ask("values.ratio: which aspect ratios, such as 16:9, do these words of the column %s mean: %s?", c.Name, strings.Join(unknown, ", "))
	}
}

func (p *proposer) inputs() {
	candidates := slices.DeleteFunc(rank(p.table, inputScore), func(c candidate) bool { return p.used[c.name] || c.score < 5 })
	// A mask is for the first picture.
	slices.SortStableFunc(candidates, func(a, b candidate) int { return cmp.Compare(maskRank(a.name), maskRank(b.name)) })
	sure := Certain
	for _, c := range candidates {
		p.used[c.name] = true
		p.out.Description.Inputs = append(p.out.Description.Inputs, c.name)
		if c.score < 9 {
			sure = Likely
		}
	}
	if len(candidates) > 0 {
		p.line("inputs", sure, nil, "input pictures, in this order")
	}
	for _, c := range candidates {
		if maskRank(c.name) > 0 {
			p.because("inputs", "%s is sent as the mask", c.name)
		}
	}
}

func maskRank(name string) int {
	if hasAny(nameWords(name), "mask", "蒙版") {
		return 1
	}
	return 0
}

// stageMeanings are our stages (current_stage of our tasks) and the words of applications for them, the nearest first.
var stageMeanings = []struct {
	ours   string
	theirs []string
}{
	{"claimed", []string{"preparing", "prepare", "starting", "started", "processing"}},
	{"reading the input pictures", []string{"configuring", "uploading", "preparing", "processing"}},
	{"waiting for the API", []string{"sending_request", "requesting", "generating", "processing"}},
	{"queuing", []string{"queuing", "queued", "waiting", "generating", "processing"}},
	{"generating", []string{"generating", "rendering", "drawing", "processing"}},
	{"receiving the picture", []string{"generating", "rendering", "processing"}},
	{"fetching the picture", []string{"extracting_image", "downloading", "extracting", "finalizing", "processing"}},
	{"storing the picture", []string{"finalizing", "saving", "uploading", "storing", "processing"}},
	{"waiting to retry", []string{"queuing", "queued", "retrying", "pending", "waiting"}},
	{"completed", []string{"completed", "complete", "done", "finished"}},
	{"closed", []string{"failed", "error", "done"}},
}

// stages maps our stages to the words that the column is known to have.
func (p *proposer) stages() {
	d := &p.out.Description
	c, ok := p.table.Column(d.Stage)
	if !ok {
		return
	}
	allowed := p.table.allowed(c)
	known := append(slices.Clone(allowed), valuesOf(c)...)
	d.Stages = map[string]string{}
	for _, stage := range stageMeanings {
		for _, word := range stage.theirs {
			i := slices.IndexFunc(known, func(k string) bool { return normalWord(k) == word })
			if i >= 0 && d.Stages[stage.ours] == "" {
				d.Stages[stage.ours] = known[i]
			}
		}
	}
	switch {
	case len(d.Stages) > 0:
		p.line("stages", Guess, known, "our stage = theirs; a stage that is not listed is not written")
	case allowed != nil:
		p.ask("stages: the column %s allows %s only. Which of these words is to be written at which of our stages (%s)? Or remove the line stage", d.Stage, strings.Join(allowed, ", "), ourStages())
	default:
		p.because("stage", "our stages are written as they are (%s); [bridge.stages] translates them", ourStages())
	}
}

func ourStages() string {
	var out []string
	for _, s := range stageMeanings {
		out = append(out, s.ours)
	}
	return strings.Join(out, ", ")
}

// only finds a column that tells image tasks from others in the same table.
func (p *proposer) only() {
	for _, c := range p.table.Columns {
		if p.used[c.Name] || !c.isWord() || !hasAny(nameWords(c.Name), "type", "kind", "category", "mode", "media", "typ", "art", "类型") {
			continue
		}
		var images, others []string
		for _, v := range append(p.table.allowed(c), valuesOf(c)...) {
			switch words := nameWords(v); {
			case slices.Contains(images, v), slices.Contains(others, v):
			case hasAny(words, "video", "audio", "music", "text", "chat", "voice", "speech", "song", "3d", "视频", "音频", "文本") && !hasAny(words, "image", "img"):
				others = append(others, v)
			default:
				images = append(images, v)
			}
		}
		if len(others) == 0 || len(images) == 0 {
			continue
		}
		p.used[c.Name] = true
		p.out.Description.Only = map[string][]string{c.Name: images}
		p.line("only", Guess, nil, "the table also holds %s", strings.Join(others, ", "))
		p.ask("only: %s holds other tasks too. Are rows with %s = %s the image tasks, and those with %s not?", p.table.Table, c.Name,
			strings.Join(images, ", "), strings.Join(others, ", "))
		return
	}
}

// deleted finds the column of a soft delete.
func (p *proposer) deleted() {
	p.out.Description.Deleted = p.pick("deleted", rank(p.table, func(c CatalogColumn) int {
		return nameScore(c, c.isTime(), "deleted_at", "deleted", "deleted_on", "removed_at", "date_deleted", "gelöscht_am", "删除时间") +
			nameScore(c, c.isBool(), "is_deleted", "deleted", "soft_deleted", "is_removed", "removed", "gelöscht", "已删除")
	}))
}

func valuesOf(c CatalogColumn) []string {
	var out []string
	for _, v := range c.Values {
		out = append(out, v.Value)
	}
	return out
}

func (p *proposer) searchPath() {
	d := &p.out.Description
	add := func(schema string) {
		if schema != "" && !slices.Contains(d.Path, schema) {
			d.Path = append(d.Path, schema)
		}
	}
	add(d.Tasks.Schema)
	add(d.Credits.Table.Schema)
	for _, t := range p.kinds {
		add(t.Schema)
	}
	for _, schema := range []string{"public", "extensions"} {
		if p.catalog.Schemas[schema] {
			add(schema)
		}
	}
	p.line("search_path", Likely, nil, "for the application's own triggers and defaults")
}
