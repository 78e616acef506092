package main

import (
	"encoding/base64"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
)

const (
	taskID = "01a21601-bfba-737e-ab3d-e270f9aeab43"
	prompt = "chaos 1 #1# d=50ms"
	mac    = "jtbv2nql7dzmdfyx3khgqsw5ce"
)

// end is what is there after a run of one task that completed: its request was answered with a picture. The tests damage it.
type end struct {
	dir     string
	task    row
	history []change
	answers []simapi.Answer
	orders  []*order
}

var start = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

func pictureAnswer(key string, seconds int) simapi.Answer {
	return simapi.Answer{Call: simapi.Call{Prompt: prompt, IdempotencyKey: key}, Began: at(seconds), Ended: at(seconds + 1), Status: 200,
		Body: []byte(`{"data":[{"b64_json":"` + base64.StdEncoding.EncodeToString(draw(prompt)) + `"}]}`)}
}

func errorAnswer(key string, seconds int) simapi.Answer {
	a := pictureAnswer(key, seconds)
	a.Status, a.Body = 500, []byte(`{"error":{}}`)
	return a
}

func lostAnswer(key string, seconds int) simapi.Answer {
	a := pictureAnswer(key, seconds)
	a.Status, a.Body = 0, nil
	return a
}

func newEnd(t *testing.T) *end {
	e := &end{dir: t.TempDir(),
		task: row{id: taskID, user: "user-00", prompt: prompt, status: "completed", run: 1, requests: 1, cost: 2, deducted: 2, charges: 2, chargeRows: 1,
			url: "install/" + taskID + "-1-" + mac + ".png"},
		history: []change{
			{at: at(0), run: 1, status: "pending"},
			{at: at(1), run: 1, epoch: 1, before: "pending", status: "processing"},
			{at: at(2), run: 1, epoch: 1, before: "processing", status: "processing", requests: 1, open: true, call: "c1", key: "k1"},
			{at: at(5), run: 1, epoch: 1, before: "processing", status: "completed", requests: 1, call: "c1"},
		},
		answers: []simapi.Answer{pictureAnswer("k1", 3)},
		orders:  []*order{{user: "user-00", key: "order", prompts: []string{prompt}, cost: 2, ids: []string{taskID}}},
	}
	e.write(t, taskID+"-1-"+mac+".png", draw(prompt))
	return e
}

func (e *end) write(t *testing.T, name string, content []byte) {
	path := filepath.Join(e.dir, "images", "install", name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, content, 0o644))
}

// problems returns what the checks report.
func (e *end) problems(t *testing.T) []string {
	s := newSystem(options{}, io.Discard)
	s.dir, s.answers = e.dir, e.answers
	s.load = &load{system: s, orders: e.orders}
	s.counts = counts{states: map[string]int{}, codes: map[string]int{}}
	tasks := map[string]row{e.task.id: e.task}
	files, err := s.readPictures(tasks)
	require.NoError(t, err)
	s.checkOrders(tasks)
	s.checkTask(e.task, files)
	s.checkHistory(e.task, e.history)
	s.checkFiles(tasks, files)
	s.checkRequests(tasks, map[string][]change{taskID: e.history}, files)
	return s.problems.list()
}

