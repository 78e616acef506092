package picture_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/task"
)

// installation and secret identify the installation of most tests.
const installation = "0f3a1b2c-4d5e-4f60-8123-456789abcdef"

var secret = []byte("a secret of thirty-two bytes....")

func config(dir string) picture.Config {
	return picture.Config{Dir: dir, BaseURL: "https://cdn.example/p/", MaxBytes: 1 << 20, Installation: installation, Secret: secret}
}

func openIn(t *testing.T, dir string) *picture.Store {
	t.Helper()
	s, err := picture.Open(config(dir))
	require.NoError(t, err)
	return s
}

func open(t *testing.T, maxBytes int64) *picture.Store {
	t.Helper()
	c := config(filepath.Join(t.TempDir(), "a", "b"))
	c.MaxBytes = maxBytes
	s, err := picture.Open(c)
	require.NoError(t, err)
	return s
}

func encode(t *testing.T, how func(io.Writer, image.Image) error) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, how(&b, image.NewNRGBA(image.Rect(0, 0, 40, 30))))
	return b.Bytes()
}

func pngBytes(t *testing.T) []byte { t.Helper(); return encode(t, png.Encode) }

func jpegBytes(t *testing.T) []byte {
	t.Helper()
	return encode(t, func(w io.Writer, m image.Image) error { return jpeg.Encode(w, m, nil) })
}

// webpBytes is a lossless WebP of one pixel.
func webpBytes(t *testing.T) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")
	require.NoError(t, err)
	return b
}

func publish(t *testing.T, s *picture.Store, taskID string, run int, content []byte) (picture.Picture, error) {
	t.Helper()
	d, err := s.Create()
	require.NoError(t, err)
	defer func() { assert.NoError(t, d.Discard()) }()
	if _, err := d.Write(content); err != nil {
		return picture.Picture{}, err
	}
	return d.Publish(t.Context(), taskID, run, nil)
}

// names returns the names of the pictures and of the drafts.
func names(t *testing.T, s *picture.Store) []string {
	t.Helper()
	var out []string
	for _, dir := range []string{s.Dir(), filepath.Join(s.Dir(), ".drafts")} {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range entries {
			if e.Name() != markerName && !e.IsDir() {
				out = append(out, e.Name())
			}
		}
	}
	return out
}

const markerName = "imagetasks-installation.json"

func TestPublish_NamesAndFormats(t *testing.T) {
	s := open(t, 1<<20)
	for format, content := range map[string][]byte{"png": pngBytes(t), "jpeg": jpegBytes(t), "webp": webpBytes(t)} {
		p, err := publish(t, s, "0193-"+format, 2, content)
		require.NoError(t, err, format)
		assert.Equal(t, format, p.Format)
		assert.Regexp(t, "^0193-"+format+"-2-[a-z2-7]{26}[.](png|jpg|webp)$", p.Name)
		assert.Equal(t, "https://cdn.example/p/0f3a1b2c4d5e/"+p.Name, p.URL)
		assert.Equal(t, filepath.Join(s.Dir(), p.Name), p.Path)
		assert.EqualValues(t, len(content), p.Bytes)
		assert.Positive(t, p.Width)
		stored, err := os.ReadFile(p.Path)
		require.NoError(t, err)
		assert.Equal(t, content, stored)
		info, err := os.Stat(p.Path)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o644), info.Mode().Perm())
	}
	assert.Len(t, names(t, s), 3, "no draft remains")
}

func TestPublish_RefusesIncompletePictures(t *testing.T) {
	s := open(t, 1<<20)
	var animated bytes.Buffer
	require.NoError(t, gif.Encode(&animated, image.NewPaletted(image.Rect(0, 0, 2, 2), color.Palette{color.Black}), nil))
	p, j, w := pngBytes(t), jpegBytes(t), webpBytes(t)
	for name, content := range map[string][]byte{
		"empty":           {},
		"text":            []byte("<html>no</html>"),
		"a gif":           animated.Bytes(),
		"incomplete png":  p[:len(p)-5],
		"incomplete jpeg": j[:len(j)-2],
		"incomplete webp": w[:len(w)-2],
		"header of a png": p[:8],
		"riff, not webp":  []byte("RIFF\x04\x00\x00\x00WAVE"),
		"forged size":     forgedSize(p),
	} {
		_, err := publish(t, s, "x", 1, content)
		require.Error(t, err, name)
		assert.Equal(t, task.CodeNotAPicture, task.AsError(err).Code, name)
		assert.Equal(t, task.Fail, task.AsError(err).Disposition, name)
	}
	assert.Empty(t, names(t, s))
}

