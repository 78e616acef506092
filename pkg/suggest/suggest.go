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

// EditDistance is the Levenshtein distance of two names, in bytes.
func EditDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := diagonal
			if a[i-1] != b[j-1] {
				change++
			}
			diagonal = row[j]
			row[j] = min(change, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
