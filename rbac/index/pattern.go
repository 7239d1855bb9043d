package index

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
)

// A pattern is a rbac.Pattern, taken apart once.
type pattern struct {
	kind     rbac.Kind
	text     string
	segments []string // of a template
	network  netip.Prefix
	port     int // of DestinationPort
	halves   *[2]pattern
	// family tells of a pattern of TrustDomain whether it matches our own.
	family bool
	// Of a path: as of MatchFolded.
	folded         string
	foldedSegments []string
}

// A list is patterns of which one must match. Exact ones are looked up where
// there are many.
type list struct {
	patterns []pattern
	exact    map[string]bool
	folded   map[string]bool // of a path, exact ones without a slash at the end
}

// many is how many texts are compared one by one.
const many = 8

// match is as of rbac.Pattern.
func (p *pattern) match(s string) bool {
	switch p.kind {
	case rbac.Exact:
		return s == p.text
	case rbac.Prefix:
		return strings.HasPrefix(s, p.text)
	case rbac.Suffix:
		return strings.HasSuffix(s, p.text)
	case rbac.Present:
		return s != ""
	case rbac.Template:
		return matchSegments(p.segments, s)
	case rbac.Network:
		ip, err := netip.ParseAddr(s)
		return err == nil && p.network.Contains(plain(ip))
	}
	return false
}

func (p *pattern) matchPair(first, second string) bool {
	if p.kind == rbac.Pair {
		return p.halves[0].match(first) && p.halves[1].match(second)
	}
	return p.match(first)
}

// matchFolded is as of rbac.Pattern; bare is folded without a slash at the end.
func (p *pattern) matchFolded(folded, bare string) bool {
	switch p.kind {
	case rbac.Exact:
		return bare == p.folded
	case rbac.Prefix:
		return strings.HasPrefix(folded, p.folded)
	case rbac.Suffix:
		return strings.HasSuffix(bare, p.folded)
	case rbac.Present:
		return true
	case rbac.Template:
		if p.foldedSegments[len(p.foldedSegments)-1] == rbac.AnyRest {
			return matchSegments(p.foldedSegments, folded)
		}
		return matchSegments(p.foldedSegments, bare)
	}
	return false
}

func matchSegments(segments []string, path string) bool {
	for i, want := range segments {
		if path == "" || path[0] != '/' {
			return false
		}
		if want == rbac.AnyRest {
			return i == len(segments)-1
		}
		end := 1
		for end < len(path) && path[end] != '/' {
			end++
		}
		if want == rbac.AnySegment && end == 1 || want != rbac.AnySegment && path[1:end] != want {
			return false
		}
		path = path[end:]
	}
	return path == ""
}

// present tells whether one of them is a star.
func (l *list) present() bool {
	return slices.ContainsFunc(l.patterns, func(p pattern) bool { return p.kind == rbac.Present })
}

// any tells whether one of them matches.
func (l *list) any(s string) bool {
	if l.exact[s] {
		return true
	}
	for i := range l.patterns {
		if l.patterns[i].match(s) {
			return true
		}
	}
	return false
}

func (l *list) anyPair(first, second string) bool {
	for i := range l.patterns {
		if l.patterns[i].matchPair(first, second) {
			return true
		}
	}
	return false
}

func (l *list) anyAddress(a netip.Addr) bool {
	for i := range l.patterns {
		switch p := &l.patterns[i]; p.kind {
		case rbac.Network:
			if p.network.Contains(plain(a)) {
				return true
			}
		default:
			if p.match(a.Unmap().String()) {
				return true
			}
		}
	}
	return false
}

func (l *list) anyPort(port int) bool {
	for i := range l.patterns {
		if l.patterns[i].port == port {
			return true
		}
	}
	return false
}

func (l *list) anyDomain(ours bool, name string) bool {
	for i := range l.patterns {
		if p := &l.patterns[i]; ours && p.family || !ours && p.match(name) {
			return true
		}
	}
	return false
}

// path compares as it is and folded.
func (l *list) path(c *call) answer {
	if l.exact[c.Path] {
		return yes
	}
	greatest := no
	if l.folded[c.bare] {
		greatest = maybe
	}
	for i := range l.patterns {
		p := &l.patterns[i]
		asIs, folded := p.match(c.Path), p.matchFolded(c.folded, c.bare)
		switch {
		case asIs && folded || p.kind == rbac.Present:
			return yes
		case asIs || folded:
			greatest = maybe
		}
	}
	return greatest
}

// plain is an address as networks hold it.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
