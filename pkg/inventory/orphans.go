package inventory

import (
	"context"
	"time"

	"imagetasks/pkg/picture"
)

// Orphan is a picture whose task is not in the database.
type Orphan struct {
	File       string    `json:"file"`
	TaskID     string    `json:"task_id"`
	Run        int       `json:"run"`
	Bytes      int64     `json:"bytes"`
	ModifiedAt time.Time `json:"modified_at"`
}

// Totals counts the files of a picture store.
type Totals struct {
	Dir          string `json:"directory"` // of the installation; of an object store its URL
	Exists       bool   `json:"exists"`    // false: this host has no pictures of the installation
	Pictures     int    `json:"pictures"`  // of the installation, those without a task included
	Orphans      int    `json:"orphans"`   // those whose task is not in the database
	OrphanBytes  int64  `json:"orphan_bytes"`
	Unidentified int    `json:"unidentified"` // pictures whose task's id is too long for a file name
	Others       int    `json:"others"`       // files that are no pictures of the installation
}

// Orphans calls found with each picture whose task is not in the database, in no order. It changes nothing.
func (s Store) Orphans(ctx context.Context, found func(Orphan)) (Totals, error) {
	var t Totals
	pictures, _, exists, err := s.open(ctx)
	if err != nil {
		return t, err
	}
	t.Dir, t.Exists = pictures.Location(), exists
	if !exists {
		return t, nil
	}
	t.Others, err = pictures.List(ctx, func(entries []picture.Entry) error {
		tasks, err := s.lookUp(ctx, entries)
		if err != nil {
			return err
		}
		t.Pictures += len(entries)
		for _, e := range entries {
			if e.TaskID == "" {
				t.Unidentified++
				continue
			}
			if _, ok := tasks[e.TaskID]; ok {
				continue
			}
			info, ok, err := pictures.Stat(ctx, e.Name)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			t.Orphans++
			t.OrphanBytes += info.Bytes
			found(Orphan{File: e.Name, TaskID: e.TaskID, Run: e.Run, Bytes: info.Bytes, ModifiedAt: info.ModifiedAt})
		}
		return nil
	})
	return t, err
}
