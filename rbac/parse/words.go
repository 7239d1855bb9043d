package parse

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// describe names what a node is, for its author.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch node.Tag {
	case "!!str":
		return "a string"
	case "!!null":
		return "nothing"
	case "!!bool":
		return "a boolean; quote it"
	case "!!int", "!!float":
		return "a number; quote it"
	case "!!timestamp":
		return "a date; quote it"
	}
	return "something else"
}

// parentOf is the field that field stands in.
func parentOf(field string) string {
	if dot := strings.LastIndexByte(field, '.'); dot >= 0 {
		return field[:dot]
	}
	return ""
}

// nearest is the known word that word was meant to be: at most two letters
// away, and of two the first in the alphabet. Empty where there is none.
func nearest(word string, known []string) string {
	best, least := "", 3
	if len(word) > 64 {
		return ""
	}
	for _, k := range known {
		if d := distance(word, k); d < least || d == least && d < 3 && k < best {
			best, least = k, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
