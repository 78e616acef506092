package imageapi

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"imagetasks/pkg/pattern"
)

// The bounds of the sizes of the models since gpt-image-2.
const (
	sizeStep  = 16 // both edges are multiples of it
	maxEdge   = 3840
	minPixels = 655_360
	maxPixels = 3840 * 2160
	maxRatio  = 3 // of the long edge to the short one
)

// The sizes that an aspect ratio becomes, if the model takes free ones, are about as large as the usual ones, 1024x1024 and
// 1536x1024, because the price follows the number of pixels.
const (
	maxShortEdge   = 1024
	minRatioPixels = 1024 * 960
	maxRatioPixels = 1536 * 1024
)

// checkSize checks a size that is the value of an option.
func (m model) checkSize(name, option, size string) error {
	switch {
	case size == "" || slices.Contains(m.sizes, size):
		return nil
	case !m.freeSize:
		return badOptions("option %s is %s; %s takes %s", option, quote(size), name, list(m.sizes))
	case !isFreeSize(size):
		return badOptions("option %s is %s; %s takes auto or WIDTHxHEIGHT with both divisible by %d, %d to %d pixels, no edge longer than %d "+
			"and an aspect ratio of at most %d:1", option, quote(size), name, sizeStep, minPixels, maxPixels, maxEdge, maxRatio)
	}
	return nil
}

// isFreeSize reports whether a size is within the bounds of the models since gpt-image-2.
func isFreeSize(text string) bool {
	s := parseSize(text)
	short, long := min(s.width, s.height), max(s.width, s.height)
	return short > 0 && s.width%sizeStep == 0 && s.height%sizeStep == 0 && long <= maxEdge && long <= maxRatio*short &&
		s.pixels() >= minPixels && s.pixels() <= maxPixels
}

// size is a width and a height in pixels, each of at most 99,999.
type size struct{ width, height int64 }

var exactSize = pattern.New(`^([1-9][0-9]{1,4})x([1-9][0-9]{1,4})$`)

// parseSize returns the size in a text such as 1536x1024, or a zero size if it has another form.
func parseSize(text string) size {
	var s size
	if edges := exactSize().FindStringSubmatch(text); edges != nil {
		s.width, _ = strconv.ParseInt(edges[1], 10, 64)
		s.height, _ = strconv.ParseInt(edges[2], 10, 64)
	}
	return s
}

func (s size) String() string { return fmt.Sprintf("%dx%d", s.width, s.height) }

func (s size) pixels() int64 { return s.width * s.height }

// orientation returns landscape, portrait or square.
func (s size) orientation() string {
	switch {
	case s.width > s.height:
		return landscape
	case s.width < s.height:
		return portrait
	}
	return square
}

const (
	square    = "square"
	landscape = "landscape"
	portrait  = "portrait"
)

// auto is the value of an option that leaves the choice to the API.
const auto = "auto"

// aspect is what the option aspect_ratio asks for: a word, a size or a ratio. The zero value is none.
type aspect struct {
	word          string // square, landscape, portrait or auto
	size          string // WIDTHxHEIGHT
	width, height int64  // of a ratio, in units of 1/10,000; from 1 to 999,999,999
}

// minAspectEdge is the shortest edge of a size in the option aspect_ratio: 16x9 is a ratio.
const minAspectEdge = 64

// aspectForm is the form of a ratio or a size. Chinese input methods write a full-width colon.
var aspectForm = pattern.New(`^` + aspectNumber + aspectSpace + `([:：x×*/])` + aspectSpace + aspectNumber + `$`)

const (
	aspectNumber = `([0-9]{1,5})(?:\.([0-9]{1,4}))?`
	aspectSpace  = `[\s\v\x{85}\p{Z}]*`
)

// readAspect reads the option aspect_ratio. Letters may be in upper case, and white space may be around and between. It returns
// the zero value for a text of another form. The function enqueue of the database checks the same form.
func readAspect(text string) aspect {
	text = strings.ToLower(strings.TrimSpace(text))
	switch text {
	case square, landscape, portrait, auto:
		return aspect{word: text}
	}
	parts := aspectForm().FindStringSubmatch(text)
	if parts == nil {
		return aspect{}
	}
	a := aspect{width: tenThousandths(parts[1], parts[2]), height: tenThousandths(parts[4], parts[5])}
	if a.width == 0 || a.height == 0 {
		return aspect{}
	}
	integers := parts[2] == "" && parts[5] == ""
	edges := size{a.width / 10_000, a.height / 10_000}
	if strings.Contains("x×*", parts[3]) && integers && min(edges.width, edges.height) >= minAspectEdge {
		return aspect{size: edges.String()}
	}
	return a
}

// tenThousandths returns the number with those digits before and after its point, at most 5 and 4, in units of 1/10,000.
func tenThousandths(whole, fraction string) int64 {
	n, _ := strconv.ParseInt(whole+(fraction + "0000")[:4], 10, 64)
	return n
}

