package picture_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/picture"
)

func TestPublish_UnsafeTaskIDs(t *testing.T) {
	s := open(t, 1<<20)
	seen := map[string]string{}
	for _, id := range []string{
		"plain", "../../etc/passwd", "a/b", "a-b", "a b", "A-b", "a_b", "..", ".", "-rf", "--", "ü", "日本語", "con.png", ".draft-1", "_h00", "a-1", "a-1-1",
		strings.Repeat("x", 100), strings.Repeat("x", 200), strings.Repeat("x", 199) + "y", strings.Repeat("語", 200), "%2e%2e", `a\b`, "a?b#c&d",
		markerName, ".drafts",
	} {
		for run := range 2 {
			p, err := publish(t, s, id, run+1, pngBytes(t))
			require.NoError(t, err, "%q", id)
			assert.Equal(t, s.Dir(), filepath.Dir(p.Path))
			assert.Regexp(t, `^[A-Za-z0-9_][A-Za-z0-9_-]*\.png$`, p.Name)
			assert.LessOrEqual(t, len(p.Name), 138)
			key := fmt.Sprintf("%s %d", id, run)
			assert.Empty(t, seen[strings.ToLower(p.Name)], "%q and %q have the same name", key, seen[p.Name])
			seen[strings.ToLower(p.Name)] = key
			e, ok := s.ParseName(p.Name)
			require.True(t, ok, p.Name)
			want := picture.Entry{Name: p.Name, TaskID: id, Run: run + 1}
			if strings.HasPrefix(p.Name, "_h") {
				want.TaskID = ""
			}
			assert.Equal(t, want, e)
			found, ok, err := s.Find(t.Context(), id, run+1)
			require.NoError(t, err)
			assert.True(t, ok && found == p, id)
		}
	}
	above, err := os.ReadDir(filepath.Dir(s.Dir()))
	require.NoError(t, err)
	assert.Len(t, above, 1, "nothing is outside of the directory")
}

// A name is computed from the secret: who knows the task and other names of the installation can't guess it, and every host that knows the
// secret computes the same.
func TestFileName_DependsOnSecret(t *testing.T) {
	s := open(t, 1<<20)
	c := config(t.TempDir())
	c.Secret = []byte("another secret of thirty-two by.")
	other, err := picture.Open(c)
	require.NoError(t, err)
	same := openIn(t, t.TempDir())
	macs := map[string]bool{}
	for i := range 1000 {
		for run := 1; run <= 2; run++ {
			id := fmt.Sprint("task-", i)
			name := s.FileName(id, run, "png")
			assert.Equal(t, name, same.FileName(id, run, "png"))
			assert.NotEqual(t, name, other.FileName(id, run, "png"))
			_, ok := other.ParseName(name)
			assert.False(t, ok, "it is a picture of another installation")
			mac := strings.TrimSuffix(strings.TrimPrefix(name, fmt.Sprintf("%s-%d-", id, run)), ".png")
			assert.Regexp(t, "^[a-z2-7]{26}$", mac)
			macs[mac] = true
		}
	}
	assert.Len(t, macs, 2000)
}

func TestParseName_OtherFiles(t *testing.T) {
	s := open(t, 1<<20)
	name := s.FileName("a-1", 12, "png")
	_, ok := s.ParseName(name)
	require.True(t, ok)
	mac := name[len(name)-30 : len(name)-4]
	for _, other := range []string{
		"", ".png", "-.png", "a.png", "a-1.png", "a-1-12.png", strings.TrimSuffix(name, ".png"), name + ".bak", name + ".png", strings.Replace(name, "-12-", "-13-", 1),
		strings.Replace(name, "-12-", "-012-", 1), strings.Replace(name, "-12-", "-+12-", 1), strings.Replace(name, "a-1-", "a_2d1-", 1), strings.ToUpper(name),
		strings.Replace(name, ".png", ".gif", 1), "a-1-0-" + mac + ".png", "a-1--12-" + mac + ".png", "_-1-" + mac + ".png", "_4-1-" + mac + ".png", "_h12-1-" + mac + ".png",
		"-" + name, "x" + name, markerName, ".draft-1",
	} {
		_, ok := s.ParseName(other)
		assert.False(t, ok, other)
	}
}

func FuzzFileName(f *testing.F) {
	for _, id := range []string{"a", "a/b", "..", "_h", "-", "日本", "A_ -", "x\xff"} {
		f.Add(id, 1)
	}
	s, err := picture.Open(config(f.TempDir()))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, id string, run int) {
		if id == "" || run < 1 || utf8.RuneCountInString(id) > 200 || strings.ContainsFunc(id, unicode.IsControl) {
			return
		}
		name := s.FileName(id, run, "jpeg")
		assert.Equal(t, name, filepath.Base(name))
		e, ok := s.ParseName(name)
		assert.True(t, ok, name)
		assert.Equal(t, run, e.Run)
		if e.TaskID != "" {
			assert.Equal(t, id, e.TaskID)
		}
	})
}

func FuzzParseName(f *testing.F) {
	s, err := picture.Open(config(f.TempDir()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.FileName("a/b", 3, "webp"))
	f.Add("a-1-.png")
	f.Fuzz(func(t *testing.T, name string) {
		if e, ok := s.ParseName(name); ok && e.TaskID != "" {
			assert.Contains(t, []string{s.FileName(e.TaskID, e.Run, "png"), s.FileName(e.TaskID, e.Run, "jpeg"), s.FileName(e.TaskID, e.Run, "webp")}, name)
		}
	})
}
