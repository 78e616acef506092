package dashboard

import (
	"context"
	"errors"
	"strings"
	"time"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

const (
	// MaxFound bounds the tasks of Find.
	MaxFound = 200
	// findTimeout bounds a search, and the look at one task.
	findTimeout = 10 * time.Second
	minPrefix   = 4
	// filesTimeout bounds the search for a task's files.
	filesTimeout    = 5 * time.Second
	maxFileSearches = 4
)

// Find returns tasks: the one with that id, those whose id is a UUID that begins with the text, those of a user, and those that failed with an error
// code, whichever of these the text is. Ids may begin and end with spaces: those of the text count where that finds something.
func (r *Reader) Find(ctx context.Context, text string, limit int) (Found, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	limit = min(max(limit, 1), MaxFound)
	found, err := r.findExact(ctx, text, limit)
	if trimmed := strings.TrimSpace(text); err == nil && len(found.Tasks) == 0 && trimmed != text {
		return r.findExact(ctx, trimmed, limit)
	}
	return found, err
}

func (r *Reader) findExact(ctx context.Context, text string, limit int) (Found, error) {
	out := Found{Tasks: []FoundTask{}}
	if text == "" {
		return out, nil
	}
	st := r.conf.Store
	known := map[string]bool{}
	add := func(tasks []store.FoundTask, err error) error {
		for _, t := range tasks {
			if !known[t.ID] {
				known[t.ID] = true
				out.Tasks = append(out.Tasks, newFoundTask(t))
			}
		}
		return err
	}
	if err := add(st.FindTasks(ctx, []string{text})); err != nil {
		return out, err
	}
	if prefix := strings.ToLower(text); isUUIDPrefix(prefix) && len(out.Tasks) == 0 {
		if err := add(st.FindTasksByPrefix(ctx, prefix, limit+1)); err != nil {
			return out, err
		}
	}
	if err := add(st.FindTasksByUser(ctx, text, limit+1)); err != nil {
		return out, err
	}
	ids, err := r.failedWith(ctx, text, limit+1)
	if err == nil && len(ids) > 0 {
		err = add(st.FindTasks(ctx, ids))
	}
	if len(out.Tasks) > limit {
		out.Tasks, out.More = out.Tasks[:limit], true
	}
	return out, err
}

// failedWith returns the ids of the last tasks that failed with an error code: of the minutes that are recorded, and of the time since.
func (r *Reader) failedWith(ctx context.Context, code string, limit int) ([]string, error) {
	ids, err := r.conf.Store.FailedTasks(ctx, code, limit)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.contents.tail {
		if g.State == task.Failed && string(g.Code) == code {
			ids = append(append([]string{}, g.Tasks...), ids...)
		}
	}
	return ids, nil
}

// isUUIDPrefix reports whether a UUID can begin so. One character would find almost everything.
func isUUIDPrefix(text string) bool {
	const form = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
	if len(text) < minPrefix || len(text) > len(form) {
		return false
	}
	for i, c := range []byte(text) {
		if isDash := c == '-'; isDash != (form[i] == '-') || !isDash && !strings.ContainsRune("0123456789abcdef", rune(c)) {
			return false
		}
	}
	return true
}

func newFoundTask(t store.FoundTask) FoundTask {
	return FoundTask{TaskID: t.ID, UserID: t.UserID, Status: t.State, Run: t.Run, Model: t.Model, Endpoint: t.Endpoint, Created: t.CreatedAt, Closed: t.ClosedAt,
		ErrorCode: string(t.ErrorCode), Error: t.Error, Cost: t.Cost, Refunded: t.RefundedCost}
}

// TaskDocument is all that is known of a task, as "tasks show --json" prints it, without its prompt.
type TaskDocument struct {
	store.TaskDetails
	Files []string `json:"files"`
	// FilesError says why the files can't be listed.
	FilesError string `json:"files_error,omitempty"`
}

// Task returns all that is known of a task, or task.ErrNotFound.
func (r *Reader) Task(ctx context.Context, id string) (TaskDocument, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	details, err := r.conf.Store.TaskDetails(ctx, id)
	if err != nil {
		return TaskDocument{}, err
	}
	details.Prompt = ""
	d := TaskDocument{TaskDetails: details, Files: []string{}}
	if r.conf.Files == nil {
		return d, nil
	}
	files, err := r.files(ctx, details.TaskRow)
	if err != nil {
		d.FilesError = r.conf.Redact(err.Error())
		return d, nil
	}
	d.Files = append(d.Files, files...)
	return d, nil
}

var errFilesBusy = errors.New("the picture store has not responded to earlier searches yet")

// files lists a task's files. A file system that hangs holds up a few searches, and nothing else.
func (r *Reader) files(ctx context.Context, t store.TaskRow) ([]string, error) {
	select {
	case r.searches <- struct{}{}:
		defer func() { <-r.searches }()
	default:
		return nil, errFilesBusy
	}
	ctx, cancel := context.WithTimeout(ctx, filesTimeout)
	defer cancel()
	return r.conf.Files(ctx, t)
}
