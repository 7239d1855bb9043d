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
