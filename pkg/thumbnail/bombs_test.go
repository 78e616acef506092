package thumbnail

import (
	"bytes"
	"context"
	"encoding/binary"
	"image"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// progressive is a progressive JPEG whose scans say of all blocks, in a few bytes, that nothing changes.
func progressive(width, height, components, scans int) []byte {
	out := []byte{0xff, 0xd8, 0xff, 0xdb, 0, 67, 0}
	out = append(out, bytes.Repeat([]byte{1}, 64)...)
	out = append(out, 0xff, 0xc2, 0, byte(8+3*components), 8)
	out = binary.BigEndian.AppendUint16(out, uint16(height))
	out = binary.BigEndian.AppendUint16(out, uint16(width))
	out = append(out, byte(components))
	for i := range components {
		out = append(out, byte(i+1), 0x11, 0)
	}
	// One code of one bit: 16384 blocks without more coefficients.
	out = append(out, 0xff, 0xc4, 0, 20, 0x10, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xe0)
	blocks := (width + 7) / 8 * ((height + 7) / 8)
	data := make([]byte, ((blocks+16383)/16384*15+7)/8+1)
	for i := range scans {
		out = append(out, 0xff, 0xda, 0, 8, 1, byte(i%components+1), 0, 1, 63, 0)
		out = append(out, data...)
	}
	return append(out, 0xff, 0xd9)
}

// A small file that takes minutes to decode holds a core, and the next thumbnail, for a bounded time.
func TestThumbnail_WorkIsBounded(t *testing.T) {
	content := progressive(2000, 2000, 3, 40_000)
	assert.Less(t, len(content), 2<<20)
	_, format, err := image.DecodeConfig(bytes.NewReader(content))
	require.NoError(t, err)
	require.Equal(t, "jpeg", format)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = (&memory{content: map[string][]byte{"a": content}}).generator().Thumbnail(ctx, "a")
	require.Error(t, err)
	assert.Less(t, time.Since(began), 5*time.Second)
	assert.True(t, isProgressive(content))
	_, err = shrink(t.Context(), progressive(100, 100, 3, 10))
	assert.NoError(t, err, "what is small is shown")
}

// A small file does not take more memory than the bound.
func TestThumbnail_MemoryIsBounded(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := shrink(t.Context(), progressive(5000, 4000, 4, 4))
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, ErrNone)
	assert.Less(t, (after.TotalAlloc-before.TotalAlloc)>>20, uint64(maxMemory>>20))
}
