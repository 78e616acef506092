package main

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// plotted reports whether a row has values that compare in one plot: at least two series of its first unit.
func (r row) plotted() bool { return len(r.comparable()) > 1 }

// comparable returns the series with the unit of the first one.
func (r row) comparable() (out []series) {
	for _, s := range r.Series {
		if s.Unit == r.Series[0].Unit {
			out = append(out, s)
		}
	}
	return out
}

// The measures of a plot, in pixels.
const (
	plotWidth  = 760
	plotLabels = 230 // for the names on the left
	plotValues = 150 // for the values on the right
	plotTop    = 64
	plotBar    = 22
	plotStep   = 36
)

// plot returns an SVG with a bar for the median of each series, a line from its least to its greatest value, and a dot for each value.
func (r row) plot() string {
	shown := r.comparable()
	greatest := 0.0
	for _, s := range shown {
		greatest = max(greatest, s.max())
	}
	step := tickStep(greatest)
	end := math.Ceil(greatest/step) * step
	width := float64(plotWidth - plotLabels - plotValues)
	x := func(v float64) float64 { return plotLabels + max(v, 0)/end*width }
	height := plotTop + len(shown)*plotStep + 34
	bottom := plotTop + len(shown)*plotStep

	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" font-family="sans-serif" font-size="13">`+"\n",
		plotWidth, height, plotWidth, height)
	title := strings.ReplaceAll(r.Title, "`", "")
	fmt.Fprintf(&out, "<title>%s</title>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n", escape(title))
	fmt.Fprintf(&out, `<text x="12" y="24" font-size="15" font-weight="bold" fill="#1f2328">%s</text>`+"\n", escape(title))
	fmt.Fprintf(&out, `<text x="12" y="44" fill="#59636e">%s; bar: median, line: least to greatest, dots: each run</text>`+"\n", escape(shown[0].Unit))
	for v := 0.0; v <= end*1.0001; v += step {
		fmt.Fprintf(&out, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#d1d9e0"/><text x="%.1f" y="%d" text-anchor="middle" fill="#59636e">%s</text>`+"\n",
			x(v), plotTop-6, x(v), bottom, x(v), bottom+18, number(v))
	}
	for i, s := range shown {
		top := plotTop + i*plotStep
		middle := top + plotBar/2
		color := "#8c959f"
		if i == 0 || strings.HasPrefix(s.Name, "ours") {
			color = "#0969da"
		}
		fmt.Fprintf(&out, `<text x="%d" y="%d" text-anchor="end" fill="#1f2328">%s</text>`+"\n", plotLabels-8, middle+5, escape(s.Name))
		fmt.Fprintf(&out, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", plotLabels, top, x(s.median())-plotLabels, plotBar, color)
		fmt.Fprintf(&out, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#1f2328" stroke-width="1.5"/>`+"\n", x(s.min()), middle, x(s.max()), middle)
		for _, v := range s.Values {
			fmt.Fprintf(&out, `<circle cx="%.1f" cy="%d" r="3" fill="#ffffff" stroke="#1f2328"/>`+"\n", x(v), middle)
		}
		fmt.Fprintf(&out, `<text x="%.1f" y="%d" fill="#1f2328">%s</text>`+"\n", x(s.max())+10, middle+5, number(s.median()))
	}
	out.WriteString("</svg>\n")
	return out.String()
}

// tickStep returns the distance of the lines of a scale: 1, 2 or 5 times a power of ten, so that there are 4 to 10.
func tickStep(greatest float64) float64 {
	if greatest <= 0 {
		return 1
	}
	base := math.Pow(10, math.Floor(math.Log10(greatest)))
	for _, factor := range []float64{0.1, 0.2, 0.5, 1, 2} {
		if greatest/(base*factor) <= 6 {
			return base * factor
		}
	}
	return base * 5
}

func escape(text string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(text))
	return out.String()
}
