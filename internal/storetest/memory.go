package storetest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"encoding/hex"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"imagetasks/pkg/picture"
)

// Memory is a picture.Backend in memory. The zero value is empty.
type Memory struct {
	mu      sync.Mutex
	objects map[string]object
	fail    error
}

type object struct {
	content []byte
	at      time.Time
}

var _ picture.Backend = (*Memory)(nil)

// Fail makes each call return an error; nil: none.
func (m *Memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Names returns the names of the objects.
func (m *Memory) Names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.objects))
}

// String implements picture.Backend.
func (m *Memory) String() string { return "memory" }

// URL implements picture.Backend.
func (m *Memory) URL(name string) string { return "https://memory.example/" + name }

// Put implements picture.Backend.
func (m *Memory) Put(_ context.Context, name string, s picture.Source, replace bool) error {
	content, err := io.ReadAll(io.NewSectionReader(s.ReaderAt, 0, s.Size))
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil || m.fail != nil {
		return cmp.Or(err, m.fail)
	}
	if _, taken := m.objects[name]; taken && !replace {
		return fs.ErrExist
	}
	if m.objects == nil {
		m.objects = map[string]object{}
	}
	m.objects[name] = object{content, time.Now()}
	return nil
}

func (m *Memory) get(name string) (object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return object{}, m.fail
	}
	o, ok := m.objects[name]
	if !ok {
		return o, fs.ErrNotExist
	}
	return o, nil
}

// Get implements picture.Backend.
func (m *Memory) Get(_ context.Context, name string) (io.ReadCloser, error) {
	o, err := m.get(name)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(o.content)), nil
}

// Stat implements picture.Backend.
func (m *Memory) Stat(_ context.Context, name string) (picture.Info, error) {
	o, err := m.get(name)
	return info(name, o), err
}

func info(name string, o object) picture.Info {
	sum := md5.Sum(o.content)
	return picture.Info{Name: name, Bytes: int64(len(o.content)), ModifiedAt: o.at, MD5: hex.EncodeToString(sum[:])}
}

// List implements picture.Backend.
func (m *Memory) List(_ context.Context, visit func([]picture.Info) error) error {
	m.mu.Lock()
	var found []picture.Info
	for name, o := range m.objects {
		found = append(found, info(name, o))
	}
	err := m.fail
	m.mu.Unlock()
	if err != nil {
		return err
	}
	for part := range slices.Chunk(found, 1000) {
		if err := visit(part); err != nil {
			return err
		}
	}
	return nil
}

// Remove implements picture.Backend.
func (m *Memory) Remove(_ context.Context, name string) error {
	if _, err := m.get(name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
	return nil
}
