package prove

import (
	"slices"
	"strings"
)

// maxBoxes is how many boxes a formula may have to be taken apart. A larger one
// is compared as it stands.
const maxBoxes = 64

// A simplifier leaves out what facts decide, each atom once.
type simplifier struct {
	*proof
	facts []literal
	truth []truth
	asked []bool
}

func (s *simplifier) simple(n *node) *node {
	switch n.op {
	case constTrue, constFalse:
		return n
	case isLiteral:
		what := s.of1(n.lit.atom())
		if what == unknown {
			return n
		}
		return constant((what == isTrue) != n.lit.negated())
	}
	changed := false
	terms := make([]*node, len(n.terms))
	for i, t := range n.terms {
		terms[i] = s.simple(t)
		changed = changed || terms[i] != t
	}
	if changed {
		if n.op == allOf {
			n = and(terms...)
		} else {
			n = or(terms...)
		}
	}
	return s.shorter(n)
}

// shorter leaves out terms of an or that lie in another of its literals, and
// literals of an and that follow from another.
func (t *table) shorter(n *node) *node {
	if n.op != allOf && n.op != oneOf {
		return n
	}
	gone := map[*node]bool{}
	for _, by := range n.terms {
		if by.op != isLiteral || gone[by] {
			continue
		}
		for _, term := range n.terms {
			if term == by || gone[term] {
				continue
			}
			if n.op == oneOf && t.lies(term, by.lit) || n.op == allOf && term.op == isLiteral && t.follows(by.lit, term.lit) {
				gone[term] = true
			}
		}
	}
	if len(gone) == 0 {
		return n
	}
	terms := slices.DeleteFunc(slices.Clone(n.terms), func(t *node) bool { return gone[t] })
	if n.op == allOf {
		return and(terms...)
	}
	return or(terms...)
}

// follows tells whether q holds wherever p does.
func (t *table) follows(p, q literal) bool {
	what := t.implies(p, q.atom())
	return what != unknown && (what == isTrue) != q.negated()
}

// lies tells whether a literal holds wherever a formula does.
func (t *table) lies(n *node, q literal) bool {
	switch n.op {
	case isLiteral:
		return t.follows(n.lit, q)
	case allOf:
		return slices.ContainsFunc(n.terms, func(term *node) bool { return term.op == isLiteral && t.follows(term.lit, q) })
	}
	return false
}

func (s *simplifier) of1(q int32) truth {
	for int(q) >= len(s.truth) {
		s.truth = append(s.truth, unknown)
		s.asked = append(s.asked, false)
	}
	if !s.asked[q] {
		s.asked[q] = true
		for _, f := range s.facts {
			if s.truth[q] = s.implies(f, q); s.truth[q] != unknown {
				break
			}
		}
	}
	return s.truth[q]
}

// align takes the groups of both sides apart into boxes, and marks what both
// have. Where the filter's groups are not those of the set, in their order, all
// is its own.
func (p *proof) align(filter, says *side) {
	for i := range filter.groups {
		filter.groups[i].entries = p.apart(filter.groups[i].entries)
	}
	for i := range says.groups {
		says.groups[i].entries = p.apart(says.groups[i].entries)
	}
	var order []outcome
	for _, part := range p.claim.parts {
		order = append(order, part.then)
	}
	var inFilter, inSet []group
	f, m := filter.groups, says.groups
	for _, then := range order {
		a, b := group{then: then}, group{then: then}
		if len(f) > 0 && f[0].then == then {
			a, f = f[0], f[1:]
		}
		if len(m) > 0 && m[0].then == then {
			b, m = m[0], m[1:]
		}
		inFilter, inSet = append(inFilter, a), append(inSet, b)
	}
	if len(f) > 0 || len(m) > 0 {
		return
	}
	filter.groups, says.groups = inFilter, inSet
	for i := range inFilter {
		p.common(inFilter[i].entries, inSet[i].entries)
	}
}

// apart makes boxes of formulas, each once.
func (p *proof) apart(entries []entry) []entry {
	seen := make(map[string]bool, len(entries))
	out := make([]entry, 0, len(entries))
	var buffer []byte
	for _, n := range p.byPeer(entries) {
		if n.size(maxBoxes) > maxBoxes {
			out = append(out, entry{when: n, size: n.leaves()})
			continue
		}
		for _, b := range p.boxes(n) {
			b, ok := p.tidy(b)
			if buffer = b.key(buffer); !ok || seen[string(buffer)] {
				continue
			}
			seen[string(buffer)] = true
			out = append(out, entry{when: b.node(), size: len(b)})
		}
	}
	return out
}