func TestChecks_FindNothing(t *testing.T) {
	assert.Empty(t, newEnd(t).problems(t))

	// One request of unknown outcome was repeated with its key by the next claim, and one failure of the API with another.
	e := newEnd(t)
	e.history = []change{
		{at: at(0), run: 1, status: "pending"},
		{at: at(1), run: 1, epoch: 1, before: "pending", status: "processing"},
		{at: at(2), run: 1, epoch: 1, before: "processing", status: "processing", requests: 1, open: true, call: "c1", key: "k1"},
		{at: at(9), run: 1, epoch: 2, before: "processing", status: "processing", requests: 1, unknown: 1, call: "c1", key: "k1"},
		{at: at(10), run: 1, epoch: 2, before: "processing", status: "processing", requests: 2, unknown: 1, open: true, call: "c2", key: "k1"},
		{at: at(12), run: 1, epoch: 2, before: "processing", status: "pending", requests: 2, unknown: 1, attempts: 1, call: "c2"},
		{at: at(15), run: 1, epoch: 3, before: "pending", status: "processing", requests: 2, unknown: 1, attempts: 1, call: "c2"},
		{at: at(16), run: 1, epoch: 3, before: "processing", status: "processing", requests: 3, unknown: 1, attempts: 1, open: true, call: "c3", key: "k3"},
		{at: at(18), run: 1, epoch: 3, before: "processing", status: "completed", requests: 3, unknown: 1, attempts: 1, call: "c3"},
	}
	e.answers = []simapi.Answer{lostAnswer("k1", 3), errorAnswer("k1", 11), pictureAnswer("k3", 17)}
	e.task.requests, e.task.unknown, e.task.attempts = 3, 1, 1
	assert.Empty(t, e.problems(t))

	// The first request arrives after the answer to its repeat, because its processor was suspended.
	e.answers[0].Began = at(13)
	e.answers[0], e.answers[1] = e.answers[1], e.answers[0]
	assert.Empty(t, e.problems(t))
}

// Each check reports what it is for.
func TestChecks_FindDamage(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, e *end)
		want   string
	}{
		"not closed":    {func(_ *testing.T, e *end) { e.task.status = "pending" }, "every task is closed"},
		"charged twice": {func(_ *testing.T, e *end) { e.task.chargeRows, e.task.charges = 2, 4 }, "every run is charged once"},
		"not charged":   {func(_ *testing.T, e *end) { e.task.chargeRows, e.task.charges = 0, 0 }, "every run is charged once"},
		"refunded":      {func(_ *testing.T, e *end) { e.task.refundRows, e.task.refunds = 1, 2 }, "what completed is not refunded"},
		"not refunded":  {func(_ *testing.T, e *end) { e.task.status = "failed" }, "what failed or was cancelled is refunded once"},
		"no picture": {func(t *testing.T, e *end) {
			require.NoError(t, os.RemoveAll(filepath.Join(e.dir, "images", "install")))
		}, "what completed has its picture"},
		"another picture": {func(t *testing.T, e *end) { e.write(t, taskID+"-1-"+mac+".png", draw("x")) }, "every picture is complete and its task's"},
		"half a picture":  {func(t *testing.T, e *end) { e.write(t, taskID+"-1-"+mac+".png", draw(prompt)[:40]) }, "every picture is complete and its task's"},
		"two pictures": {func(t *testing.T, e *end) {
			e.write(t, taskID+"-1-"+strings.ToLower("abcdefghijklmnopqrstuvwxyz")+".png", draw(prompt))
		}, "a run has one picture"},
		"a later picture":   {func(t *testing.T, e *end) { e.write(t, taskID+"-2-"+mac+".png", draw(prompt)) }, "every picture has its task"},
		"a draft":           {func(t *testing.T, e *end) { e.write(t, ".draft-1", nil) }, "no file is left"},
		"lost":              {func(_ *testing.T, e *end) { e.orders[0].ids = []string{"x"} }, "every enqueued task exists"},
		"doubled":           {func(_ *testing.T, e *end) { e.orders = nil }, "every task was enqueued once"},
		"another user's":    {func(_ *testing.T, e *end) { e.orders[0].user = "x" }, "every enqueued task exists"},
		"unknown cause":     {func(_ *testing.T, e *end) { e.task.status, e.task.code = "failed", "outcome_unknown" }, "a failure has its cause"},
		"worker not lost":   {func(_ *testing.T, e *end) { e.task.status, e.task.code = "failed", "worker_lost" }, "a failure has its cause"},
		"not recorded":      {func(_ *testing.T, e *end) { e.answers[0].IdempotencyKey = "x" }, "every request was recorded"},
		"another task's":    {func(_ *testing.T, e *end) { e.answers[0].Prompt = "#2#" }, "every request was recorded"},
		"recorded later":    {func(_ *testing.T, e *end) { e.answers[0].Began = at(1) }, "every request was recorded before it was sent"},
		"sent twice":        {func(_ *testing.T, e *end) { e.answers = append(e.answers, pictureAnswer("k1", 4)) }, "every request was recorded before it was sent"},
		"too many":          {func(_ *testing.T, e *end) { e.answers = append(e.answers, pictureAnswer("k1", 4)) }, "requests are repeated only after"},
		"not counted":       {func(_ *testing.T, e *end) { e.task.requests = 0 }, "requests_sent counts every request"},
		"attempt used":      {func(_ *testing.T, e *end) { e.task.attempts = 2 }, "an attempt is used by an answer"},
		"many unknown":      {func(_ *testing.T, e *end) { e.task.unknown = 3 }, "RETRY_UNKNOWN holds"},
		"reopened":          {func(_ *testing.T, e *end) { e.reopen() }, "a task changes its state"},
		"no new epoch":      {func(_ *testing.T, e *end) { e.history[1].epoch = 0 }, "each claim raises the epoch"},
		"run changes":       {func(_ *testing.T, e *end) { e.history[3].run = 2 }, "a redrive begins the next run"},
		"another key":       {func(_ *testing.T, e *end) { e.repeat("k2") }, "a repeat of unknown outcome has the same key"},
		"key of two runs":   {func(_ *testing.T, e *end) { e.nextRun("k1") }, "a key belongs to one run"},
		"paid after it":     {func(t *testing.T, e *end) { e.claimAgainAfterPicture() }, "no request after the picture was published"},
		"without a picture": {func(_ *testing.T, e *end) { e.answers[0].Body = nil }, "the API sent none"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnd(t)
			c.damage(t, e)
			assert.Contains(t, strings.Join(e.problems(t), "\n"), c.want)
		})
	}
}

