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
	maxPixels = 20_000_000
	maxMemory = 100 << 20 // that decoding takes
	// readTimeout bounds the wait for the picture store and for others that are being decoded, and decoding.
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
	made, err := shrink(ctx, content)
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

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

const partSize = 512

// until reads content in small parts until ctx ends: of some formats a few bytes are much work.
func until(ctx context.Context, content []byte) io.Reader {
	from := bytes.NewReader(content)
	return readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return from.Read(p[:min(len(p), partSize)])
	})
}

// bytesPerPixel returns about how much memory decoding takes, at most.
func bytesPerPixel(content []byte, format string, conf image.Config) int {
	n := 4
	switch format {
	case "jpeg":
		if isProgressive(content) { // all coefficients are in memory at once
			n = 20
		}
	case "png":
		if conf.ColorModel == color.NRGBA64Model || conf.ColorModel == color.RGBA64Model {
			n *= 2
		}
		if len(content) > 28 && content[28] != 0 { // interlaced
			n *= 2
		}
	}
	return n
}

// isProgressive reports whether a JPEG has a frame of that kind: its markers are followed until a frame begins.
func isProgressive(content []byte) bool {
	for i := 2; i+3 < len(content); {
		switch marker := content[i+1]; {
		case content[i] != 0xff:
			i++ // decoders skip what stands between segments
		case marker == 0xff || marker == 0 || marker >= 0xd0 && marker <= 0xd7:
			i++
		case marker == 0xc0 || marker == 0xc1:
			return false
		case marker == 0xc2:
			return true
		default:
			i += 2 + int(content[i+2])<<8 + int(content[i+3])
		}
	}
	return false
}

// shrink returns a small JPEG of a picture.
func shrink(ctx context.Context, content []byte) ([]byte, error) {
	conf, format, err := image.DecodeConfig(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	if most := min(maxPixels, maxMemory/bytesPerPixel(content, format, conf)); conf.Width < 1 || conf.Height < 1 || conf.Width > most/conf.Height {
		return nil, fmt.Errorf("%w of at most %d pixels: it has %d x %d", ErrNone, most, conf.Width, conf.Height)
	}
	full, _, err := image.Decode(until(ctx, content))
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
