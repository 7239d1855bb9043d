package prove

import "slices"

// A node is a formula in negation normal form: a literal, or all or one of its
// terms. Nodes do not change once they are made.
type node struct {
	op    nodeOp
	lit   literal
	terms []*node
	sum   sum // of id, where it was asked for
}

type nodeOp uint8

const (
	isLiteral nodeOp = iota
	allOf
	oneOf
	constTrue
	constFalse
)

var (
	yes = &node{op: constTrue}
	no  = &node{op: constFalse}
)

func constant(b bool) *node {
	if b {
		return yes
	}
	return no
}

func and(terms ...*node) *node { return join(allOf, yes, no, terms) }
func or(terms ...*node) *node  { return join(oneOf, no, yes, terms) }

func join(op nodeOp, neutral, zero *node, terms []*node) *node {
	out := make([]*node, 0, len(terms))
	for _, t := range terms {
		switch {
		case t.op == zero.op:
			return zero
		case t.op == neutral.op:
		case t.op == op:
			out = append(out, t.terms...)
		default:
			out = append(out, t)
		}
	}
	switch len(out) {
	case 0:
		return neutral
	case 1:
		return out[0]
	}
	return &node{op: op, terms: out}
}

func (n *node) not() *node {
	switch n.op {
	case constTrue:
		return no
	case constFalse:
		return yes
	case isLiteral:
		return &node{lit: n.lit.not()}
	}
	terms := make([]*node, len(n.terms))
	for i, t := range n.terms {
		terms[i] = t.not()
	}
	if n.op == allOf {
		return or(terms...)
	}
	return and(terms...)
}

// assume is n where a literal is known to hold.
func (t *table) assume(n *node, l literal) *node {
	switch n.op {
	case constTrue, constFalse:
		return n
	case isLiteral:
		what := t.implies(l, n.lit.atom())
		if what == unknown {
			return n
		}
		return constant((what == isTrue) != n.lit.negated())
	}
	var out []*node
	for i, term := range n.terms {
		next := t.assume(term, l)
		if next == term && out == nil {
			continue
		}
		if out == nil {
			out = append(make([]*node, 0, len(n.terms)), n.terms[:i]...)
		}
		out = append(out, next)
		if n.op == allOf && next == no {
			return no
		}
		if n.op == oneOf && next == yes {
			return yes
		}
	}
	switch {
	case out == nil:
		return n
	case n.op == allOf:
		return and(out...)
	}
	return or(out...)
}

// size is how many boxes n has, at most limit+1.
func (n *node) size(limit int) int {
	switch n.op {
	case constFalse:
		return 0
	case allOf:
		product := 1
		for _, t := range n.terms {
			if product *= t.size(limit); product > limit {
				return limit + 1
			}
		}
		return product
	case oneOf:
		sum := 0
		for _, t := range n.terms {
			if sum += t.size(limit); sum > limit {
				return limit + 1
			}
		}
		return sum
	}
	return 1
}

// A box is literals that hold together, in order and each once.
type box []literal

// boxes makes the boxes of n, those that hold nowhere left out.
func (t *table) boxes(n *node) []box {
	switch n.op {
	case constFalse:
		return nil
	case constTrue:
		return []box{{}}
	case isLiteral:
		return []box{{n.lit}}
	case oneOf:
		var out []box
		for _, term := range n.terms {
			out = append(out, t.boxes(term)...)
		}
		return out
	}
	out := []box{{}}
	for _, term := range n.terms {
		var next []box
		for _, right := range t.boxes(term) {
			for _, left := range out {
				both := append(slices.Clone(left), right...)
				if both, ok := t.tidy(both); ok {
					next = append(next, both)
				}
			}
		}
		out = next
	}
	return out
}

// tidy puts a box in its form: without what follows from the rest, and false
// where it contradicts itself, as far as implies sees.
func (t *table) tidy(b box) (box, bool) {
	slices.Sort(b)
	b = slices.Compact(b)
	gone := uint64(0)
	if len(b) > 64 {
		return t.tidyLong(b)
	}
	for i, p := range b {
		if gone&(1<<i) != 0 {
			continue
		}
		for j, q := range b {
			if i == j || gone&(1<<j) != 0 {
				continue
			}
			switch what := t.implies(p, q.atom()); {
			case what == unknown:
			case (what == isTrue) == q.negated():
				return nil, false
			default:
				gone |= 1 << j
			}
		}
	}
	if gone == 0 {
		return b, true
	}
	out := b[:0:0]
	for i, p := range b {
		if gone&(1<<i) == 0 {
			out = append(out, p)
		}
	}
	return out, true
}

func (t *table) tidyLong(b box) (box, bool) {
	gone := make([]bool, len(b))
	for i, p := range b {
		for j, q := range b {
			if i == j || gone[i] || gone[j] {
				continue
			}
			switch what := t.implies(p, q.atom()); {
			case what == unknown:
			case (what == isTrue) == q.negated():
				return nil, false
			default:
				gone[j] = true
			}
		}
	}
	out := make(box, 0, len(b))
	for i, p := range b {
		if !gone[i] {
			out = append(out, p)
		}
	}
	return out, true
}

// key is equal for equal boxes.
func (b box) key(buffer []byte) []byte {
	buffer = buffer[:0]
	for _, l := range b {
		buffer = append(buffer, byte(l), byte(l>>8), byte(l>>16), byte(l>>24))
	}
	return buffer
}

func (b box) node() *node {
	terms := make([]*node, len(b))
	for i, l := range b {
		terms[i] = &node{lit: l}
	}
	return and(terms...)
}
