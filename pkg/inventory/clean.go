package inventory

import (
	"context"
	"errors"
	"hash/fnv"
	"time"

	"imagetasks/pkg/picture"
)

const (
	// CleanInterval is the time between two cleanings.
	CleanInterval = 24 * time.Hour
	// cleanTime bounds one call of Clean.
	cleanTime = 30 * time.Second
	// maxParts bounds the parts that a store is cleaned in.
	maxParts = 1024
)

// Progress is how far the cleaning of a host's picture store is. A store that is too large for one pass is cleaned in parts, by the
// hash of the names.
type Progress struct {
	CleanedAt time.Time `json:"cleaned_at,omitzero"` // the last time that all parts were done
	Parts     uint64    `json:"parts,omitempty"`
	Done      uint64    `json:"done,omitempty"` // parts, from the first
}

// Due reports whether a cleaning is to begin or to go on.
func (p Progress) Due(now time.Time) bool {
	age := now.Sub(p.CleanedAt)
	return p.Done > 0 || age >= CleanInterval || age < 0
}

// Cleaned is what a call of Clean did.
type Cleaned struct {
	Checked int   `json:"checked"` // pictures whose tasks were looked up
	Removed int   `json:"removed"`
	Bytes   int64 `json:"bytes"` // of the removed
	// Skipped means that nothing may be removed, because the database is a copy of another one.
	Skipped bool `json:"skipped,omitempty"`
}

// Clean removes what was rejected more than a day ago, and pictures of this installation that are older than a day and whose tasks have been closed for more than a day and say
// that they are not theirs. Pictures without a task stay, and everything does if the database is a copy. It works for at most
// half a minute, and returns what the next call needs to go on.
func (s Store) Clean(ctx context.Context, p Progress) (Progress, Cleaned, error) {
	var c Cleaned
	now := time.Now()
	pictures, installation, exists, err := s.open(ctx)
	if err != nil {
		return p, c, err
	}
	if !exists || installation.Copied {
		c.Skipped = exists
		return Progress{CleanedAt: now}, c, nil
	}
	if _, err := pictures.CleanRejected(now); err != nil {
		return p, c, err
	}
	if err := s.cleanSpool(ctx, pictures, &c); err != nil {
		return p, c, err
	}
	p.Parts = min(max(p.Parts, 1), maxParts)
	for first := true; p.Done < p.Parts; first = false {
		finished, err := s.cleanPart(ctx, pictures, p, now.Add(cleanTime), &c)
		if err != nil {
			return p, c, err
		}
		if !finished {
			if first && p.Parts < maxParts { // one part takes longer than a pass
				p.Parts, p.Done = 2*p.Parts, 2*p.Done
			}
			return p, c, nil
		}
		p.Done++
	}
	return Progress{CleanedAt: now, Parts: p.Parts / 2}, c, nil
}

// cleanSpool removes from this host's spool, if the store has one, what the store has, and what no task uses.
func (s Store) cleanSpool(ctx context.Context, pictures *picture.Store, c *Cleaned) error {
	waiting := pictures.Spooled()
	if waiting == nil {
		return nil
	}
	if _, err := pictures.DropUploaded(ctx); err != nil {
		return err
	}
	_, err := s.cleanPart(ctx, waiting, Progress{Parts: 1}, time.Now().Add(cleanTime), c)
	return err
}

// errTimeUp ends a listing.
var errTimeUp = errors.New("the time is up")

// cleanPart cleans the part after those that are done, and reports whether it had the time for all of it.
func (s Store) cleanPart(ctx context.Context, pictures *picture.Store, p Progress, until time.Time, c *Cleaned) (bool, error) {
	_, err := pictures.List(ctx, func(entries []picture.Entry) error {
		if time.Now().After(until) {
			return errTimeUp
		}
		var chosen []picture.Entry
		for _, e := range entries {
			if e.TaskID != "" && partOf(e.Name, p.Parts) == p.Done {
				chosen = append(chosen, e)
			}
		}
		c.Checked += len(chosen)
		return s.cleanBatch(ctx, pictures, chosen, c)
	})
	if errors.Is(err, errTimeUp) {
		return false, nil
	}
	return err == nil, err
}

// partOf returns the part of a name. When the number of parts is doubled, part n becomes the parts 2n and 2n+1.
func partOf(name string, parts uint64) uint64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return uint64(h.Sum32()) * parts >> 32
}

// cleanBatch removes what is not used of some pictures. The tasks of these are looked up again right before.
func (s Store) cleanBatch(ctx context.Context, pictures *picture.Store, entries []picture.Entry, c *Cleaned) error {
	has := func(name string) bool {
		_, ok, err := pictures.Stat(ctx, name)
		return ok && err == nil
	}
	for range 2 {
		if len(entries) == 0 {
			return nil
		}
		tasks, err := s.lookUp(ctx, entries)
		if err != nil {
			return err
		}
		var unused []picture.Entry
		for _, e := range entries {
			if isUnused(e, tasks[e.TaskID], has) {
				unused = append(unused, e)
			}
		}
		entries = unused
	}
	var errs []error
	for _, e := range entries {
		info, ok, err := pictures.Stat(ctx, e.Name)
		if ok && time.Since(info.ModifiedAt) > KeepFor {
			if ok, err = pictures.Remove(ctx, e); ok {
				c.Removed++
				c.Bytes += info.Bytes
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
