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
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/task"
)

func open(t *testing.T, maxBytes int64) *picture.Store {
	t.Helper()
	s, err := picture.Open(filepath.Join(t.TempDir(), "a", "b"), "https://cdn.example/p/", maxBytes)
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

func publish(t *testing.T, s *picture.Store, l task.Lease, content []byte) (picture.Picture, error) {
	t.Helper()
	d, err := s.Create()
	require.NoError(t, err)
	defer func() { assert.NoError(t, d.Discard()) }()
	if _, err := d.Write(content); err != nil {
		return picture.Picture{}, err
	}
	return d.Publish(l)
}

func names(t *testing.T, s *picture.Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.Dir())
	require.NoError(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestPublish_NamesAndFormats(t *testing.T) {
	s := open(t, 1<<20)
	for format, content := range map[string][]byte{"png": pngBytes(t), "jpeg": jpegBytes(t), "webp": webpBytes(t)} {
		p, err := publish(t, s, task.Lease{TaskID: "0193-" + format, Epoch: 2}, content)
		require.NoError(t, err, format)
		assert.Equal(t, format, p.Format)
		assert.True(t, strings.HasPrefix(p.Name, "0193-"+format+"-2."), p.Name)
		assert.Equal(t, "https://cdn.example/p/"+p.Name, p.URL)
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
		_, err := publish(t, s, task.Lease{TaskID: "x", Epoch: 1}, content)
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

func TestPublish_UnsafeTaskIDs(t *testing.T) {
	s := open(t, 1<<20)
	seen := map[string]string{}
	for _, id := range []string{
		"plain", "../../etc/passwd", "a/b", "a-b", "a b", "A-b", "..", ".", "-rf", "\x00", "ü", "日本語",
		strings.Repeat("x", 5000), strings.Repeat("x", 5001), "con.png", ".draft-1",
	} {
		p, err := publish(t, s, task.Lease{TaskID: id, Epoch: 1}, pngBytes(t))
		require.NoError(t, err, "%q", id)
		assert.Equal(t, s.Dir(), filepath.Dir(p.Path))
		assert.Regexp(t, `^[a-z0-9][a-z0-9_-]*\.png$`, p.Name)
		assert.Empty(t, seen[p.Name], "%q and %q have the same name", id, seen[p.Name])
		seen[p.Name] = id
	}
}

func TestRemoveEarlier_OtherClaimsOfTheTask(t *testing.T) {
	s := open(t, 1<<20)
	early, err := publish(t, s, task.Lease{TaskID: "x", Epoch: 1}, jpegBytes(t))
	require.NoError(t, err)
	lost, err := publish(t, s, task.Lease{TaskID: "x", Epoch: 2}, pngBytes(t))
	require.NoError(t, err)
	other, err := publish(t, s, task.Lease{TaskID: "y", Epoch: 1}, pngBytes(t))
	require.NoError(t, err)
	require.NoError(t, s.Remove(lost))
	require.NoError(t, s.Remove(lost), "the second call does nothing")
	last, err := publish(t, s, task.Lease{TaskID: "x", Epoch: 3}, pngBytes(t))
	require.NoError(t, err)
	require.NoError(t, s.RemoveEarlier(task.Lease{TaskID: "x", Epoch: 3}))
	assert.NoFileExists(t, early.Path)
	assert.ElementsMatch(t, []string{last.Name, other.Name}, names(t, s))
}

func TestOpen_RemovesAbandonedDrafts(t *testing.T) {
	s := open(t, 1000)
	inUse, err := s.Create()
	require.NoError(t, err)
	abandoned, published := filepath.Join(s.Dir(), ".draft-1"), filepath.Join(s.Dir(), "a-1.png")
	for _, path := range []string{abandoned, published} {
		require.NoError(t, os.WriteFile(path, nil, 0o600))
	}
	_, err = picture.Open(s.Dir(), "", 1)
	require.NoError(t, err)
	assert.NoFileExists(t, abandoned)
	assert.FileExists(t, published)
	assert.Len(t, names(t, s), 2, "the draft in use and the picture")
	require.NoError(t, inUse.Discard())
	assert.Len(t, names(t, s), 1)
}

func TestOpen_NotWritable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	_, err := picture.Open(path, "", 1)
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
	s, err := picture.Open(f.TempDir(), "", 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := publish(t, s, task.Lease{TaskID: "x", Epoch: 1}, content)
		if err == nil {
			assert.Positive(t, p.Width*p.Height)
			assert.NoError(t, s.Remove(p))
		}
	})
}

// Processors that start remove abandoned drafts, and never the draft of a running processor.
func TestOpen_KeepsDraftsInUse(t *testing.T) {
	dir := t.TempDir()
	s, err := picture.Open(dir, "", 1<<20)
	require.NoError(t, err)
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
					_, err := picture.Open(dir, "", 1<<20)
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
		_, err = d.Publish(task.Lease{TaskID: fmt.Sprint("t", i), Epoch: 1})
		require.NoError(t, err)
	}
	close(stop)
	starts.Wait()
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	assert.Len(t, left, 200)
}