// byPeer takes what is too large for boxes apart by the alternatives of the peer.
func (p *proof) byPeer(entries []entry) []*node {
	out := make([]*node, 0, len(entries))
	for _, e := range entries {
		n := e.when
		at := -1
		if n.op == allOf && n.size(maxBoxes) > maxBoxes {
			at = slices.IndexFunc(n.terms, func(t *node) bool { return t.op == oneOf && p.of(t.first()).kind == peer })
		}
		if at < 0 {
			out = append(out, n)
			continue
		}
		rest := slices.Delete(slices.Clone(n.terms), at, at+1)
		for _, one := range n.terms[at].terms {
			if one := p.shorter(and(append(rest[:len(rest):len(rest)], one)...)); one != no {
				out = append(out, one)
			}
		}
	}
	return out
}

// common marks the entries that both lists have.
func (p *proof) common(a, b []entry) {
	where := make(map[string][]int, len(a))
	for i := range a {
		k := key(a[i].when)
		where[k] = append(where[k], i)
	}
	for j := range b {
		for _, i := range where[key(b[j].when)] {
			a[i].common, b[j].common = true, true
		}
	}
}

// key is equal for formulas that differ only in the order of terms.
func key(n *node) string {
	switch n.op {
	case isLiteral:
		return string([]byte{byte(n.lit), byte(n.lit >> 8), byte(n.lit >> 16), byte(n.lit >> 24)})
	case constTrue:
		return "T"
	case constFalse:
		return "F"
	}
	if !slices.ContainsFunc(n.terms, func(t *node) bool { return t.op != isLiteral }) && n.op == allOf {
		b := make(box, len(n.terms))
		for i, t := range n.terms {
			b[i] = t.lit
		}
		slices.Sort(b)
		return "(" + string(b.key(nil)) + ")"
	}
	terms := make([]string, len(n.terms))
	for i, t := range n.terms {
		terms[i] = key(t)
	}
	slices.Sort(terms)
	terms = slices.Compact(terms)
	if n.op == allOf {
		return "[" + strings.Join(terms, "&") + "]"
	}
	return "{" + strings.Join(terms, "|") + "}"
}

// regions checks what only one side has, where facts hold.
func (p *proof) regions(filter, says side, facts []literal) error {
	byGroup := func(s side) []index {
		out := make([]index, len(s.groups))
		for i, g := range s.groups {
			out[i] = p.index(g.entries)
		}
		return out
	}
	var inFilter, inSet []index
	region := func(n *node) error {
		if inFilter == nil {
			inFilter, inSet = byGroup(filter), byGroup(says)
		}
		so := slices.Clone(facts)
		literals := n.literals()
		if p.nowhere(facts, literals) {
			return nil
		}
		near := func(s side, x []index) side {
			out := side{last: s.last}
			for i, g := range s.groups {
				out.groups = append(out.groups, group{g.then, x[i].in(p, literals)})
			}
			return out
		}
		at := state{near(filter, inFilter), near(says, inSet), n, so}
		for _, l := range literals {
			at.so = append(at.so, l)
			if !p.possible(at.so) {
				return nil
			}
			at.filter, at.set, at.pin = p.assume(at.filter, l), p.assume(at.set, l), p.table.assume(at.pin, l)
		}
		return p.check(at)
	}
	if filter.last != says.last {
		return region(yes)
	}
	for _, s := range []side{filter, says} {
		for _, g := range s.groups {
			for _, e := range g.entries {
				if e.common {
					continue
				}
				if err := region(e.when); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// nowhere tells that literals hold of no request, where one of a regular
// expression is among them.
func (p *proof) nowhere(facts, literals []literal) bool {
	for _, l := range literals {
		if p.atoms[l.atom()].how != regex || p.of(l).kind == list {
			continue
		}
		var same []literal
		for _, other := range slices.Concat(facts, literals) {
			if p.of(other) == p.of(l) {
				same = append(same, other)
			}
		}
		if s := p.solve(p.of(l), same); !s.found && !s.gave {
			return true
		}
	}
	return false
}

// literals are those that hold wherever n does, as far as one sees.
func (n *node) literals() []literal {
	switch n.op {
	case isLiteral:
		return []literal{n.lit}
	case allOf:
		var out []literal
		for _, t := range n.terms {
			out = append(out, t.literals()...)
		}
		return out
	}
	return nil
}
