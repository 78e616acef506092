// Package inventory compares the picture store with the tasks in the database: it removes pictures that their own tasks say they don't
// have, and lists pictures without a task.
package inventory

import (
	"context"
	"strings"
	"time"

	"imagetasks/pkg/picture"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Tasks is what is needed of the database.
type Tasks interface {
	Installation(ctx context.Context) (store.Installation, error)
	PictureTasks(ctx context.Context, ids []string, age time.Duration) ([]store.PictureTask, error)
}

// Store says where the pictures of the database's installation are.
type Store struct {
	// Open opens the picture store, and returns false if this host has none, or nothing is in it; see picture.OpenExisting.
	Open  func(ctx context.Context, i store.Installation) (*picture.Store, bool, error)
	Tasks Tasks
}

// open opens the picture store; exists is false if this host has none.
func (s Store) open(ctx context.Context) (pictures *picture.Store, installation store.Installation, exists bool, err error) {
	if installation, err = s.Tasks.Installation(ctx); err != nil {
		return nil, installation, false, err
	}
	pictures, exists, err = s.Open(ctx, installation)
	return pictures, installation, exists, err
}

// KeepFor is the age of pictures, and the time since their tasks were closed, before which nothing is removed.
const KeepFor = 24 * time.Hour

// lookUp returns the tasks of some pictures, by their id.
func (s Store) lookUp(ctx context.Context, entries []picture.Entry) (map[string]store.PictureTask, error) {
	seen := map[string]bool{}
	var ids []string
	for _, e := range entries {
		if e.TaskID != "" && !seen[e.TaskID] {
			seen[e.TaskID] = true
			ids = append(ids, e.TaskID)
		}
	}
	found, err := s.Tasks.PictureTasks(ctx, ids, KeepFor)
	if err != nil {
		return nil, err
	}
	tasks := make(map[string]store.PictureTask, len(found))
	for _, t := range found {
		tasks[t.TaskID] = t
	}
	return tasks, nil
}

// isUnused reports whether a task says that a picture is not its own. has reports whether the store has a file.
func isUnused(e picture.Entry, t store.PictureTask, has func(name string) bool) bool {
	switch {
	case !t.ClosedFor, t.TaskID != e.TaskID:
		return false
	case e.Run > t.Run:
		return false // the row is older than the picture: a backup was restored
	case t.ImageURL == "":
		// A completed task without a URL says nothing about its picture, unless it was to be forgotten.
		return t.Forgotten || t.State == task.Failed || t.State == task.Cancelled
	case strings.Contains(t.ImageURL, e.Name):
		return false
	case !strings.Contains(t.ImageURL, e.Stem()):
		return true
	}
	// The URL names the run's picture in another format. A service that converts pictures may have made it of this one.
	for _, name := range e.OtherFormats() {
		if strings.Contains(t.ImageURL, name) && has(name) {
			return true
		}
	}
	return false
}
