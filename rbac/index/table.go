package index

import (
	"cmp"
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
)

// A table holds the rules of policies that do one thing.
type table struct {
	seed   maphash.Seed
	rules  []rule
	found  map[uint64][]int32 // by key, the rules' places in order
	always []int32            // the rules that no key finds
	probes []probe
}

// A probe is one way in which rules are looked up.
type probe struct {
	attribute *attribute
	part      part
	folded    bool // of a path
	half      int  // of a token's principal: 0 is the issuer, 1 the subject
	bits      int  // of a network of
	six       bool // IPv6
}

// A part of a text is what is hashed of it.
type part int

const (
	unknown   part = iota // nothing: it cannot be told what the request has
	whole                 // all of it
	beginning             // up to a boundary
	end                   // from a boundary on
	network               // of an address, the first bits
)

// Texts are cut at boundaries, which are bytes that are no letters or digits, of
// which so many are looked at, within so many bytes.
const (
	maxBoundaries = 32
	maxCut        = 256
)

func isBoundary(b byte) bool {
	return !('a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b >= 0x80)
}

// longestBeginning is the longest part of s, from its beginning up to a
// boundary, that a request with more behind it is looked up by.
func longestBeginning(s string) string {
	n, longest := 0, 0
	for i := 1; i <= min(len(s), maxCut) && n < maxBoundaries; i++ {
		if isBoundary(s[i-1]) {
			n, longest = n+1, i
		}
	}
	return s[:longest]
}

func longestEnd(s string) string {
	n, longest := 0, 0
	for i := 1; i <= min(len(s), maxCut) && n < maxBoundaries; i++ {
		if isBoundary(s[len(s)-i]) {
			n, longest = n+1, i
		}
	}
	return s[len(s)-longest:]
}

// hash is a key. Two keys may be one: what is found is asked all the same.
func (t *table) hash(p *probe, text string) uint64 { return maphash.String(t.seed, text) ^ p.mix() }

func (t *table) hashAddress(p *probe, a netip.Addr) uint64 {
	bytes := a.As16()
	return maphash.Bytes(t.seed, bytes[:]) ^ p.mix()
}

func (p *probe) hashPort(port int) uint64 { return p.mix() + uint64(port) }

func (p *probe) mix() uint64 {
	n := p.attribute.number<<16 | uint64(p.part)<<12 | uint64(p.bits)<<4 | uint64(p.half)<<1
	if p.folded || p.six {
		n |= 1
	}
	return n * 0x9e3779b97f4a7c15
}

// first is the first rule that matches, or nil.
func (t *table) first(c *call) *rule {
	if len(t.rules) == 0 {
		return nil
	}
	s := search{t: t, c: c, best: math.MaxInt32}
	s.among(t.always)
	for i := range t.probes {
		s.probe(&t.probes[i])
	}
	if s.best == math.MaxInt32 {
		return nil
	}
	return &t.rules[s.best]
}

// A search is for the first rule that matches.
type search struct {
	t    *table
	c    *call
	best int32
}

func (s *search) among(places []int32) {
	for _, i := range places {
		if i >= s.best {
			return
		}
		if s.t.rules[i].matches(s.c) {
			s.best = i
			return
		}
	}
}

func (s *search) key(key uint64) { s.among(s.t.found[key]) }

// probe looks up by what the call has of an attribute.
func (s *search) probe(p *probe) {
	c, a := s.c, p.attribute
	if known := c.known(a); !known || p.part == unknown {
		if !known && p.part == unknown {
			s.key(p.mix())
		}
		return
	}
	if !c.has(a) {
		return
	}
	switch a.kind {
	case rbac.Principal:
		s.text(p, c.id)
	case rbac.Namespace, rbac.AnyNamespace:
		s.text(p, c.namespace)
	case rbac.ServiceAccount, rbac.AnyServiceAccount:
		s.text(p, c.joined)
	case rbac.SourceIP, rbac.RemoteIP, rbac.DestinationIP:
		s.address(p, plain(c.address(a.kind)))
	case rbac.DestinationPort:
		s.key(p.hashPort(int(c.Destination.Port())))
	case rbac.ServerName:
		s.text(p, c.serverName)
	case rbac.Method:
		s.text(p, c.Method)
	case rbac.Host:
		s.text(p, c.host)
	case rbac.Path:
		switch {
		case !p.folded:
			s.text(p, c.Path)
		case p.part == beginning:
			s.text(p, c.folded)
		default:
			s.text(p, c.bare)
		}
	case rbac.Header:
		s.text(p, c.Headers[a.header][0])
	case rbac.RequestPrincipal:
		s.text(p, [2]string{c.issuer, c.subject}[p.half])
	default:
		s.claim(p)
	}
}

func (s *search) claim(p *probe) {
	switch value := s.c.claimed(p.attribute).(type) {
	case string:
		s.text(p, value)
	case []any:
		for _, item := range value {
			if text, ok := item.(string); ok {
				s.text(p, text)
			}
		}
	}
}

func (s *search) address(p *probe, a netip.Addr) {
	if a.Is6() != p.six {
		return
	}
	if prefix, err := a.Prefix(p.bits); err == nil {
		s.key(s.t.hashAddress(p, prefix.Addr()))
	}
}

func (s *search) text(p *probe, text string) {
	n := 0
	switch p.part {
	case whole:
		s.key(s.t.hash(p, text))
	case beginning:
		for i := 1; i <= min(len(text), maxCut) && n < maxBoundaries; i++ {
			if isBoundary(text[i-1]) {
				n++
				s.key(s.t.hash(p, text[:i]))
			}
		}
	case end:
		for i := 1; i <= min(len(text), maxCut) && n < maxBoundaries; i++ {
			if isBoundary(text[len(text)-i]) {
				n++
				s.key(s.t.hash(p, text[len(text)-i:]))
			}
		}
	}
}

// table indexes the rules of the policies, in their order.
func (b *builder) table(policies []rbac.Policy) *table {
	t := &table{seed: maphash.MakeSeed(), found: map[uint64][]int32{}}
	for _, p := range policies {
		for i := range p.Rules {
			t.rules = append(t.rules, b.rule(p, i))
		}
	}
	count := counter{t: t, shared: map[uint64]int{}, counting: true}
	for i := range t.rules {
		count.ofRule(&t.rules[i])
	}
	count.counting = false
	probes := map[probe]bool{}
	for i := range t.rules {
		traits, ok := count.ofRule(&t.rules[i])
		if !ok {
			t.always = append(t.always, int32(i))
			continue
		}
		for _, trait := range traits.all {
			probes[trait.probe] = true
			if places := t.found[trait.key]; len(places) == 0 || places[len(places)-1] != int32(i) {
				t.found[trait.key] = append(places, int32(i))
			}
		}
	}
	for p := range probes {
		t.probes = append(t.probes, p)
	}
	slices.SortFunc(t.probes, func(p, q probe) int { return cmp.Compare(p.mix(), q.mix()) })
	return t
}

// beginningOf is the literal beginning of a template's segments, and endOf its
// literal end.
func beginningOf(segments []string) string {
	for i, s := range segments {
		if s == rbac.AnySegment || s == rbac.AnyRest {
			return "/" + strings.Join(append(slices.Clip(segments[:i]), ""), "/")
		}
	}
	return "/" + strings.Join(segments, "/")
}

func endOf(segments []string) string {
	for i, s := range slices.Backward(segments) {
		if s == rbac.AnySegment || s == rbac.AnyRest {
			return strings.Join(append([]string{""}, segments[i+1:]...), "/")
		}
	}
	return "/" + strings.Join(segments, "/")
}
