package prove

import "slices"

// A world is where facts hold, and what is known there.
type world struct {
	*table
	facts []literal
	truth []truth
	asked []bool

	simplified map[*node]*node
	proved     map[sum]bool  // a rule, and what a filter says of it: the same
	rules      map[sum]*node // by their content, simplified
}

// simple is n without what facts decide.
func (w *world) simple(n *node) *node {
	out, ok := w.simplified[n]
	if !ok {
		out = w.simplify(n)
		w.simplified[n] = out
	}
	return out
}

func (w *world) simplify(n *node) *node {
	switch n.op {
	case constTrue, constFalse:
		return n
	case isLiteral:
		what := w.known(n.lit.atom())
		if what == unknown {
			return n
		}
		return constant((what == isTrue) != n.lit.negated())
	}
	changed := false
	terms := make([]*node, len(n.terms))
	for i, t := range n.terms {
		terms[i] = w.simplify(t)
		changed = changed || terms[i] != t
	}
	if changed {
		if n.op == allOf {
			n = and(terms...)
		} else {
			n = or(terms...)
		}
	}
	return w.shorter(n)
}

// known is what facts say of an atom; each atom is asked once.
func (w *world) known(q int32) truth {
	if n := int(q) + 1 - len(w.truth); n > 0 {
		w.truth = append(w.truth, make([]truth, n)...)
		w.asked = append(w.asked, make([]bool, n)...)
	}
	if !w.asked[q] {
		w.asked[q] = true
		for _, f := range w.facts {
			if w.truth[q] = w.implies(f, q); w.truth[q] != unknown {
				break
			}
		}
	}
	return w.truth[q]
}

// says is the formula of a rule.
func (w *world) says(r *rule, lowering *lowering) *node {
	n, ok := w.rules[r.sum]
	if !ok {
		n = w.simplify(r.lower(lowering))
		w.rules[r.sum] = n
	}
	return n
}

// shorter leaves out terms of an or that lie in another of its literals, and
// literals of an and that follow from another.
func (t *table) shorter(n *node) *node {
	if n.op != allOf && n.op != oneOf {
		return n
	}
	var gone []bool
	for i, by := range n.terms {
		if by.op != isLiteral || gone != nil && gone[i] {
			continue
		}
		for j, term := range n.terms {
			if i == j || gone != nil && gone[j] {
				continue
			}
			if n.op == oneOf && t.lies(term, by.lit) || n.op == allOf && term.op == isLiteral && t.follows(by.lit, term.lit) {
				if gone == nil {
					gone = make([]bool, len(n.terms))
				}
				gone[j] = true
			}
		}
	}
	if gone == nil {
		return n
	}
	terms := make([]*node, 0, len(n.terms))
	for i, t := range n.terms {
		if !gone[i] {
			terms = append(terms, t)
		}
	}
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
