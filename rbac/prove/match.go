package prove

import (
	"slices"
	"strings"
)

// maxBoxes is how many boxes a formula may have to be taken apart. A larger one
// is compared as it stands.
const maxBoxes = 64

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
	byGroup := func(s side) []*index {
		out := make([]*index, len(s.groups))
		for i, g := range s.groups {
			out[i] = p.index(g.entries)
		}
		return out
	}
	var inFilter, inSet []*index
	region := func(n *node) error {
		if inFilter == nil {
			inFilter, inSet = byGroup(filter), byGroup(says)
		}
		so := slices.Clone(facts)
		literals := n.literals()
		if p.nowhere(facts, literals) {
			return nil
		}
		near := func(s side, x []*index) side {
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