// forgedSize returns a PNG whose header has 2^31-1 pixels each way.
func forgedSize(p []byte) []byte {
	b := bytes.Clone(p)
	binary.BigEndian.PutUint32(b[16:], 1<<31-1)
	binary.BigEndian.PutUint32(b[20:], 1<<31-1)
	binary.BigEndian.PutUint32(b[29:], crc32.ChecksumIEEE(b[12:29]))
	return b
}

func TestWrite_MaxBytes(t *testing.T) {
	s := open(t, 100)
	d, err := s.Create()
	require.NoError(t, err)
	_, err = d.Write(make([]byte, 100))
	require.NoError(t, err)
	_, err = d.Write([]byte{0})
	require.Error(t, err)
	assert.Equal(t, task.CodeTooLarge, task.AsError(err).Code)
	require.NoError(t, d.Discard())
	require.NoError(t, d.Discard(), "the second call does nothing")
	assert.Empty(t, names(t, s))
}

func TestOpen_RemovesAbandonedDrafts(t *testing.T) {
	s := openIn(t, t.TempDir())
	inUse, err := s.Create()
	require.NoError(t, err)
	abandoned, other := filepath.Join(s.Dir(), ".drafts", ".draft-1"), filepath.Join(s.Dir(), "a-1.png")
	elsewhere := filepath.Join(filepath.Dir(s.Dir()), ".draft-2")
	for _, path := range []string{abandoned, other, elsewhere} {
		require.NoError(t, os.WriteFile(path, nil, 0o600))
	}
	openIn(t, filepath.Dir(s.Dir()))
	assert.NoFileExists(t, abandoned)
	assert.FileExists(t, other)
	assert.FileExists(t, elsewhere, "it is not in the directory of the installation")
	assert.Len(t, names(t, s), 2, "the draft in use and the other file")
	require.NoError(t, inUse.Discard())
	assert.Len(t, names(t, s), 1)
}

func TestOpen_NotWritable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	_, err := picture.Open(config(path))
	assert.ErrorContains(t, err, "picture store")
}

func TestCreate_DirectoryMissing(t *testing.T) {
	s := open(t, 1<<20)
	require.NoError(t, os.RemoveAll(s.Dir()))
	_, err := s.Create()
	require.Error(t, err)
	assert.Equal(t, task.Pause, task.AsError(err).Disposition)
}

func FuzzPublish(f *testing.F) {
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewNRGBA(image.Rect(0, 0, 2, 2))); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte("\xff\xd8\xff\xd9"))
	f.Add([]byte("RIFF\x00\x00\x00\x00WEBPVP8 "))
	s, err := picture.Open(config(f.TempDir()))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := publish(t, s, "x", 1, content)
		if err == nil {
			assert.Positive(t, p.Width*p.Height)
			n, err := s.RemoveRuns(t.Context(), "x", 1)
			assert.NoError(t, err)
			assert.Equal(t, 1, n)
		}
	})
}

// Processors that start remove abandoned drafts, and never the draft of a running processor.
func TestOpen_KeepsDraftsInUse(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir)
	content := simapi.Draw("x")
	stop := make(chan struct{})
	var starts sync.WaitGroup
	for range 3 {
		starts.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_, err := picture.Open(config(dir))
					assert.NoError(t, err)
				}
			}
		})
	}
	for i := range 300 {
		d, err := s.Create()
		require.NoError(t, err)
		_, err = d.Write(content)
		require.NoError(t, err)
		if i%3 == 0 {
			require.NoError(t, d.Discard())
			continue
		}
		_, err = d.Publish(t.Context(), fmt.Sprint("t", i), 1, nil)
		require.NoError(t, err)
	}
	close(stop)
	starts.Wait()
	assert.Len(t, names(t, s), 200)
}
