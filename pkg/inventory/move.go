package inventory

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"imagetasks/pkg/picture"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// MoveTasks is what a Mover needs of the database.
type MoveTasks interface {
	Tasks
	MovePictures(ctx context.Context, pictures []store.MovedPicture) (bridged map[string]bool, err error)
}

// Mover copies the pictures of an installation from one store to another, and gives their tasks the new URLs. It may be interrupted and run again,
// and processors may work meanwhile: a task gets the new URL when its picture is there, and the old one works until the source is deleted.
type Mover struct {
	From, To *picture.Store
	Tasks    MoveTasks
	// DeleteSource removes a picture from the source when its copy was verified and nothing that is known uses the old URL.
	DeleteSource bool
	Progress     func(Moved) // called after each picture; optional
}

// Moved is what a Mover did.
type Moved struct {
	Pictures    int   `json:"pictures"` // of the source, so far
	Copied      int   `json:"copied"`
	CopiedBytes int64 `json:"copied_bytes"`
	Present     int   `json:"present"`   // that the destination had, with the same content
	Linked      int   `json:"linked"`    // whose completed task has the new URL
	Bridged     int   `json:"bridged"`   // of them, those that the application has a row of, which keeps the old URL
	Different   int   `json:"different"` // that the destination has with another content
	Damaged     int   `json:"damaged"`   // that are no complete pictures
	Deleted     int   `json:"deleted"`   // in the source
	Kept        int   `json:"kept"`      // in the source, though it was to be deleted: the old URL may be in use
}

// IsComplete reports whether all pictures of the source are in the destination.
func (m Moved) IsComplete() bool { return m.Different == 0 && m.Damaged == 0 }

// check compares the ids of the stores: one store may have several names, and its pictures would be their own copies.
func (m Mover) check() error {
	if id := m.From.ID(); id == "" || id != m.To.ID() {
		return nil
	}
	return fmt.Errorf("%s and %s are the same store, or a copy that was made together with its id: name another store, or remove \"store\" from imagetasks-installation.json in the copy",
		m.From.Location(), m.To.Location())
}

// linkBatch is how many tasks are changed in one statement.
const linkBatch = 100

// Plan counts what Move would do. It changes nothing, and compares sizes only.
func (m Mover) Plan(ctx context.Context) (Moved, error) {
	var moved Moved
	if err := m.check(); err != nil {
		return moved, err
	}
	_, err := m.From.List(ctx, func(entries []picture.Entry) error {
		for _, e := range entries {
			from, ok, err := m.From.Stat(ctx, e.Name)
			if err != nil || !ok {
				return err
			}
			to, there, err := m.To.Stat(ctx, e.Name)
			if err != nil {
				return err
			}
			moved.Pictures++
			switch {
			case !there:
				moved.Copied++
				moved.CopiedBytes += from.Bytes
			case to.Bytes == from.Bytes:
				moved.Present++
			default:
				moved.Different++
			}
		}
		return nil
	})
	return moved, err
}

// Move copies, links and, if it is set, deletes.
func (m Mover) Move(ctx context.Context) (Moved, error) {
	var moved Moved
	if err := m.check(); err != nil {
		return moved, err
	}
	_, err := m.From.List(ctx, func(entries []picture.Entry) error {
		for batch := range slices.Chunk(entries, linkBatch) {
			if err := m.moveBatch(ctx, batch, &moved); err != nil {
				return err
			}
		}
		return nil
	})
	return moved, err
}

func (m Mover) moveBatch(ctx context.Context, entries []picture.Entry, moved *Moved) error {
	var copied []picture.Entry
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		ok, err := m.copyOne(ctx, e, moved)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		if ok {
			copied = append(copied, e)
		}
		if m.Progress != nil {
			m.Progress(*moved)
		}
	}
	links, err := m.link(ctx, copied)
	if err != nil {
		return err
	}
	for _, isBridged := range links {
		moved.Linked++
		if isBridged {
			moved.Bridged++
		}
	}
	if !m.DeleteSource {
		return nil
	}
	return m.deleteSource(ctx, copied, links, moved)
}

