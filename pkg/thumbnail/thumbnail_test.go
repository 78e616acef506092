package thumbnail

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/picture"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// memory is a picture store with one picture for each task.
type memory struct {
	content map[string][]byte
	reads   atomic.Int32
	open    func([]byte) io.ReadCloser
}

func (m *memory) Task(_ context.Context, id string) (store.TaskRow, error) {
	switch id {
	case "unknown":
		return store.TaskRow{}, task.ErrNotFound
	case "pending":
		return store.TaskRow{ID: id, Run: 1, State: task.Pending}, nil
	}
	return store.TaskRow{ID: id, Run: 2, State: task.Completed}, nil
}

func (m *memory) Find(_ context.Context, id string, run int) (picture.Picture, bool, error) {
	content, found := m.content[id]
	return picture.Picture{Name: id, Bytes: int64(len(content))}, found && run == 2, nil
}

func (m *memory) Get(_ context.Context, name string) (io.ReadCloser, error) {
	m.reads.Add(1)
	if m.open != nil {
		return m.open(m.content[name]), nil
	}
	return io.NopCloser(bytes.NewReader(m.content[name])), nil
}

func (m *memory) generator() *Generator {
	return New(m, func(context.Context) (Pictures, error) { return m, nil })
}

func encoded(t *testing.T, width, height int, c color.Color) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, width, height))
	for i := 0; i < width*height; i++ {
		img.Set(i%width, i/width, c)
	}
	var out bytes.Buffer
	require.NoError(t, png.Encode(&out, img))
	return out.Bytes()
}

// bomb is a PNG of a few bytes that says it has many pixels.
func bomb(width, height uint32) []byte {
	header := make([]byte, 13)
	binary.BigEndian.PutUint32(header, width)
	binary.BigEndian.PutUint32(header[4:], height)
	header[8], header[9] = 8, 6
	chunk := append([]byte("IHDR"), header...)
	out := append([]byte("\x89PNG\r\n\x1a\n"), 0, 0, 0, 13)
	out = append(out, chunk...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(chunk))
}

func TestThumbnail(t *testing.T) {
	m := &memory{content: map[string][]byte{"wide": encoded(t, 1000, 500, color.NRGBA{200, 20, 20, 255}), "small": encoded(t, 20, 10, color.NRGBA{}),
		"line": encoded(t, 3000, 2, color.Black)}}
	generator := m.generator()
	for id, want := range map[string]image.Point{"wide": {256, 128}, "small": {20, 10}, "line": {256, 1}} {
		made, err := generator.Thumbnail(t.Context(), id)
		require.NoError(t, err, id)
		img, err := jpeg.Decode(bytes.NewReader(made))
		require.NoError(t, err)
		assert.Equal(t, want, img.Bounds().Size(), id)
		red, green, _, _ := img.At(0, 0).RGBA()
		switch id {
		case "wide":
			assert.InDelta(t, 200, int(red>>8), 10)
			assert.InDelta(t, 20, int(green>>8), 10)
		case "small":
			assert.Greater(t, green>>8, uint32(250), "transparent pixels are white")
		}
	}
	for range 5 {
		_, err := generator.Thumbnail(t.Context(), "wide")
		require.NoError(t, err)
	}
	assert.EqualValues(t, 3, m.reads.Load(), "each is read once")
}

func TestThumbnail_WhatCanNotBeDecoded(t *testing.T) {
	m := &memory{content: map[string][]byte{"text": []byte("no picture"), "empty": {}, "cut": encoded(t, 300, 300, color.Black)[:60],
		"bomb": bomb(100_000, 100_000), "long": bomb(1<<31-1, 1), "no pixels": bomb(0, 0)}}
	generator := m.generator()
	for _, id := range []string{"text", "empty", "cut", "bomb", "long", "no pixels", "unknown", "pending", "missing"} {
		_, err := generator.Thumbnail(t.Context(), id)
		assert.ErrorIs(t, err, ErrNone, id)
	}
	none := New(m, func(context.Context) (Pictures, error) { return nil, nil })
	_, err := none.Thumbnail(t.Context(), "text")
	require.ErrorIs(t, err, ErrNone)
	broken := New(m, func(context.Context) (Pictures, error) { return nil, errors.New("away") })
	_, err = broken.Thumbnail(t.Context(), "text")
	assert.ErrorContains(t, err, "away")
}

// silent is a body that sends nothing until it is closed.
type silent struct {
	closed chan struct{}
	once   sync.Once
}

func (s *silent) Read([]byte) (int, error) { <-s.closed; return 0, errors.New("closed") }

func (s *silent) Close() error { s.once.Do(func() { close(s.closed) }); return nil }

// A store that sends nothing, or without end, holds back the next thumbnail for a bounded time.
func TestThumbnail_BodyWithoutEnd(t *testing.T) {
	m := &memory{content: map[string][]byte{"a": encoded(t, 10, 10, color.Black)}}
	generator := m.generator()
	m.open = func([]byte) io.ReadCloser { return &silent{closed: make(chan struct{})} }
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := generator.Thumbnail(ctx, "a")
	require.Error(t, err)
	m.open = func(content []byte) io.ReadCloser {
		return io.NopCloser(io.MultiReader(bytes.NewReader(content), endless{}))
	}
	_, err = generator.Thumbnail(t.Context(), "a")
	require.ErrorIs(t, err, ErrNone)
	m.open = nil
	_, err = generator.Thumbnail(t.Context(), "a")
	assert.NoError(t, err)
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestThumbnail_BoundedMemory(t *testing.T) {
	m := &memory{content: map[string][]byte{}}
	generator := m.generator()
	content := encoded(t, 4, 4, color.Black)
	var asking sync.WaitGroup
	for i := range 3 * kept {
		m.content[fmt.Sprint(i)] = content
	}
	for i := range 3 * kept {
		asking.Go(func() {
			_, err := generator.Thumbnail(t.Context(), fmt.Sprint(i))
			assert.NoError(t, err)
		})
	}
	asking.Wait()
	assert.Len(t, generator.made, kept)
	assert.Len(t, generator.oldest, kept)
}
