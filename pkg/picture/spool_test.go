package picture_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/internal/simapi"
	"imagetasks/internal/storetest"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/task"
)

func TestBackends_Conform(t *testing.T) {
	t.Parallel()
	storetest.Check(t, &storetest.Memory{}, t.TempDir(), true)
	c := config(t.TempDir())
	c.Spool = picture.Spool{Dir: t.TempDir(), MaxBytes: 1 << 20}
	s, err := picture.OpenRemote(t.Context(), c, &storetest.Memory{})
	require.NoError(t, err)
	storetest.Check(t, s.Local(), filepath.Dir(s.Local().String()), true)
}

// remoteIn opens a store in memory with a spool in a directory.
func remoteIn(t *testing.T, dir string, b picture.Backend, size int64) *picture.Store {
	t.Helper()
	c := config("")
	c.Spool = picture.Spool{Dir: dir, MaxBytes: size}
	s, err := picture.OpenRemote(t.Context(), c, b)
	require.NoError(t, err)
	return s
}

var errAway = fmt.Errorf("it is away: %w", picture.ErrUnavailable)

// What is published waits in the spool until it is uploaded, also for a store that is opened anew while the backend is away.
func TestUpload_WaitsInSpool(t *testing.T) {
	t.Parallel()
	dir, memory := t.TempDir(), &storetest.Memory{}
	s := remoteIn(t, dir, memory, 1<<30)
	memory.Fail(errAway)
	p, err := publish(t, s, "t", 1, simapi.Draw("x"))
	require.NoError(t, err)
	assert.FileExists(t, p.Path)
	assert.Equal(t, "https://memory.example/"+p.Name, p.URL)
	spooled, here := s.IsRef(s.Ref(p))
	assert.Equal(t, []bool{true, true}, []bool{spooled, here})
	_, err = s.Upload(t.Context(), "t", 1)
	assert.ErrorIs(t, err, picture.ErrUnavailable)

	again := remoteIn(t, dir, memory, 1<<30)
	assert.Equal(t, s.ID(), again.ID(), "it is remembered")
	_, here = again.IsRef(s.Ref(p))
	assert.True(t, here)
	waiting, found, err := again.Waiting(t.Context(), "t", 1)
	require.NoError(t, err)
	require.True(t, found)
	assert.Equal(t, p.Name, waiting.Name)
	_, _, err = again.Find(t.Context(), "t", 1)
	assert.Equal(t, task.Pause, task.AsError(err).Disposition, "it isn't known whether there is a picture")
	memory.Fail(nil)
	uploaded, err := again.Upload(t.Context(), "t", 1)
	require.NoError(t, err)
	assert.Equal(t, []any{p.Name, p.URL, p.Bytes}, []any{uploaded.Name, uploaded.URL, uploaded.Bytes})
	assert.NoFileExists(t, p.Path)
	found2, ok, err := s.Find(t.Context(), "t", 1)
	require.NoError(t, err)
	require.True(t, ok)
	assert.Equal(t, []any{p.URL, "png"}, []any{found2.URL, found2.Format})
	_, err = s.Upload(t.Context(), "t", 1)
	assert.NoError(t, err, "another claim has uploaded it")

	other := remoteIn(t, t.TempDir(), memory, 1<<30)
	spooled, here = other.IsRef(s.Ref(p))
	assert.Equal(t, []bool{true, false}, []bool{spooled, here}, "another host")
	memory.Fail(errAway)
	c := config("")
	c.Spool = picture.Spool{Dir: t.TempDir(), MaxBytes: 1 << 30}
	_, err = picture.OpenRemote(t.Context(), c, memory)
	assert.ErrorIs(t, err, picture.ErrUnavailable, "a host that never saw the store can't know that it is the right one")
}

// A picture of the run that is in the store already is used.
func TestUpload_OtherClaimWasFaster(t *testing.T) {
	t.Parallel()
	memory := &storetest.Memory{}
	one, other := remoteIn(t, t.TempDir(), memory, 1<<30), remoteIn(t, t.TempDir(), memory, 1<<30)
	for _, s := range []*picture.Store{one, other} {
		_, err := publish(t, s, "t", 1, simapi.Draw(s.Dir()))
		require.NoError(t, err)
	}
	first, err := one.Upload(t.Context(), "t", 1)
	require.NoError(t, err)
	second, err := other.Upload(t.Context(), "t", 1)
	require.NoError(t, err)
	assert.Equal(t, []any{first.Name, first.Bytes}, []any{second.Name, second.Bytes})
	assert.Len(t, memory.Names(), 2, "the picture and the marker")
}

// nameOnly is a backend that was killed while it wrote an object: it has the name of it, and no object.
type nameOnly struct {
	*storetest.Memory
	name string
}

func (b *nameOnly) Put(ctx context.Context, name string, s picture.Source, replace bool) error {
	if name == b.name && !replace {
		return fs.ErrExist
	}
	return b.Memory.Put(ctx, name, s, replace)
}

func TestUpload_StoreHasOnlyTheName(t *testing.T) {
	t.Parallel()
	b := &nameOnly{Memory: &storetest.Memory{}}
	s := remoteIn(t, t.TempDir(), b, 1<<30)
	p, err := publish(t, s, "t", 1, simapi.Draw("x"))
	require.NoError(t, err)
	b.name = p.Name
	uploaded, err := s.Upload(t.Context(), "t", 1)
	require.NoError(t, err)
	assert.Equal(t, p.URL, uploaded.URL)
	_, found, err := s.Find(t.Context(), "t", 1)
	require.NoError(t, err)
	assert.True(t, found)
	assert.NoFileExists(t, p.Path)
}