// copyOne copies a picture, unless it is there, and reports whether the destination has it.
func (m Mover) copyOne(ctx context.Context, e picture.Entry, moved *Moved) (bool, error) {
	from, ok, err := m.From.Stat(ctx, e.Name)
	if err != nil || !ok {
		return false, err // it was removed in between
	}
	moved.Pictures++
	_, there, err := m.To.Stat(ctx, e.Name)
	if err != nil {
		return false, err
	}
	if !there {
		err := m.To.Import(ctx, e.Name, func(w io.Writer) error {
			r, err := m.From.Get(ctx, e.Name)
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(w, r)
			return err
		})
		if failed, ok := errors.AsType[*task.Error](err); ok && failed.Code == task.CodeNotAPicture {
			moved.Damaged++
			return false, nil
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return false, err
		}
	}
	same, err := m.same(ctx, e.Name, from)
	switch {
	case err != nil:
		return false, err
	case !same:
		moved.Different++
		return false, nil
	case there:
		moved.Present++
	default:
		moved.Copied++
		moved.CopiedBytes += from.Bytes
	}
	return true, nil
}

// same reports whether both stores have the same content under a name, by checksums.
func (m Mover) same(ctx context.Context, name string, from picture.Info) (bool, error) {
	to, ok, err := m.To.Stat(ctx, name)
	if err != nil || !ok || to.Bytes != from.Bytes {
		return false, err
	}
	sums := [2]string{from.MD5, to.MD5}
	stores := [2]*picture.Store{m.From, m.To}
	for i := range sums {
		if sums[i] == "" {
			if sums[i], err = contentSum(ctx, stores[i], name); err != nil {
				return false, err
			}
		}
	}
	if sums[0] == sums[1] {
		return true, nil
	}
	// What a server says may be the checksum of something else, such as the encrypted content.
	for i := range sums {
		if sums[i], err = contentSum(ctx, stores[i], name); err != nil {
			return false, err
		}
	}
	return sums[0] == sums[1], nil
}

func contentSum(ctx context.Context, s *picture.Store, name string) (string, error) {
	r, err := s.Get(ctx, name)
	if err != nil {
		return "", err
	}
	defer r.Close()
	sum := md5.New()
	if _, err := io.Copy(sum, r); err != nil {
		return "", fmt.Errorf("picture store: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// link gives the tasks of pictures the URLs of the destination.
func (m Mover) link(ctx context.Context, entries []picture.Entry) (bridged map[string]bool, err error) {
	var pictures []store.MovedPicture
	for _, e := range entries {
		if e.TaskID != "" {
			pictures = append(pictures, store.MovedPicture{TaskID: e.TaskID, Name: e.Name, URL: m.To.URL(e.Name)})
		}
	}
	if len(pictures) == 0 {
		return nil, nil
	}
	return m.Tasks.MovePictures(ctx, pictures)
}

// deleteSource removes the pictures of the source whose copies were verified, and whose old URL nothing uses that is known: not those of an
// application's own rows, of tasks that are not closed, and of tasks whose id is too long for a name.
func (m Mover) deleteSource(ctx context.Context, entries []picture.Entry, bridged map[string]bool, moved *Moved) error {
	tasks, err := (Store{Tasks: m.Tasks}).lookUp(ctx, entries)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, ok, err := m.From.Stat(ctx, e.Name)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if !m.isFree(e, tasks[e.TaskID], bridged, info) {
			moved.Kept++
			continue
		}
		if ok, err = m.From.Remove(ctx, e); err != nil {
			return err
		}
		if ok {
			moved.Deleted++
		}
	}
	return nil
}

// isFree reports whether nothing that is known uses the old URL of a picture.
func (m Mover) isFree(e picture.Entry, t store.PictureTask, bridged map[string]bool, info picture.Info) bool {
	sameURL := m.From.URL(e.Name) == m.To.URL(e.Name)
	isBridged, linked := bridged[e.TaskID]
	switch {
	case e.TaskID == "":
		return false
	case linked && strings.Contains(t.ImageURL, e.Name):
		return sameURL || !isBridged
	case time.Since(info.ModifiedAt) < KeepFor:
		return false // its task may be about to complete
	case t.TaskID == "":
		return true
	}
	return t.ClosedFor && !strings.Contains(t.ImageURL, e.Name)
}
