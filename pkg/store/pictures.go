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