// A spool that is full takes no draft, until Probe has uploaded enough of it.
func TestCreate_SpoolFull(t *testing.T) {
	t.Parallel()
	memory := &nameOnly{Memory: &storetest.Memory{}}
	s := remoteIn(t, t.TempDir(), memory, 300<<10)
	memory.Fail(errAway)
	made := 0
	for made < 100 {
		d, err := s.Create()
		if err != nil {
			e := task.AsError(err)
			assert.Equal(t, []any{task.CodePictureStore, task.Pause, task.ScopeAll}, []any{e.Code, e.Disposition, e.Scope})
			assert.ErrorContains(t, err, "the spool is full")
			assert.ErrorContains(t, err, "IMAGE_SPOOL_MAX")
			break
		}
		_, err = d.Write(simapi.Draw("x"))
		require.NoError(t, err)
		p, err := d.Publish(t.Context(), fmt.Sprint("t", made), 1, nil)
		require.NoError(t, err)
		memory.name = p.Name
		made++
	}
	require.Positive(t, made)
	require.Less(t, made, 100)
	require.Error(t, s.Probe(t.Context()))
	memory.Fail(nil)
	require.NoError(t, s.Probe(t.Context()))
	d, err := s.Create()
	require.NoError(t, err)
	require.NoError(t, d.Discard())
	assert.Greater(t, len(memory.Names()), 1)
	for i := range made {
		_, err := s.Upload(t.Context(), fmt.Sprint("t", i), 1)
		assert.NoError(t, err)
	}
	assert.Len(t, memory.Names(), made+1)
}

// The bucket of another installation is not used, and not one that has objects and no marker.
func TestOpenRemote_ForeignStore(t *testing.T) {
	t.Parallel()
	memory := &storetest.Memory{}
	require.NoError(t, memory.Put(t.Context(), "x.png", storetest.Source(t, t.TempDir(), []byte("x")), false))
	c := config("")
	c.Spool = picture.Spool{Dir: t.TempDir(), MaxBytes: 1 << 30}
	_, err := picture.OpenRemote(t.Context(), c, memory)
	assert.ErrorContains(t, err, "has objects in it and no "+markerName)
	require.NoError(t, memory.Remove(t.Context(), "x.png"))
	_, exists, err := picture.OpenExistingRemote(t.Context(), c, memory)
	require.NoError(t, err)
	assert.False(t, exists)
	assert.Empty(t, memory.Names())
	_, err = picture.OpenRemote(t.Context(), c, memory)
	require.NoError(t, err)
	_, exists, err = picture.OpenExistingRemote(t.Context(), c, memory)
	require.NoError(t, err)
	assert.True(t, exists)
	c.Installation = "aaaaaaaa-4d5e-4f60-8123-456789abcdef"
	_, err = picture.OpenRemote(t.Context(), c, memory)
	assert.ErrorContains(t, err, "belongs to the installation")
}

// A crash between upload and removal leaves a copy in the spool, which goes; what was not uploaded stays.
func TestDropUploaded(t *testing.T) {
	t.Parallel()
	memory := &storetest.Memory{}
	s := remoteIn(t, t.TempDir(), memory, 1<<30)
	var paths []string
	for i := range 2 {
		p, err := publish(t, s, fmt.Sprint("t", i), 1, simapi.Draw("x"))
		require.NoError(t, err)
		paths = append(paths, p.Path)
	}
	content, err := os.ReadFile(paths[0])
	require.NoError(t, err)
	_, err = s.Upload(t.Context(), "t0", 1)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(paths[0], content, 0o644))
	n, err := s.DropUploaded(t.Context())
	require.NoError(t, err)
	assert.Zero(t, n, "one that is young may be one that is just being uploaded")
	old := time.Now().Add(-2 * time.Hour)
	for _, path := range paths {
		require.NoError(t, os.Chtimes(path, old, old))
	}
	n, err = s.DropUploaded(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	assert.NoFileExists(t, paths[0])
	assert.FileExists(t, paths[1])
	removed, err := s.RemoveRuns(t.Context(), "t1", 1)
	require.NoError(t, err)
	assert.Equal(t, 1, removed, "what is forgotten goes from the spool, too")
	assert.NoFileExists(t, paths[1])
}

// The spool's id is kept, and a file that can't be read is not replaced: it says whose pictures wait.
func TestOpenRemote_HostRecord(t *testing.T) {
	t.Parallel()
	dir, memory := t.TempDir(), &storetest.Memory{}
	s := remoteIn(t, dir, memory, 1<<30)
	path := filepath.Join(s.Dir(), "host.json")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var record struct{ Host, Location, Store string }
	require.NoError(t, json.Unmarshal(text, &record))
	assert.Equal(t, []string{"memory", s.ID()}, []string{record.Location, record.Store})
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	c := config("")
	c.Spool = picture.Spool{Dir: dir, MaxBytes: 1 << 30}
	_, err = picture.OpenRemote(t.Context(), c, memory)
	assert.ErrorContains(t, err, "can't be read; remove it if no picture waits")
}
