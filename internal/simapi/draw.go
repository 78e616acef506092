package simapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"strings"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
)

// Draw returns a PNG that depends only on the prompt: sky, hills and sun from its hash, and its words below.
func Draw(prompt string) []byte {
	const width, height = 256, 256
	sum := sha256.Sum256([]byte(prompt))
	random := rand.New(rand.NewPCG(binary.LittleEndian.Uint64(sum[:8]), binary.LittleEndian.Uint64(sum[8:16])))
	hue := random.Float64()
	m := image.NewRGBA(image.Rect(0, 0, width, height))
	sunX, sunY, sunR := 40+random.Float64()*176, 30+random.Float64()*70, 14+random.Float64()*20
	var hills [3][width]float64 // where each begins, column by column
	for i := range hills {
		swing, speed, phase := 10+random.Float64()*20, 0.01+random.Float64()*0.03, random.Float64()*6
		for x := range width {
			hills[i][x] = 120 + float64(i)*35 + swing*math.Sin(float64(x)*speed+phase)
		}
	}
	sun := shade(hue+0.5, 0.6, 1)
	ground := [3]color.RGBA{shade(hue+0.08, 0.6, 0.75), shade(hue+0.16, 0.6, 0.55), shade(hue+0.24, 0.6, 0.35)}
	for y := range height {
		fy := float64(y)
		sky := shade(hue, 0.35, 0.95-fy/height*0.35)
		for x := range width {
			c := sky
			if dx, dy := float64(x)-sunX, fy-sunY; dx*dx+dy*dy < sunR*sunR {
				c = sun
			}
			for i := range hills {
				if fy > hills[i][x] {
					c = ground[i]
				}
			}
			m.SetRGBA(x, y, c)
		}
	}
	write(m, prompt)
	return encode(m)
}

func encode(m image.Image) []byte {
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		return nil // a buffer doesn't fail, and the picture's size is right
	}
	return b.Bytes()
}

// shade returns a color for hue, saturation and value, each from 0 to 1.
func shade(h, s, v float64) color.RGBA {
	channel := func(n float64) uint8 {
		k := math.Mod(n+math.Mod(h, 1)*6, 6)
		return uint8(255 * (v - v*s*max(0, min(k, 4-k, 1))))
	}
	return color.RGBA{channel(5), channel(3), channel(1), 255}
}

// write writes the words of the prompt on the picture, in several lines.
func write(m *image.RGBA, text string) {
	face := basicfont.Face7x13
	const perLine = 34
	line, y := "", 205
	flush := func() {
		d := font.Drawer{Dst: m, Src: image.White, Face: face, Dot: fixed.P(8, y)}
		d.DrawString(line)
		line, y = "", y+15
	}
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > perLine {
			flush()
		}
		line = strings.TrimSpace(line + " " + word)
	}
	flush()
}

// tinyWebP is a WebP of one pixel. Go has no encoder for the format.
var tinyWebP = []byte("RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00/\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00")

// convert returns a picture in the format of the parameter output_format. A WebP is always the same.
func convert(picture []byte, format string) []byte {
	switch format {
	case "jpeg":
		m, err := png.Decode(bytes.NewReader(picture))
		if err != nil {
			return picture // a test's picture need not be a PNG
		}
		var b bytes.Buffer
		if err := jpeg.Encode(&b, m, nil); err != nil {
			return picture
		}
		return b.Bytes()
	case "webp":
		return tinyWebP
	}
	return picture
}

// Noise returns a PNG of about size bytes that can't be compressed, for benchmarks.
func Noise(size int) []byte {
	side := int(math.Sqrt(float64(size) / 4))
	m := image.NewNRGBA(image.Rect(0, 0, max(side, 1), max(side, 1)))
	random := rand.New(rand.NewPCG(1, 2))
	for i := range m.Pix {
		m.Pix[i] = uint8(random.Uint32())
	}
	return encode(m)
}