func (e *end) reopen() {
	e.history = append(e.history, change{at: at(9), run: 1, epoch: 1, before: "completed", status: "pending"})
}

// repeat adds a claim that sends a request, after one of unknown outcome.
func (e *end) repeat(key string) {
	e.answers = []simapi.Answer{lostAnswer("k1", 3), pictureAnswer(key, 8)}
	e.history = append(e.history[:3],
		change{at: at(6), run: 1, epoch: 2, before: "processing", status: "processing", requests: 1, unknown: 1, call: "c1", key: "k1"},
		change{at: at(7), run: 1, epoch: 2, before: "processing", status: "processing", requests: 2, unknown: 1, open: true, call: "c2", key: key},
		change{at: at(9), run: 1, epoch: 2, before: "processing", status: "completed", requests: 2, unknown: 1, call: "c2"})
	e.task.requests, e.task.unknown = 2, 1
}

// nextRun adds a run that sends a request.
func (e *end) nextRun(key string) {
	e.history[3].status = "failed"
	e.history = append(e.history,
		change{at: at(6), run: 2, epoch: 1, before: "failed", status: "pending"},
		change{at: at(7), run: 2, epoch: 2, before: "pending", status: "processing"},
		change{at: at(8), run: 2, epoch: 2, before: "processing", status: "processing", requests: 1, open: true, call: "c2", key: key},
		change{at: at(9), run: 2, epoch: 2, before: "processing", status: "completed", requests: 1, call: "c2"})
}

// claimAgainAfterPicture moves the claim to a time at which the picture was there.
func (e *end) claimAgainAfterPicture() {
	later := time.Now().Add(time.Hour)
	e.history[1].at, e.history[2].at, e.history[3].at = later, later, later
	e.answers[0].Began = later.Add(time.Second)
}

func TestDraw_DependsOnThePrompt(t *testing.T) {
	assert.Equal(t, draw("a"), draw("a"))
	assert.NotEqual(t, draw("a"), draw("b"))
	assert.Equal(t, 850*time.Millisecond, delayOf("[500 once] chaos 1 #7# d=850ms x"))
	assert.Zero(t, delayOf("a cat"))
}
