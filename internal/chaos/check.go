package main

import (
	"bytes"
	"cmp"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"imagetasks/internal/simapi"
)

// row is a task at the end of a run.
type row struct {
	id, user, prompt, status, url, code      string
	run, requests, unknown, attempts, lost   int
	cost, deducted, refunded                 int64
	charges, chargeRows, refunds, refundRows int64 // of the last run, from the ledger
}

// counts is what a run ends with.
type counts struct {
	checked    bool
	states     map[string]int
	codes      map[string]int // of failed tasks
	requests   int            // that the API saw
	deliveries int            // complete answers with a picture
	repeated   int            // runs for which more than one was sent
	unused     int            // pictures of runs that failed or were cancelled
	pictures   int
	unknown    int // requests of unknown outcome
	lostClaims int
	claims     int
	redrives   int
	workers    int // processes that claimed tasks
}

// runOf names a run of a task.
type runOf struct {
	task string
	run  int
}

// check compares what is there with what must be. It reads tables, files and what the API saw, and shares no code with the programs.
func (s *system) check(ctx context.Context) error {
	if code, output := s.runTool(ctx, s.dir, "fix-stuck-tasks", "audit"); code != 0 {
		s.problems.add("the audit passes", "exit code %d: %s", code, output)
	}
	// A start removes what processors that were killed left.
	if code, output := s.runTool(ctx, s.dir, "task-processor", "run", "--once"); code != 0 {
		s.problems.add("a last start works", "exit code %d: %s", code, output)
	}
	tasks, err := s.readTasks(ctx)
	if err != nil {
		return err
	}
	history, err := s.readHistory(ctx)
	if err != nil {
		return err
	}
	files, err := s.readPictures(tasks)
	if err != nil {
		return err
	}
	s.counts = counts{checked: true, states: map[string]int{}, codes: map[string]int{}, redrives: s.load.redrives, pictures: len(files)}
	s.checkOrders(tasks)
	for _, t := range tasks {
		s.checkTask(t, files)
		s.checkHistory(t, history[t.id])
	}
	s.checkFiles(tasks, files)
	s.checkRequests(tasks, history, files)
	if err := s.checkBalances(ctx, tasks); err != nil {
		return err
	}
	// No row is bad, so none may be set aside. The last start is a processor, too.
	const others = `select (select count(*) from imagetasks.set_aside), (select count(distinct worker) from chaos.history where status = 'processing')`
	aside := 0
	if err := s.db.QueryRowContext(ctx, others).Scan(&aside, &s.counts.workers); err != nil {
		return err
	}
	if aside > 0 {
		s.problems.add("no task is set aside", "%d are", aside)
	}
	if err := s.crashes(); err != nil {
		return err
	}
	return s.checkLeftovers()
}

