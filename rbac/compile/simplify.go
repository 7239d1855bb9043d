package compile

import (
	"slices"
	"strings"
)

// given is f where it is known that the literal holds, and whether it is
// another than f.
func (f formula) given(known *literal) (short formula, changed bool) {
	switch f.op {
	case opLiteral:
		if f.lit.in != known.in {
			return f, false
		}
		if holds, sure := f.lit.follows(known); sure {
			return constant(holds != f.lit.not), true
		}
	case opAnd, opOr:
		var kids []formula
		for i := range f.kids {
			kid, other := f.kids[i].given(known)
			if other && kids == nil {
				kids = slices.Clone(f.kids)
			}
			if other {
				kids[i] = kid
			}
		}
		switch {
		case kids == nil:
			return f, false
		case f.op == opAnd:
			return and(kids...), true
		}
		return or(kids...), true
	}
	return f, false
}

// follows tells whether l, without its negation, holds wherever known does, or
// nowhere where it does; sure is false where that depends.
func (l *literal) follows(known *literal) (holds, sure bool) {
	switch {
	case l.how == isLike && l.text == likeAnything:
		return true, true
	case known.how == isExactly:
		switch l.how {
		case isExactly:
			return known.text == l.text, true
		case beginsWith:
			return strings.HasPrefix(known.text, l.text), true
		case endsWith:
			return strings.HasSuffix(known.text, l.text), true
		case contains:
			return strings.Contains(known.text, l.text), true
		}
	case known.how == beginsWith:
		switch l.how {
		case isExactly:
			return false, !strings.HasPrefix(l.text, known.text)
		case beginsWith:
			if strings.HasPrefix(known.text, l.text) {
				return true, true
			}
			return false, !strings.HasPrefix(l.text, known.text)
		case contains:
			return true, strings.Contains(known.text, l.text)
		}
	}
	return false, false
}

// absorb drops from an or what another of its beginnings covers, and from an and
// what another of its negated beginnings refuses: a path and all that is below
// it are mostly named together.
func absorb(f formula) formula {
	if f.op != opAnd && f.op != opOr || len(f.kids) > maxAbsorb {
		return f
	}
	negated := f.op == opAnd
	covers := func(i, j int) bool {
		a, b := f.kids[i].lit, f.kids[j].lit
		if i == j || a == nil || b == nil || a.in != b.in || a.not != negated || b.not != negated || a.how != beginsWith {
			return false
		}
		return (b.how == isExactly || b.how == beginsWith) && strings.HasPrefix(b.text, a.text) && (*a != *b || i < j)
	}
	var kept []formula
	for j := range f.kids {
		covered := false
		for i := range f.kids {
			covered = covered || covers(i, j)
		}
		if !covered {
			kept = append(kept, f.kids[j])
		}
	}
	switch {
	case len(kept) == len(f.kids):
		return f
	case negated:
		return and(kept...)
	}
	return or(kept...)
}

// maxAbsorb bounds the square of a long list.
const maxAbsorb = 64
