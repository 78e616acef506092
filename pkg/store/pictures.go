package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/lib/pq"

	"imagetasks/pkg/task"
)

// PictureTask is what a task says about its picture.
type PictureTask struct {
	TaskID    string
	Run       int
	State     task.State
	ImageURL  string
	Forgotten bool // by users forget
	// ClosedFor reports whether it has been closed for the asked time, by the database's clock.
	ClosedFor bool
}

// PictureTasks returns those of the tasks that exist, and whether they have been closed for longer than age.
func (s *Store) PictureTasks(ctx context.Context, ids []string, age time.Duration) ([]PictureTask, error) {
	var out []PictureTask
	err := s.query(ctx, s.sql.pictureTasks, func(rows *sql.Rows) error {
		var t PictureTask
		err := rows.Scan(&t.TaskID, &t.Run, &t.State, &t.ImageURL, &t.Forgotten, &t.ClosedFor)
		out = append(out, t)
		return err
	}, pq.Array(ids), age.Milliseconds())
	return out, err
}

// MovedPicture is a picture that has another URL from now on.
type MovedPicture struct {
	TaskID string
	Name   string // which the old URL contains
	URL    string
}

// MovePictures gives completed tasks the new URLs of their pictures. It returns, by the id of each task that has it now, whether the application has
// a row of the task, which is not changed.
func (s *Store) MovePictures(ctx context.Context, pictures []MovedPicture) (bridged map[string]bool, err error) {
	var ids, urls, names []string
	for _, p := range pictures {
		ids, urls, names = append(ids, p.TaskID), append(urls, p.URL), append(names, p.Name)
	}
	bridged = map[string]bool{}
	err = s.query(ctx, s.sql.movePictures, func(rows *sql.Rows) error {
		var id string
		var isBridged bool
		err := rows.Scan(&id, &isBridged)
		bridged[id] = isBridged
		return err
	}, pq.Array(ids), pq.Array(urls), pq.Array(names))
	return bridged, err
}
