// Package suggest finds the known name that a misspelt one probably stands for.
package suggest

import "strings"

// DidYouMean returns the end of an error about an unknown name: the known one that is nearest to it, or all of them where none is near.
func DidYouMean(name string, known []string) string {
	if best := Nearest(name, known); best != "" {
		return "; did you mean " + best + "?"
	}
	return "; known keys: " + strings.Join(known, ", ")
}

// Nearest returns the known name that is nearest to another one; "" where none is near.
func Nearest(name string, known []string) string {
	best, least := "", 1+max(2, len(name)/3)
	for _, k := range known {
		if d := EditDistance(name, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// EditDistance is how many changes turn one name into the other: a byte inserted, deleted or replaced, or two neighbours exchanged.
func EditDistance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replaced := last[j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			row[j] = min(replaced, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
