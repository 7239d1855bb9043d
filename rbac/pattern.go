package rbac

import (
	"net/netip"
	"strings"
)

// Kind is how a [Pattern] compares. The zero value matches nothing.
type Kind int

const (
	Exact    Kind = iota + 1 // the whole string
	Prefix                   // its beginning: "text*"
	Suffix                   // its end: "*text"
	Present                  // anything but the empty string: "*"; of an empty header it cannot be told
	Template                 // a path by its segments: "/a/{*}/b", "/a/{**}"
	Network                  // an IP address within "192.0.2.0/24"
	Pair                     // two strings, each by a pattern of its own
)

// A Pattern matches strings byte by byte, case included. Its text is literal:
// no byte of it means anything but itself. Patterns can be compared. Make one
// with [ParseValue].
type Pattern struct {
	kind    Kind
	text    string // of a Template, as it is written
	network netip.Prefix
	// For a Pair, text is compared with the first string by first, and second
	// with the second.
	first  Kind
	second half
}

type half struct {
	kind Kind
	text string
}

// Kind says how p compares.
func (p Pattern) Kind() Kind { return p.kind }

// Text is what p compares with: never empty for Exact, Prefix and Suffix.
func (p Pattern) Text() string { return p.text }

// Network is what a pattern of that kind compares with.
func (p Pattern) Network() netip.Prefix { return p.network }

// Halves are the two patterns of a Pair.
func (p Pattern) Halves() (first, second Pattern) {
	if p.kind != Pair {
		return Pattern{}, Pattern{}
	}
	return Pattern{kind: p.first, text: p.text}, Pattern{kind: p.second.kind, text: p.second.text}
}

func pair(first, second Pattern) Pattern {
	return Pattern{kind: Pair, text: first.text, first: first.kind, second: half{second.kind, second.text}}
}

// Match tells whether s matches. A Pair matches no single string.
func (p Pattern) Match(s string) bool {
	switch p.kind {
	case Exact:
		return s == p.text
	case Prefix:
		return strings.HasPrefix(s, p.text)
	case Suffix:
		return strings.HasSuffix(s, p.text)
	case Present:
		return s != ""
	case Template:
		return matchSegments(p.Segments(), s)
	case Network:
		ip, err := netip.ParseAddr(s)
		return err == nil && p.network.Contains(ip.Unmap().WithZone(""))
	}
	return false
}

// MatchPair tells whether a Pair matches two strings.
func (p Pattern) MatchPair(first, second string) bool {
	one, two := p.Halves()
	return one.Match(first) && two.Match(second)
}

// MatchFolded tells whether p, a pattern of [Path], matches a path that
// [FoldPath] has folded, when p is folded too. A slash at the end makes no
// difference but to a Prefix and to AnyRest.
func (p Pattern) MatchFolded(folded string) bool {
	bare := strings.TrimSuffix(folded, "/")
	switch p.kind {
	case Exact:
		return bare == strings.TrimSuffix(p.foldedText(), "/")
	case Prefix:
		return strings.HasPrefix(folded, p.foldedText())
	case Suffix:
		return strings.HasSuffix(bare, strings.TrimSuffix(p.foldedText(), "/"))
	case Present:
		return true
	case Template:
		segments := p.FoldedSegments()
		if segments[len(segments)-1] == AnyRest {
			return matchSegments(segments, folded)
		}
		return matchSegments(segments, bare)
	}
	return false
}

// FoldedText is the text that MatchFolded compares with, for Exact, Prefix and
// Suffix.
func (p Pattern) FoldedText() string { return p.foldedText() }

func (p Pattern) foldedText() string {
	switch last := p.text[strings.LastIndexByte(p.text, '/')+1:]; {
	case p.kind == Suffix:
		// What stands before the end is of the same segment, or ends one.
		return strings.TrimPrefix(FoldPath("/x"+p.text), "/x")
	case p.kind == Prefix && !strings.Contains(last, ";"):
		// The last segment goes on, so that a dot at the end of "/.*" is not one
		// at the end of a segment.
		return strings.TrimSuffix(FoldPath(p.text+"x"), "x")
	}
	return FoldPath(p.text)
}

// FoldedSegments are the segments of a template that MatchFolded compares with.
func (p Pattern) FoldedSegments() []string {
	segments := p.Segments()
	for i, s := range segments {
		if s != AnySegment && s != AnyRest && s != "" {
			segments[i] = strings.Trim(FoldPath("/"+s), "/")
		}
	}
	if last := len(segments) - 1; segments[last] == "" {
		segments = segments[:last] // a slash at the end
	}
	return segments
}

// Wildcards of a template. AnySegment is one segment that is not empty;
// AnyRest is any text, with slashes or without, and the last of its template.
const (
	AnySegment = "{*}"
	AnyRest    = "{**}"
)

// Segments are what a template has between its slashes: literal texts, and the
// two wildcards. The first slash stands before the first of them.
func (p Pattern) Segments() []string {
	if p.kind != Template {
		return nil
	}
	return strings.Split(strings.TrimPrefix(p.text, "/"), "/")
}

func matchSegments(segments []string, path string) bool {
	for i, want := range segments {
		rest, rooted := strings.CutPrefix(path, "/")
		if !rooted {
			return false
		}
		if want == AnyRest {
			return i == len(segments)-1
		}
		got, _, _ := strings.Cut(rest, "/")
		if want == AnySegment && got == "" || want != AnySegment && got != want {
			return false
		}
		path = rest[len(got):]
	}
	return path == ""
}

// String is p as its author writes it.
func (p Pattern) String() string {
	switch p.kind {
	case Prefix:
		return p.text + "*"
	case Suffix:
		return "*" + p.text
	case Present:
		return "*"
	case Network:
		if p.network.IsSingleIP() {
			return p.network.Addr().String()
		}
		return p.network.String()
	case Pair:
		first, second := p.Halves()
		if first.kind == Present && second.kind == Present {
			return "*"
		}
		if first.kind == Present && second.kind == Suffix {
			return second.String() // "*end": any issuer, and such a subject
		}
		if first.kind == Prefix {
			return first.String() // "begin*": such an issuer, and any subject
		}
		return first.String() + "/" + second.String()
	}
	return p.text
}
