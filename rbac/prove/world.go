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

// shorter is n without what follows from its own literals: in an and all else is
// looked at where they hold, and in an or where they do not. Formulas that are
// written in two ways come out as one, mostly.
func (t *table) shorter(n *node) *node {
	for n.op == allOf || n.op == oneOf {
		next := t.shorten(n)
		if next == n {
			break
		}
		n = next
	}
	return n
}

func (t *table) shorten(n *node) *node {
	var terms []*node // once something has changed
	change := func(i int, to *node) {
		if terms == nil {
			terms = append(make([]*node, 0, len(n.terms)), n.terms...)
		}
		terms[i] = to
	}
	now := func(i int) *node {
		if terms == nil {
			return n.terms[i]
		}
		return terms[i]
	}
	neutral := constant(n.op == allOf)
	for i := range n.terms {
		by := now(i)
		if by.op != isLiteral {
			continue
		}
		l := by.lit
		if n.op == oneOf {
			l = l.not()
		}
		for j := range n.terms {
			term := now(j)
			if i == j || term.op == constTrue || term.op == constFalse {
				continue
			}
			if next := t.assume(term, l); next != term {
				if next.op != neutral.op && next.constant() {
					return next
				}
				change(j, next)
			} else if n.op == allOf && term.op == oneOf && t.everyLies(term, l) {
				change(i, neutral)
				break
			}
		}
	}
	switch {
	case terms == nil:
		return n
	case n.op == allOf:
		return and(terms...)
	}
	return or(terms...)
}

// everyLies tells whether a literal holds in each term of an or.
func (t *table) everyLies(n *node, q literal) bool {
	for _, term := range n.terms {
		if !t.lies(term, q) {
			return false
		}
	}
	return true
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
