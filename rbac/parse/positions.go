package parse

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// positions knows where each field of a document is.
type positions struct {
	line  int                   // lines before the document
	nodes map[string]*yaml.Node // by field; for the key of a mapping, its key
}

// refuse makes an Error for a field, or for the one it would stand in.
func (at *positions) refuse(field, reason, format string, args ...any) *Error {
	e := &Error{Field: field, Reason: reason, Detail: fmt.Sprintf(format, args...)}
	if node := at.nodes[field]; node != nil {
		e.Line, e.Column = at.line+node.Line, node.Column
	}
	return e
}

// check walks a whole document before anything is made of it. It refuses what
// lets a text mean more than it shows: anchors, aliases, tags, duplicate keys,
// nesting without end. It remembers where everything is.
func (at *positions) check(node *yaml.Node, field string, depth int) error {
	if at.nodes[field] == nil {
		at.nodes[field] = node
	}
	here := func(reason, detail string) error {
		return &Error{Line: at.line + node.Line, Column: node.Column, Field: field, Reason: reason, Detail: detail}
	}
	switch {
	case depth > maxDepth:
		return here("too-deep", fmt.Sprintf("nested deeper than %d levels", maxDepth))
	case node.Kind == yaml.AliasNode || node.Anchor != "":
		return here("alias", "anchors and aliases are not taken; quote a value that begins with a star or an ampersand")
	case node.Style&yaml.TaggedStyle != 0:
		return here("tag", "tags are not taken")
	}
	switch node.Kind {
	case yaml.SequenceNode:
		for i, item := range node.Content {
			if err := at.check(item, element(field, i), depth+1); err != nil {
				return err
			}
		}
	case yaml.MappingNode:
		seen := map[string]bool{}
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			if err := at.checkKey(key, field, seen); err != nil {
				return err
			}
			at.nodes[join(field, key.Value)] = key
			if err := at.check(node.Content[i+1], join(field, key.Value), depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// byPort is the one mapping whose keys are numbers.
const byPort = "spec.portLevelMtls"

func (at *positions) checkKey(key *yaml.Node, field string, seen map[string]bool) error {
	here := &Error{Line: at.line + key.Line, Column: key.Column, Field: field}
	typed := key.Tag == "!!str" || key.Tag == "!!int" && field == byPort
	switch {
	case key.Kind != yaml.ScalarNode || !typed || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0:
		here.Reason, here.Detail = "bad-key", "a key must be a plain or quoted string"
		return here
	case seen[key.Value]:
		here.Reason, here.Detail = "duplicate-key", fmt.Sprintf("%.80q is here twice", key.Value)
		return here
	}
	seen[key.Value] = true
	return nil
}

func join(field, key string) string {
	if field == "" {
		return key
	}
	return field + "." + key
}

// element is the field of a list's item.
func element(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }

// mapping returns the values of a mapping by their keys, which must be among
// known; nil takes any.
func (at *positions) mapping(node *yaml.Node, field string, known []string) (map[string]*yaml.Node, error) {
	if node.Kind != yaml.MappingNode {
		return nil, at.refuse(field, "wrong-type", "want a mapping, have %s", describe(node))
	}
	values := make(map[string]*yaml.Node, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i].Value
		if known != nil && !slices.Contains(known, key) {
			return nil, at.unknown(field, key, known)
		}
		values[key] = node.Content[i+1]
	}
	return values, nil
}

func (at *positions) unknown(field, key string, known []string) *Error {
	e := at.refuse(join(field, key), "unknown-field", "there is no field %.80q here", key)
	if near := nearest(key, known); near != "" {
		e.Detail += "; did you mean " + near + "?"
	}
	return e
}

// missing is an Error at the mapping in which field would stand.
func (at *positions) missing(field string) *Error {
	e := at.refuse(field, "missing-field", "missing")
	if parent := at.nodes[parentOf(field)]; parent != nil {
		e.Line, e.Column = at.line+parent.Line, parent.Column
	}
	return e
}

// text reads a string that must be there and not be empty, and in which all is
// to be seen: what cannot be seen can make a text look like another.
func (at *positions) text(node *yaml.Node, field string) (string, error) {
	text, err := at.lines(node, field)
	if err == nil && strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", at.refuse(field, "bad-character", "%.80q: has a character that cannot be seen", text)
	}
	return text, err
}

// lines is text of whatever characters.
func (at *positions) lines(node *yaml.Node, field string) (string, error) {
	if node == nil {
		return "", at.missing(field)
	}
	if node.Kind != yaml.ScalarNode || node.Tag != "!!str" {
		return "", at.refuse(field, "wrong-type", "want a string, have %s", describe(node))
	}
	if node.Value == "" {
		return "", at.refuse(field, "empty-value", "empty: leave the field out, or give a value")
	}
	return node.Value, nil
}

// flag reads a boolean.
func (at *positions) flag(node *yaml.Node, field string) (bool, error) {
	switch {
	case node == nil:
		return false, at.missing(field)
	case node.Kind == yaml.ScalarNode && node.Tag == "!!bool" && (node.Value == "true" || node.Value == "false"):
		return node.Value == "true", nil
	}
	return false, at.refuse(field, "wrong-type", "want true or false")
}

// limit refuses more than most.
func (at *positions) limit(field string, n, most int) error {
	if n > most {
		return at.refuse(field, "too-many", "%d, at most %d", n, most)
	}
	return nil
}