// size returns the size to send for the options: the option size, or what the aspect ratio becomes; "" leaves it to the API.
func (o Options) size(modelName string) string {
	if o.Size != "" {
		return o.Size
	}
	switch a := readAspect(o.AspectRatio); {
	case a == aspect{}, a.word == auto:
		return ""
	case a.size != "":
		return a.size
	default:
		return modelForSize(modelName).nearest(a).String()
	}
}

// modelForSize returns the model of a name. One that is not known gets the sizes that all GPT image models have.
func modelForSize(name string) model {
	m, ok := findModel(name)
	if !ok {
		m.sizes = gptSizes
	}
	return m
}

// nearest returns the size of the model that is nearest to a word or a ratio, and of several the largest.
func (m model) nearest(a aspect) size {
	best := size{}
	consider := func(s size) {
		if nearer := a.compare(s, best); nearer < 0 || nearer == 0 && s.pixels() > best.pixels() {
			best = s
		}
	}
	if !m.freeSize || a.word != "" {
		for _, text := range m.sizes {
			if s := parseSize(text); s != (size{}) {
				consider(s)
			}
		}
		return best
	}
	for width := int64(sizeStep); width <= maxRatio*maxShortEdge; width += sizeStep {
		row := width * sizeStep // pixels of each step of the height
		for height := (minRatioPixels + row - 1) / row * sizeStep; height*width <= maxRatioPixels; height += sizeStep {
			s := size{width, height}
			if short, long := min(width, height), max(width, height); short <= maxShortEdge && long <= maxRatio*short {
				consider(s)
			}
		}
	}
	return best
}

// compare returns a negative number if s is nearer to a than t, a positive one if t is, and 0 if they are equally near. Every size is
// nearer than the zero size.
func (a aspect) compare(s, t size) int {
	switch {
	case t == size{}:
		return -1
	case a.word != "":
		return compareBool(t.orientation() == a.word, s.orientation() == a.word)
	}
	n, d := a.deviation(s)
	m, e := a.deviation(t)
	high1, low1 := bits.Mul64(n, e)
	high2, low2 := bits.Mul64(m, d)
	if high1 != high2 {
		return compareBool(high1 > high2, high2 > high1)
	}
	return compareBool(low1 > low2, low2 > low1)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// deviation returns by which factor the ratio of s differs from a, as a fraction of at least 1.
func (a aspect) deviation(s size) (numerator, denominator uint64) {
	x, y := uint64(s.width*a.height), uint64(s.height*a.width)
	return max(x, y), min(x, y)
}

// sizeAgrees reports whether the option size may be meant by the option aspect_ratio: it is the model's size for it, or it has that
// ratio but for the rounding to multiples of 16.
func (o Options) sizeAgrees(modelName string) bool {
	a := readAspect(o.AspectRatio)
	s := parseSize(o.Size)
	switch {
	case a == aspect{}, a.word == auto, o.Size == (Options{AspectRatio: o.AspectRatio}).size(modelName):
		return true
	case s == size{} || a.size != "":
		return false
	case a.word != "":
		return s.orientation() == a.word
	}
	difference := s.width*a.height - s.height*a.width
	return max(difference, -difference) <= sizeStep*max(a.width, a.height)
}

// SizeNote returns what the size that is sent differs in from the aspect ratio that was asked for, for the record of the task; "" if
// it does not differ. It has no text of a user but the ratio, and at most 200 bytes.
func (o Options) SizeNote(modelName string) string {
	a := readAspect(o.AspectRatio)
	sent := o.size(modelName)
	s := parseSize(sent)
	if s == (size{}) || a.matches(s) {
		return ""
	}
	reason := modelName + " has no such size"
	if _, known := findModel(modelName); !known {
		reason = fmt.Sprintf("the sizes of %s are not known", quote(modelName))
	}
	return fmt.Sprintf("aspect_ratio %s: %s; %s was used", a, reason, sent)
}

// matches reports whether a size is exactly what was asked for.
func (a aspect) matches(s size) bool {
	switch {
	case a == aspect{}, a.word == auto:
		return true
	case a.size != "":
		return a.size == s.String()
	case a.word != "":
		return a.word == s.orientation()
	}
	return s.width*a.height == s.height*a.width
}

// String returns the aspect as an option that readAspect reads.
func (a aspect) String() string {
	if text := a.word + a.size; text != "" {
		return text
	}
	return decimal(a.width) + ":" + decimal(a.height)
}

// decimal writes a number that is given in units of 1/10,000.
func decimal(n int64) string {
	return strconv.FormatFloat(float64(n)/10_000, 'f', -1, 64)
}

// SizeNote is Options.SizeNote for a model, or the client's own if the name is empty.
func (c *Client) SizeNote(modelName string, o Options) string {
	if c.isChat() {
		return "" // the ratio is sent as it is
	}
	if modelName == "" {
		modelName = c.conf.Model
	}
	return o.SizeNote(modelName)
}
