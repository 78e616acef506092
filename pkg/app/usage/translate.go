package usage

import "imagetasks/pkg/lang"

// Translate returns the text of a definition, or the format of an error, in a language; those that have none in it are in English.
func Translate(text string, l lang.Lang) string {
	if l == lang.EN {
		return text
	}
	for _, catalog := range [][]lang.Text{commonTexts, processorTexts, otherTexts, faults} {
		for _, t := range catalog {
			if t.EN == text {
				return t.In(l)
			}
		}
	}
	return text
}
