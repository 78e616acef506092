package demo

import (
	"bufio"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/image/draw"
	"golang.org/x/image/webp"
)

// contactSheet puts all pictures of a directory on one, and returns its path and how many there were.
func contactSheet(dir, path string) (string, int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", 0, err
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return decoders[filepath.Ext(e.Name())] == nil })
	const columns, side, gap = 6, 160, 8
	rows := max((len(entries)+columns-1)/columns, 1)
	sheet := image.NewRGBA(image.Rect(0, 0, columns*(side+gap)+gap, rows*(side+gap)+gap))
	draw.Draw(sheet, sheet.Bounds(), image.NewUniform(color.Gray{0x22}), image.Point{}, draw.Src)
	for i, e := range entries {
		m, err := open(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", 0, err
		}
		at := image.Pt(gap+i%columns*(side+gap), gap+i/columns*(side+gap))
		draw.ApproxBiLinear.Scale(sheet, image.Rectangle{Min: at, Max: at.Add(image.Pt(side, side))}, m, m.Bounds(), draw.Src, nil)
	}
	f, err := os.Create(path)
	if err != nil {
		return "", 0, err
	}
	return path, len(entries), errors.Join(png.Encode(f, sheet), f.Close())
}

// decoders are those of each kind of picture, by the extension of its file.
var decoders = map[string]func(io.Reader) (image.Image, error){".png": png.Decode, ".jpg": jpeg.Decode, ".webp": webp.Decode}

func open(path string) (image.Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	return decoders[filepath.Ext(path)](r)
}
