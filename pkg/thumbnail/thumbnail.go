// Package thumbnail makes small copies of tasks' pictures for the status page. What is decoded is bounded, because pictures come from outside: their
// bytes, their pixels, how many are decoded at once, and the time that reading may take.
package thumbnail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	_ "image/png"
	"io"
	"sync"
	"time"

	"golang.org/x/image/draw"
	_ "golang.org/x/image/webp"

	"imagetasks/pkg/picture"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// Size is the longest side of a thumbnail in pixels.
const Size = 256

const (
	maxBytes  = 64 << 20
	maxPixels = 20_000_000 // 80 MB while it is decoded
	// readTimeout bounds the wait for the picture store and for others that are being decoded.
	readTimeout = 10 * time.Second
	quality     = 80
	kept        = 64 // thumbnails in memory, of about 10 KB
)

// ErrNone means that a task has no picture that a thumbnail can be made of.
var ErrNone = errors.New("there is no picture")

// Tasks finds tasks.
type Tasks interface {
	Task(ctx context.Context, id string) (store.TaskRow, error)
}

// Pictures finds and reads pictures. *picture.Store does.
type Pictures interface {
	Find(ctx context.Context, taskID string, run int) (p picture.Picture, found bool, err error)
	Get(ctx context.Context, name string) (io.ReadCloser, error)
}

// Generator makes thumbnails. It is safe for concurrent use.
type Generator struct {
	tasks    Tasks
	pictures func(ctx context.Context) (Pictures, error)
	decoding chan struct{} // holds one

	mu     sync.Mutex
	made   map[string][]byte // by task and run
	oldest []string          // of made
}

// New returns a Generator. pictures opens the picture store; an error or nil: there is none.
func New(tasks Tasks, pictures func(ctx context.Context) (Pictures, error)) *Generator {
	return &Generator{tasks: tasks, pictures: pictures, decoding: make(chan struct{}, 1), made: map[string][]byte{}}
}

// Thumbnail returns a JPEG of the picture of a completed task. Its errors wrap ErrNone where there is none.
func (g *Generator) Thumbnail(ctx context.Context, taskID string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	t, err := g.tasks.Task(ctx, taskID)
	if errors.Is(err, task.ErrNotFound) || err == nil && t.State != task.Completed {
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%s %d", taskID, t.Run)
	if made := g.find(key); made != nil {
		return made, nil
	}
	select {
	case g.decoding <- struct{}{}:
		defer func() { <-g.decoding }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if made := g.find(key); made != nil {
		return made, nil
	}
	content, err := g.read(ctx, t)
	if err != nil {
		return nil, err
	}
	made, err := shrink(content)
	if err != nil {
		return nil, err
	}
	g.keep(key, made)
	return made, nil
}

func (g *Generator) find(key string) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.made[key]
}

func (g *Generator) keep(key string, made []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.oldest) >= kept {
		delete(g.made, g.oldest[0])
		g.oldest = g.oldest[1:]
	}
	g.made[key] = made
	g.oldest = append(g.oldest, key)
}

func (g *Generator) read(ctx context.Context, t store.TaskRow) ([]byte, error) {
	pictures, err := g.pictures(ctx)
	if err != nil {
		return nil, err
	}
	if pictures == nil {
		return nil, ErrNone
	}
	p, found, err := pictures.Find(ctx, t.ID, t.Run)
	switch {
	case err != nil:
		return nil, err
	case !found || p.Bytes > maxBytes:
		return nil, ErrNone
	}
	r, err := pictures.Get(ctx, p.Name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	defer stop()
	content, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err == nil && len(content) > maxBytes {
		err = ErrNone
	}
	return content, err
}

// shrink returns a small JPEG of a picture.
func shrink(content []byte) ([]byte, error) {
	conf, _, err := image.DecodeConfig(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	if conf.Width < 1 || conf.Height < 1 || conf.Width > maxPixels/conf.Height {
		return nil, fmt.Errorf("%w of at most %d pixels: it has %d x %d", ErrNone, maxPixels, conf.Width, conf.Height)
	}
	full, _, err := image.Decode(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	width, height := conf.Width, conf.Height
	if longest := max(width, height); longest > Size {
		width, height = max(width*Size/longest, 1), max(height*Size/longest, 1)
	}
	small := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.Draw(small, small.Bounds(), image.NewUniform(color.White), image.Point{}, draw.Src) // JPEG knows no transparency
	draw.BiLinear.Scale(small, small.Bounds(), full, full.Bounds(), draw.Over, nil)
	var out bytes.Buffer
	err = jpeg.Encode(&out, small, &jpeg.Options{Quality: quality})
	return out.Bytes(), err
}
