package imageapi

import (
	"bytes"
	"io"

	"imagetasks/pkg/pattern"
)

const (
	maxUsage      = 4 << 10
	maxUsageDepth = 4
)

var (
	// usageName is the form of the names that are kept.
	usageName = pattern.New(`^[A-Za-z0-9_]{1,48}$`)
	// usageDigits is the form of the numbers that are kept. The database refuses larger exponents.
	usageDigits = pattern.New(`^[-0-9.]{1,30}([eE][+-]?[0-9]{1,2})?$`)
)

// usageValue reads the value of a key for what a request used. What is no object, or has no numbers, is left out.
func (f *finder) usageValue(p *parser, c byte) error {
	if c != '{' {
		return p.skip()
	}
	var b bytes.Buffer
	kept, err := usageObject(p, &b, 1)
	if err == nil && kept && b.Len() <= maxUsage {
		f.usage = b.Bytes()
	}
	return err
}

// usageObject copies the numbers of an object and of the objects in it, and reports whether there is one. Texts are left out: one of them could
// hold the prompt.
func usageObject(p *parser, b *bytes.Buffer, depth int) (kept bool, err error) {
	b.WriteByte('{')
	err = p.object(func(key string) error {
		c, err := p.next()
		if err != nil {
			return err
		}
		before := b.Len()
		if !usageName().MatchString(key) || before > maxUsage {
			return p.skip()
		}
		if kept {
			b.WriteByte(',')
		}
		b.WriteString(`"` + key + `":`)
		copied := false
		switch {
		case c == '{' && depth < maxUsageDepth:
			copied, err = usageObject(p, b, depth+1)
		case c == '-' || (c >= '0' && c <= '9'):
			copied, err = usageNumber(p, b)
		default:
			err = p.skip()
		}
		if !copied {
			b.Truncate(before)
		}
		kept = kept || copied
		return err
	})
	b.WriteByte('}')
	return kept, err
}

// usageNumber copies a number, unless it is longer or larger than any number that means something.
func usageNumber(p *parser, b *bytes.Buffer) (copied bool, err error) {
	text, err := p.numberText()
	if err != nil || !usageDigits().MatchString(text) {
		return false, err
	}
	number := newParser(bytes.NewReader([]byte(text)))
	if number.number() != nil {
		return false, errSyntax
	}
	if _, err := number.r.ReadByte(); err != io.EOF { //nolint:errorlint // of a buffer
		return false, errSyntax
	}
	b.WriteString(text)
	return true, nil
}
