package prove

import "slices"

// An entry is a formula of one side or, common, of both.
type entry struct {
	when   *node
	common bool
	size   int // of its formula at first, in literals
}

// A group is entries with one outcome, in any order: where one holds, and none
// of an earlier group.
type group struct {
	then    outcome
	entries []entry
}

// A side is what a filter, or a set, does: its groups, and last.
type side struct {
	groups []group
	last   outcome
}

// A state is both sides where some literals hold.
type state struct {
	filter, set side
	// pin is what the state is about: where it does not hold, there is nothing
	// to show.
	pin *node
	so  []literal
}

// decided is the outcome, where it no longer depends on anything.
func (s *side) decided() (outcome, bool) {
	for _, g := range s.groups {
		for _, e := range g.entries {
			if e.when == yes {
				return g.then, true
			}
		}
		if len(g.entries) > 0 {
			return 0, false
		}
	}
	return s.last, true
}

// assume is the side where a literal holds. What cannot hold any more is left
// out, and what comes after something that holds. It counts what it looks at.
func (p *proof) assume(s side, l literal) side {
	out := side{last: s.last}
	for _, g := range s.groups {
		next := group{then: g.then, entries: make([]entry, 0, len(g.entries))}
		found := false
		for _, e := range g.entries {
			p.left--
			switch n := p.table.assume(e.when, l); {
			case n == yes && e.common:
				// The other side has it, too: nothing else of the group matters.
				next.entries = append(next.entries[:0], entry{yes, true, e.size})
				out.groups = append(out.groups, next)
				return out
			case n == yes:
				found = true
				next.entries = append(next.entries, entry{yes, false, e.size})
			case n != no:
				next.entries = append(next.entries, entry{n, e.common, e.size})
			}
		}
		out.groups = append(out.groups, next)
		if found && !slices.ContainsFunc(next.entries, func(e entry) bool { return e.when != yes }) {
			return out
		}
	}
	return out
}

// own counts the entries that only this side has.
func (s *side) own() int {
	n := 0
	for _, g := range s.groups {
		for _, e := range g.entries {
			if !e.common {
				n++
			}
		}
	}
	return n
}

// check shows that both sides do the same wherever the state's literals hold.
//
// What was shown without regard to the literals holds for the same state
// whichever way it is reached; only what no request has is bound to them.
func (p *proof) check(s state) (err error) {
	_, err = p.shown(s)
	return err
}

// shown is check. Everywhere tells that the literals were not needed.
func (p *proof) shown(s state) (everywhere bool, err error) {
	if p.left <= 0 {
		return false, ErrTooComplex
	}
	p.left--
	if s.pin == no {
		return true, nil
	}
	f, okFilter := s.filter.decided()
	m, okSet := s.set.decided()
	if okFilter && okSet {
		if f == m {
			return true, nil
		}
		return false, p.differ(s.so)
	}
	if s.filter.own() == 0 && s.set.own() == 0 && s.filter.last == s.set.last && len(s.filter.groups) == len(s.set.groups) {
		return true, nil // only what both have is left
	}
	id := s.id()
	if p.done[id] {
		return true, nil
	}
	everywhere = true
	l := s.pin.first()
	if s.pin == yes {
		l = s.choose(okFilter, okSet)
	}
	for _, l := range []literal{l, l.not()} {
		so := append(s.so[:len(s.so):len(s.so)], l)
		if !p.possible(so) {
			everywhere = false
			continue
		}
		all, err := p.shown(state{p.assume(s.filter, l), p.assume(s.set, l), p.table.assume(s.pin, l), so})
		if err != nil {
			return false, err
		}
		everywhere = everywhere && all
	}
	if everywhere {
		p.done[id] = true
	}
	return everywhere, nil
}

// choose is the literal to look at next: of the formula, on the side that is not
// decided, of which the largest share has been found to hold. What one side has
// mostly lies in one thing that the other has.
func (s *state) choose(okFilter, okSet bool) literal {
	var best *node
	share := 0
	look := func(of *side, ownOnly bool) {
		for _, g := range of.groups {
			for _, e := range g.entries {
				if e.when == yes || ownOnly && e.common {
					continue
				}
				if n := e.when.leaves() * 1000 / max(e.size, 1); best == nil || n < share {
					best, share = e.when, n
				}
			}
			if best != nil {
				return
			}
		}
	}
	if !okFilter {
		look(&s.filter, okSet == okFilter)
	}
	if !okSet {
		look(&s.set, okSet == okFilter)
	}
	if best == nil {
		look(&s.filter, false)
	}
	if best == nil {
		look(&s.set, false)
	}
	return best.first()
}

// leaves counts literals.
func (n *node) leaves() int {
	if n.op == isLiteral {
		return 1
	}
	count := 0
	for _, t := range n.terms {
		count += t.leaves()
	}
	return count
}

// first is the first literal of a formula; zero of a constant.
func (n *node) first() literal {
	for n.op == allOf || n.op == oneOf {
		n = n.terms[0]
	}
	return n.lit
}

// possible tells whether the newest literal contradicts an earlier one, as far
// as implies sees.
func (p *proof) possible(so []literal) bool {
	last := so[len(so)-1]
	for _, l := range so[:len(so)-1] {
		what := p.implies(l, last.atom())
		if what != unknown && (what == isTrue) == last.negated() {
			return false
		}
		what = p.implies(last, l.atom())
		if what != unknown && (what == isTrue) == l.negated() {
			return false
		}
	}
	return true
}