func (s *system) readTasks(ctx context.Context) (map[string]row, error) {
	rows, err := s.db.QueryContext(ctx, `select t.task_id, t.user_id, t.prompt, t.status, coalesce(t.image_url, ''), coalesce(t.error_code, ''),
			t.run, t.requests_sent, t.unknown_outcomes, t.attempt_count, t.lost_claims, t.credits_cost, t.credits_deducted, t.credits_refunded,
			coalesce(-sum(l.amount) filter (where l.kind = 'charge'), 0), count(*) filter (where l.kind = 'charge'),
			coalesce(sum(l.amount) filter (where l.kind = 'refund'), 0), count(*) filter (where l.kind = 'refund')
		from imagetasks.tasks t left join imagetasks.ledger l on l.task_id = t.task_id and l.run = t.run group by t.task_id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	tasks := map[string]row{}
	for rows.Next() {
		var t row
		if err := rows.Scan(&t.id, &t.user, &t.prompt, &t.status, &t.url, &t.code, &t.run, &t.requests, &t.unknown, &t.attempts, &t.lost,
			&t.cost, &t.deducted, &t.refunded, &t.charges, &t.chargeRows, &t.refunds, &t.refundRows); err != nil {
			return nil, err
		}
		tasks[t.id] = t
	}
	return tasks, rows.Err()
}

// checkOrders compares the tasks with what the application was told.
func (s *system) checkOrders(tasks map[string]row) {
	known := map[string]bool{}
	for _, o := range s.load.orders {
		if len(o.ids) != len(o.prompts) {
			s.problems.add("every enqueued task exists", "%s: %d ids for %d tasks", o.key, len(o.ids), len(o.prompts))
			continue
		}
		for i, id := range o.ids {
			t, ok := tasks[id]
			switch {
			case !ok:
				s.problems.add("every enqueued task exists", "%s: there is no task %s", o.key, id)
			case t.user != o.user || t.prompt != o.prompts[i] || t.cost != int64(o.cost):
				s.problems.add("every enqueued task exists", "%s: the task %s is another one", o.key, id)
			case known[id]:
				s.problems.add("every enqueued task exists", "%s: the task %s was returned before", o.key, id)
			}
			known[id] = true
		}
	}
	for id := range tasks {
		if !known[id] {
			s.problems.add("every task was enqueued once", "nobody enqueued the task %s", id)
		}
	}
}

// checkTask checks one task with its money and its picture.
func (s *system) checkTask(t row, files map[runOf]file) {
	s.counts.states[t.status]++
	charges := int64(0)
	if t.cost > 0 {
		charges = 1
	}
	if t.chargeRows != charges || t.charges != t.cost || t.deducted != t.cost {
		s.problems.add("every run is charged once", "%s: cost %d, %d charges of %d", t.id, t.cost, t.chargeRows, t.charges)
	}
	switch t.status {
	case "completed":
		if t.refundRows != 0 || t.refunded != 0 {
			s.problems.add("what completed is not refunded", "%s: refunded %d", t.id, t.refunds)
		}
		f, ok := files[runOf{t.id, t.run}]
		if !ok || t.url != filepath.Base(filepath.Dir(f.path))+"/"+filepath.Base(f.path) {
			s.problems.add("what completed has its picture", "%s: image_url %q, file %q", t.id, t.url, f.path)
		}
	case "failed", "cancelled":
		if t.refundRows != charges || t.refunds != t.charges || t.refunded != t.charges {
			s.problems.add("what failed or was cancelled is refunded once", "%s: charged %d, %d refunds of %d", t.id, t.charges, t.refundRows, t.refunds)
		}
		if _, ok := files[runOf{t.id, t.run}]; ok {
			s.counts.unused++
		}
	default:
		s.problems.add("every task is closed", "%s is %s", t.id, t.status)
	}
	if t.status == "failed" {
		s.counts.codes[t.code]++
		switch {
		case t.code == "outcome_unknown" && t.unknown <= retryUnknown:
			s.problems.add("a failure has its cause", "%s: outcome_unknown after %d unknown outcomes", t.id, t.unknown)
		case t.code == "worker_lost" && t.lost < maxLostClaims:
			s.problems.add("a failure has its cause", "%s: worker_lost after %d lost claims", t.id, t.lost)
		}
	}
	if t.unknown > retryUnknown+1 {
		s.problems.add("RETRY_UNKNOWN holds", "%s: %d unknown outcomes", t.id, t.unknown)
	}
}

// transitions are those that a task may make.
var transitions = map[string]bool{
	" pending": true, "pending processing": true, "pending completed": true, "pending failed": true, "pending cancelled": true, "pending pending": true,
	"processing processing": true, "processing pending": true, "processing completed": true, "processing failed": true, "processing cancelled": true,
	"failed pending": true,
}

// checkHistory checks what happened to a task.
func (s *system) checkHistory(t row, changes []change) {
	last := change{}
	for _, c := range changes {
		switch {
		case !transitions[c.before+" "+c.status] || c.before != last.status:
			s.problems.add("a task changes its state as the contract says", "%s: from %q (recorded: %q) to %q", t.id, c.before, last.status, c.status)
		case c.before == "failed" && c.run != last.run+1 || c.before != "failed" && c.before != "" && c.run != last.run:
			s.problems.add("a redrive begins the next run", "%s: from %s in run %d to %s in run %d", t.id, c.before, last.run, c.status, c.run)
		case c.epoch < last.epoch || c.before == "pending" && c.status == "processing" && c.epoch != last.epoch+1:
			s.problems.add("each claim raises the epoch", "%s: %d after %d", t.id, c.epoch, last.epoch)
		}
		if c.epoch > last.epoch {
			s.counts.claims++
			if c.before == "processing" {
				s.counts.lostClaims++
			}
		}
		if c.run == last.run && c.unknown > last.unknown {
			s.counts.unknown += c.unknown - last.unknown
		}
		last = c
	}
	if len(changes) == 0 || last.status != t.status {
		s.problems.add("a task changes its state as the contract says", "%s is %s, and its history ends with %q", t.id, t.status, last.status)
	}
}

// file is a picture in the picture store.
type file struct {
	path    string
	changed time.Time // no earlier than its publication
}

// pictureName is the name of a picture: the task, the run, and what can't be guessed.
var pictureName = regexp.MustCompile(`^([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})-([0-9]+)-[a-z2-7]{26}\.png$`)

// readPictures reads the picture store, and reports what does not belong there.
func (s *system) readPictures(tasks map[string]row) (map[runOf]file, error) {
	files := map[runOf]file{}
	return files, filepath.WalkDir(s.pictureDir(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "rejected" {
			return fs.SkipDir // what was sent in place of a picture
		}
		if err != nil || d.IsDir() || d.Name() == "imagetasks-installation.json" {
			return err
		}
		match := pictureName.FindStringSubmatch(d.Name())
		if match == nil {
			s.problems.add("no file is left", "%s", path)
			return nil
		}
		run, err := strconv.Atoi(match[2])
		if err != nil {
			return err
		}
		key := runOf{match[1], run}
		t, ok := tasks[key.task]
		if other, twice := files[key]; twice {
			s.problems.add("a run has one picture", "%s and %s", path, other.path)
		}
		if !ok || run > t.run {
			s.problems.add("every picture has its task", "%s", path)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(content, draw(t.prompt)) {
			s.problems.add("every picture is complete and its task's", "%s: %d bytes", path, len(content))
		}
		changed, err := changeTime(path)
		files[key] = file{path, changed}
		return err
	})
}

// changeTime returns when the inode of a file was changed last: its publication, or the removal of the draft's name after it.
func changeTime(path string) (time.Time, error) {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}, err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return inodeTime(stat), nil
	}
	return info.ModTime(), nil
}

// checkFiles checks that a run that did not end, or did not begin, has no picture. Money 6 lets those of failed and cancelled runs stand.
func (s *system) checkFiles(tasks map[string]row, files map[runOf]file) {
	for key, f := range files {
		if t := tasks[key.task]; key.run == t.run && t.status != "completed" && t.status != "failed" && t.status != "cancelled" {
			s.problems.add("no file is left", "%s: its task is %s", f.path, t.status)
		}
	}
}

// request is a paid request that was recorded before it was sent.
type request struct {
	runOf
	epoch   int64
	at      time.Time
	claimed time.Time // when the task was claimed under the epoch
}

// promptNumber is what makes the prompt of a task different from all others.
var promptNumber = regexp.MustCompile(`#[0-9]+#`)

// checkRequests compares the requests that the API saw with what was recorded.
func (s *system) checkRequests(tasks map[string]row, history map[string][]change, files map[runOf]file) {
	byPrompt := map[string]string{}
	for _, t := range tasks {
		byPrompt[promptNumber.FindString(t.prompt)] = t.id
	}
	recorded := map[string][]request{} // by key
	unknown := map[runOf]int{}
	for id, changes := range history {
		calls, claimed := map[string]bool{}, time.Time{}
		epoch := int64(0)
		for _, c := range changes {
			key := runOf{id, c.run}
			unknown[key] = max(unknown[key], c.unknown)
			if c.epoch != epoch {
				epoch, claimed = c.epoch, c.at
			}
			if c.call != "" && !calls[c.call] {
				calls[c.call] = true
				recorded[c.key] = append(recorded[c.key], request{key, c.epoch, c.at, claimed})
			}
		}
	}
	for key, requests := range recorded {
		for _, r := range requests {
			if r.runOf != requests[0].runOf {
				s.problems.add("a key belongs to one run", "%s: %v and %v", key, r.runOf, requests[0].runOf)
			}
			if f, ok := files[r.runOf]; ok && r.claimed.After(f.changed.Add(50*time.Millisecond)) {
				s.problems.add("no request after the picture was published", "%s run %d: published at %s, requested at %s under a claim of %s",
					r.task, r.run, f.changed.UTC().Format(time.StampMicro), r.at.UTC().Format(time.StampMicro), r.claimed.UTC().Format(time.StampMicro))
			}
		}
	}
	s.mu.Lock()
	answers := slices.Clone(s.answers)
	s.mu.Unlock()
	slices.SortFunc(answers, func(a, b simapi.Answer) int { return a.Began.Compare(b.Began) })
	seen := map[runOf][]simapi.Answer{}
	withKey := map[string]int{}
	for _, a := range answers {
		s.counts.requests++
		withKey[a.IdempotencyKey]++
		requests := recorded[a.IdempotencyKey]
		if len(requests) == 0 || requests[0].task != byPrompt[promptNumber.FindString(a.Prompt)] {
			s.problems.add("every request was recorded", "the key %q of a request for %s", a.IdempotencyKey, byPrompt[promptNumber.FindString(a.Prompt)])
			continue
		}
		if n := withKey[a.IdempotencyKey]; n > len(requests) || requests[n-1].at.After(a.Began) {
			s.problems.add("every request was recorded before it was sent", "%s: request %d with the key %s, %d recorded", requests[0].task, n, a.IdempotencyKey, len(requests))
		}
		seen[requests[0].runOf] = append(seen[requests[0].runOf], a)
	}
	for key, answers := range seen {
		s.checkRun(tasks[key.task], key, answers, unknown[key])
	}
}

// checkRun checks the requests of one run.
func (s *system) checkRun(t row, key runOf, answers []simapi.Answer, unknown int) {
	deliveries, settled := 0, 0
	for i, a := range answers {
		switch kindOf(a) {
		case delivered:
			deliveries++
		case failure:
			settled++
		}
		if i > 0 && a.IdempotencyKey != answers[i-1].IdempotencyKey && !isRefused(answers[:i], answers[i-1].IdempotencyKey) {
			s.problems.add("a repeat of unknown outcome has the same key", "%s run %d: %s after %s", key.task, key.run, a.IdempotencyKey, answers[i-1].IdempotencyKey)
		}
	}
	s.counts.deliveries += deliveries
	if deliveries > 1 {
		s.counts.repeated++
	}
	if n := len(answers); n-settled > 1+unknown {
		s.problems.add("requests are repeated only after an unknown outcome or a failure", "%s run %d: %d requests, %d failures, %d unknown outcomes", key.task, key.run, n, settled, unknown)
	}
	if n := len(answers) - settled; n > retryUnknown+1 {
		s.problems.add("RETRY_UNKNOWN holds", "%s run %d: %d requests without a failure", key.task, key.run, n)
	}
	if key.run != t.run {
		return
	}
	if len(answers) > t.requests {
		s.problems.add("requests_sent counts every request", "%s: %d, the API saw %d", key.task, t.requests, len(answers))
	}
	if t.attempts > settled+deliveries {
		s.problems.add("an attempt is used by an answer", "%s: %d attempts, %d answers", key.task, t.attempts, settled+deliveries)
	}
	if t.status == "completed" && deliveries == 0 {
		s.problems.add("what completed has its picture", "%s: the API sent none", key.task)
	}
}

// isRefused reports whether the API has answered a request with this key with a failure. Then it is known what became of the others with the
// key, of which one may arrive later, from a processor that was suspended.
func isRefused(answers []simapi.Answer, key string) bool {
	return slices.ContainsFunc(answers, func(a simapi.Answer) bool { return a.IdempotencyKey == key && kindOf(a) == failure })
}

// checkBalances compares balances with the ledger and with what the users were granted and paid.
func (s *system) checkBalances(ctx context.Context, tasks map[string]row) error {
	want := map[string]int64{}
	for user, balance := range s.load.balance {
		want[user] = balance
	}
	for _, t := range tasks {
		if t.status == "completed" {
			want[t.user] -= t.cost
		}
	}
	rows, err := s.db.QueryContext(ctx, `select user_id, c.credits, (select coalesce(sum(l.amount), 0) from imagetasks.ledger l where l.user_id = c.user_id),
		(select coalesce(sum(l.amount), 0) from imagetasks.ledger l where l.user_id = c.user_id and l.kind = 'grant')
		from imagetasks.credits c`)
	if err != nil {
		return err
	}
	defer rows.Close()
	found := 0
	for rows.Next() {
		var user string
		var balance, sum, grants int64
		if err := rows.Scan(&user, &balance, &sum, &grants); err != nil {
			return err
		}
		found++
		if balance != sum || balance != want[user] || grants != s.load.balance[user] {
			s.problems.add("balances are right", "%s: %d, sum of the ledger %d, expected %d; granted %d, expected %d", user, balance, sum, want[user], grants, s.load.balance[user])
		}
	}
	if found != len(want) {
		s.problems.add("balances are right", "%d users, expected %d", found, len(want))
	}
	return rows.Err()
}

// knownFile matches the files of LOG_DIR.
var knownFile = regexp.MustCompile(`^(task-processor\.(log|pid|started|stopped|restarts|out|control)|task-monitor\.(log|lock|state)|fix-stuck-tasks\.log|.*-[0-9T.-]+\.log(\.gz)?)$`)

// checkLeftovers looks for files that nothing explains, and for secrets and prompts in those that are there.
func (s *system) checkLeftovers() error {
	return filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path == s.pictureDir() {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		name := d.Name()
		expected := name == "ca.pem" || name == ".env" || name == "tools.out" || strings.HasPrefix(name, "processor-") || knownFile.MatchString(name)
		if !expected {
			s.problems.add("no file is left", "%s", path)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.Contains(content, []byte("the program panicked")) {
			s.problems.add("no program crashes", "see %s", path)
		}
		for _, secret := range []string{apiKey, proxyPassword, promptSecret} {
			if bytes.Contains(content, []byte(secret)) {
				s.problems.add("no secret in a file", "%q in %s", secret, path)
			}
		}
		return nil
	})
}

// byNumber returns the keys of counts, the largest number first.
func byNumber[K cmp.Ordered](numbers map[K]int) []K {
	var keys []K
	for key := range numbers {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b K) int { return cmp.Or(cmp.Compare(numbers[b], numbers[a]), cmp.Compare(a, b)) })
	return keys
}
